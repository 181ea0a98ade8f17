package controllers

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/internal/compile"
)

// serviceTimeout bounds one write of a Service.
const serviceTimeout = 30 * time.Second

// uncut lets a write of a Service come to its end while we are told to stop: the API
// server takes node ports before it writes, and one that is cut off in between loses them.
func uncut(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), serviceTimeout)
}

// written remembers how far this process has written each Service. One whose copy in
// the cache is older is not written again: the API server would refuse that, but it
// takes and frees node ports before it compares versions with its storage. What it has
// taken so is lost to everybody until its repair finds it, ten minutes later.
type written struct {
	mu       sync.Mutex
	versions map[types.NamespacedName]version
}

type version struct {
	resource string
	at       time.Time
}

// note takes down a Service as the API server returned it.
func (w *written) note(s *corev1.Service, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.versions == nil {
		w.versions = map[types.NamespacedName]version{}
	}
	w.versions[client.ObjectKeyFromObject(s)] = version{s.ResourceVersion, now}
}

// lags says whether the cache does not show our last write to the Service yet. After
// forgetWritten it is the past that has come back: etcd was restored.
func (w *written) lags(s *corev1.Service, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := client.ObjectKeyFromObject(s)
	last, known := w.versions[key]
	if known && !compile.AtLeast(s.ResourceVersion, last.resource) && now.Sub(last.at) < forgetWritten {
		return true
	}
	delete(w.versions, key)
	return false
}
