package agent

import (
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// object is a pointer to an API type.
type object[T any] interface {
	*T
	metav1.Object
}

// mirror is the copy of one kind that a reflector keeps up to date. Unlike an
// informer's cache it knows exactly up to which resource version its content is
// complete, and it never takes a step back. Objects in it are never changed.
type mirror[T any, P object[T]] struct {
	kind    string          // plural, for messages
	changed chan<- struct{} // capacity 1; a token says that content or state changed

	mu       sync.Mutex
	objects  map[string]P
	complete string // everything up to here is in objects; nothing older is taken
	newest   string // the newest object or deletion seen
	synced   bool
	stale    error // why the last list was refused
}

var _ interface {
	cache.ReflectorStore
	cache.ResourceVersionUpdater
} = (*mirror[struct{ metav1.ObjectMeta }, *struct{ metav1.ObjectMeta }])(nil)

// newMirror starts empty and refuses whatever is older than floor.
func newMirror[T any, P object[T]](kind, floor string, changed chan<- struct{}) *mirror[T, P] {
	return &mirror[T, P]{kind: kind, changed: changed, complete: floor}
}

// view is a mirror's content at one moment.
type view[T any] struct {
	items []T
	// complete is the version up to which items hold everything. It moves with
	// every bookmark and is what a later list must not be older than.
	complete string
	// newest is the version of the newest object or deletion in it, at most
	// complete and proof of exactly as much; it stands still while nothing
	// changes, and whoever wrote that object has read as far as this.
	newest string
	synced bool
	stale  error
}

func (m *mirror[T, P]) view() view[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := view[T]{complete: m.complete, newest: m.newest, synced: m.synced, stale: m.stale}
	v.items = make([]T, 0, len(m.objects))
	for _, o := range m.objects {
		v.items = append(v.items, *o)
	}
	return v
}

// Replace takes a whole list. It refuses one that is older than what is known;
// the reflector then tries again, and meanwhile the content stays.
func (m *mirror[T, P]) Replace(list []any, version string) error {
	objects := make(map[string]P, len(list))
	newest := ""
	for _, item := range list {
		o, err := m.cast(item)
		if err != nil {
			return err
		}
		objects[o.GetName()] = o
		newest = newer(newest, o.GetResourceVersion())
	}
	defer m.notify()
	m.mu.Lock()
	defer m.mu.Unlock()
	before, err := older(version, m.complete)
	if err != nil {
		m.stale = fmt.Errorf("list of %s: %w", m.kind, err)
		return m.stale
	}
	if before {
		m.stale = &staleError{m.kind, version, m.complete}
		return m.stale
	}
	m.objects, m.complete, m.newest = objects, version, newer(m.newest, newest)
	m.synced, m.stale = true, nil
	return nil
}

// Add takes an object from a watch.
func (m *mirror[T, P]) Add(item any) error {
	return m.event(item, func(o P) { m.objects[o.GetName()] = o })
}

// Update takes an object from a watch.
func (m *mirror[T, P]) Update(item any) error { return m.Add(item) }

// Delete takes a deletion from a watch; its version is that of the deletion.
func (m *mirror[T, P]) Delete(item any) error {
	return m.event(item, func(o P) { delete(m.objects, o.GetName()) })
}

func (m *mirror[T, P]) event(item any, apply func(P)) error {
	o, err := m.cast(item)
	if err != nil {
		return err
	}
	defer m.notify()
	m.mu.Lock()
	defer m.mu.Unlock()
	version := o.GetResourceVersion()
	if before, err := older(version, m.complete); err != nil {
		return fmt.Errorf("event of %s %s: %w", m.kind, o.GetName(), err)
	} else if before {
		return &staleError{m.kind, version, m.complete}
	}
	apply(o)
	m.complete, m.newest = version, newer(m.newest, version)
	return nil
}

// UpdateResourceVersion takes the version of a bookmark: everything up to there
// has been seen. It wakes nobody, since no rule depends on it.
func (m *mirror[T, P]) UpdateResourceVersion(version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if before, err := older(version, m.complete); err == nil && !before && m.synced {
		m.complete = version
	}
}

// Resync does nothing: the content is complete at any time.
func (m *mirror[T, P]) Resync() error { return nil }

// cast takes ownership of an object and drops the part of it that is both
// largest and of no use here.
func (m *mirror[T, P]) cast(item any) (P, error) {
	o, ok := item.(P)
	if !ok {
		return nil, fmt.Errorf("%s: unexpected object of type %T", m.kind, item)
	}
	o.SetManagedFields(nil)
	return o, nil
}

func (m *mirror[T, P]) notify() {
	select {
	case m.changed <- struct{}{}:
	default: // a token is already waiting
	}
}
