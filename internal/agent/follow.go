package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// apiBackoff bounds every retry against the API server. It is short, because
// what waits behind it is a revocation; agents together stay below one request a
// second each.
func apiBackoff() *wait.Backoff {
	return &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 2 * time.Second}
}

// follow keeps the mirror in step with the API server until the context ends.
func follow(ctx context.Context, from cache.ListerWatcherWithContext, to *mirror, log *slog.Logger) {
	logger := logr.FromSlogHandler(log.Handler())
	cache.NewReflectorWithOptions(consistent(from, to.heard), traits[to.kind].example, to, cache.ReflectorOptions{
		Logger: &logger, Name: "agent", TypeDescription: to.kind.String(), Backoff: apiBackoff(),
	}).RunWithContext(klog.NewContext(ctx, logger))
}

// consistent lets a reflector list the present only. Its first list asks for
// resource version "0", which any API server may answer from a cache of any age;
// "" is a quorum read. The other ways a reflector reads are safe as they are:
// streaming lists start from "" too, and a repeated list asks for nothing older
// than what the reflector has seen.
//
// It also ends the watch before the one that begins: a reflector forgets the
// stream of a list that its store refuses, and while history is behind the marks
// there is one such every two seconds. heard is told how each request ended.
func consistent(from cache.ListerWatcherWithContext, heard func(error)) *cache.ListWatch {
	var last lastWatch
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			last.replace(nil)
			if options.ResourceVersion == "0" {
				options.ResourceVersion, options.ResourceVersionMatch = "", ""
			}
			list, err := from.ListWithContext(ctx, options)
			heard(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			last.replace(nil)
			w, err := from.WatchWithContext(ctx, options)
			heard(err)
			if err == nil {
				last.replace(w)
			}
			return w, err
		},
	}
}

// lastWatch holds the one watch of a reflector that may be open.
type lastWatch struct {
	mu sync.Mutex
	w  watch.Interface
}

func (l *lastWatch) replace(w watch.Interface) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w != nil {
		l.w.Stop() // a second Stop does nothing
	}
	l.w = w
}
