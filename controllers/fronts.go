package controllers

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// Fronts is what was last done about the fronts of policies; policy tells it.
type Fronts struct {
	mu    sync.Mutex
	seen  map[types.NamespacedName]compile.FrontSeen
	heard chan event.GenericEvent
}

// NewFronts returns one that knows nothing.
func NewFronts() *Fronts {
	return &Fronts{seen: map[types.NamespacedName]compile.FrontSeen{}, heard: make(chan event.GenericEvent, 1024)}
}

// Say records what was done, and wakes the policy when that is news.
func (f *Fronts) Say(policy types.NamespacedName, seen compile.FrontSeen) {
	f.mu.Lock()
	before, had := f.seen[policy]
	f.seen[policy] = seen
	f.mu.Unlock()
	same := had && before.Generation == seen.Generation && before.Note == seen.Note &&
		(before.Why == nil) == (seen.Why == nil) && (seen.Why == nil || *before.Why == *seen.Why)
	if !same {
		f.heard <- event.GenericEvent{Object: &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: policy.Namespace, Name: policy.Name}}}
	}
}

// Forget drops what is known of a policy that has no front.
func (f *Fronts) Forget(policy types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.seen, policy)
}

// Of returns what was last done, nil when nobody has looked.
func (f *Fronts) Of(policy types.NamespacedName) *compile.FrontSeen {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if seen, ok := f.seen[policy]; ok {
		return &seen
	}
	return nil
}
