package agent

import (
	"encoding/binary"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// patience is how long the API server may deny a kind before it is said aloud:
// CRDs and rights that are installed together with agents take a moment.
const patience = 10 * time.Second

// mirror is the copy of one kind that a reflector keeps up to date. Unlike an
// informer's cache it knows exactly up to which resource version its content is
// complete, and it never takes a step back. Objects in it are never changed.
type mirror struct {
	kind    kind
	changed chan<- struct{} // capacity 1; a token says that content or state changed
	shared  lists           // of its reflector

	mu       sync.Mutex
	objects  compile.Objects
	complete string // everything up to here is in objects; nothing older is taken
	newest   string // the newest object or deletion seen
	synced   bool
	stale    error // why the last list was refused
	denied   error // why the API server does not show the kind
	since    time.Time
}

var _ interface {
	cache.TransformingStore
	cache.ResourceVersionUpdater
} = (*mirror)(nil)

// newMirror starts empty and refuses whatever is older than floor.
func newMirror(k kind, floor string, changed chan<- struct{}) *mirror {
	return &mirror{kind: k, changed: changed, shared: lists{}, complete: floor}
}

// view is a mirror's content at one moment.
type view struct {
	items compile.Objects
	// complete is the version up to which items hold everything. It moves with
	// every bookmark and is what a later list must not be older than.
	complete string
	// newest is the version of the newest object or deletion in it, at most
	// complete and proof of exactly as much; it stands still while nothing
	// changes, and whoever wrote that object has read as far as this.
	newest string
	synced bool
	stale  error
	denied error // for longer than patience
}

func (m *mirror) view() view {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := view{items: m.objects, complete: m.complete, newest: m.newest, synced: m.synced, stale: m.stale}
	if m.denied != nil && time.Since(m.since) >= patience {
		v.denied = m.denied
	}
	return v
}

// Replace takes a whole list. It refuses one that is older than what is known;
// the reflector then tries again, and meanwhile the content stays.
func (m *mirror) Replace(list []any, version string) error {
	objects := make([]metav1.Object, len(list))
	newest := ""
	for i, item := range list {
		o, err := m.cast(item)
		if err != nil {
			return err
		}
		objects[i] = o
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
	m.objects, m.complete, m.newest = compile.ObjectsOf(objects...), version, newer(m.newest, newest)
	m.synced, m.stale = true, nil
	return nil
}

// Add takes an object from a watch.
func (m *mirror) Add(item any) error { return m.event(item, false) }

// Update takes an object from a watch.
func (m *mirror) Update(item any) error { return m.event(item, false) }

// Delete takes a deletion from a watch; its version is that of the deletion.
func (m *mirror) Delete(item any) error { return m.event(item, true) }

func (m *mirror) event(item any, deleted bool) error {
	o, err := m.cast(item)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := compile.Name(o.GetName())
	version, before := o.GetResourceVersion(), m.objects.Get(name)
	if past, err := older(version, m.complete); err != nil {
		return fmt.Errorf("event of %s %s: %w", m.kind, o.GetName(), err)
	} else if past {
		return &staleError{m.kind, version, m.complete}
	}
	m.complete, m.newest = version, newer(m.newest, version)
	if deleted {
		m.objects = m.objects.With(name, nil)
	} else {
		m.objects = m.objects.With(name, o)
	}
	if idle := traits[m.kind].labelsOnly && !deleted && before != nil &&
		maps.Equal(before.GetLabels(), o.GetLabels()) && maps.Equal(before.GetAnnotations(), o.GetAnnotations()); !idle {
		m.notify()
	}
	return nil
}

// heard takes what became of a request to the API server. An outage is no
// refusal: it ends by itself.
func (m *mirror) heard(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.denied = nil
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
		if m.denied == nil {
			m.since = time.Now()
		}
		m.denied = fmt.Errorf("the API server does not let this node read %s: %w; install the CRDs and the RBAC of the agent's version", m.kind, err)
	}
}

// UpdateResourceVersion takes the version of a bookmark: everything up to there
// has been seen. It wakes nobody, since no rule depends on it.
func (m *mirror) UpdateResourceVersion(version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if before, err := older(version, m.complete); err == nil && !before && m.synced {
		m.complete = version
	}
}

// Resync does nothing: the content is complete at any time.
func (m *mirror) Resync() error { return nil }

// Transformer has a streaming list drop what is of no use as it comes, and not when all
// of it has been read.
func (m *mirror) Transformer() cache.TransformFunc {
	return func(item any) (any, error) { return m.cast(item) }
}

// cast takes ownership of an object and drops the parts of it that are of no use here,
// which are half of it: at ten thousand ports that counts. It is called by the mirror's
// reflector only.
func (m *mirror) cast(item any) (metav1.Object, error) {
	if reflect.TypeOf(item) != reflect.TypeOf(traits[m.kind].example) {
		return nil, fmt.Errorf("%s: unexpected object of type %T", m.kind, item)
	}
	o := item.(metav1.Object)
	o.SetManagedFields(nil)
	o.SetAnnotations(m.kind.annotations(o))
	if !traits[m.kind].labelled {
		o.SetLabels(nil)
	}
	if a, is := o.(*v1alpha1.NodePortAllocation); is {
		for i := range a.Spec.Ports {
			a.Spec.Ports[i].Sources = m.shared.of(a.Spec.Ports[i].Sources)
		}
	}
	return o, nil
}

// annotations are those of an object that matter.
func (k kind) annotations(o metav1.Object) map[string]string {
	if value, there := o.GetAnnotations()[traits[k].annotation]; there {
		return map[string]string{traits[k].annotation: value}
	}
	return nil
}

// lists are source lists by their content: ten thousand ports rarely have more than a
// few hundred.
type lists map[string][]v1alpha1.CIDR

// mostLists is when they are forgotten, as nobody says which are still in use.
const mostLists = 4096

// of returns the list, or an equal one that is known.
func (l lists) of(list []v1alpha1.CIDR) []v1alpha1.CIDR {
	var key []byte
	for _, c := range list {
		key = append(binary.AppendUvarint(key, uint64(len(c))), c...)
	}
	if known, ok := l[string(key)]; ok {
		return known
	}
	if len(l) >= mostLists {
		clear(l)
	}
	l[string(key)] = list
	return list
}

func (m *mirror) notify() {
	select {
	case m.changed <- struct{}{}:
	default: // a token is already waiting
	}
}
