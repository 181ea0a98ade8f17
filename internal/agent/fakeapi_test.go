package agent

import (
	"context"
	"strconv"
	"sync"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// history is the versions of the whole fake API server.
type history struct {
	mu      sync.Mutex
	version int
	down    bool // refuses every connection
}

func (h *history) now() string { return strconv.Itoa(h.version) }

// object is a pointer to an API type.
type object[T any] interface {
	*T
	metav1.Object
}

// fakeKind is one kind on a fake API server: quorum lists, streaming lists,
// watches and bookmarks. A list with resource version "0" gets a past.
type fakeKind[T any, P object[T]] struct {
	*history
	list      func(items []T, version string) runtime.Object
	streaming bool // whether streaming lists are served
	objects   map[string]P
	past      runtime.Object // what a list with version "0" shows
	watchers  []*fakeWatch
	lists     []string // resource versions asked for
	refusal   error    // of every request, nil for none
}

func newFakeKind[T any, P object[T]](h *history, list func(items []T, version string) runtime.Object) *fakeKind[T, P] {
	return &fakeKind[T, P]{history: h, streaming: true, objects: map[string]P{}, list: list}
}

// fake is a fakeKind of any type.
type fake interface {
	cache.ListerWatcherWithContext
	setHistory(h *history)
	refuse(err error)
	tick()
}

func (k *fakeKind[T, P]) setHistory(h *history) { k.history = h }

// refuse lets every request fail, and ends all watches.
func (k *fakeKind[T, P]) refuse(err error) {
	k.cut()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refusal = err
}

type fakeWatch struct {
	mu      sync.Mutex
	stopped bool
	events  chan watch.Event
}

func (w *fakeWatch) ResultChan() <-chan watch.Event { return w.events }

func (w *fakeWatch) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.stopped = true
		close(w.events)
	}
}

func (w *fakeWatch) send(e watch.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.events <- e
	}
}

var errDown = &syscallError{syscall.ECONNREFUSED}

type syscallError struct{ syscall.Errno }

func (e *syscallError) Unwrap() error { return e.Errno }

func (k *fakeKind[T, P]) ListWithContext(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down {
		return nil, errDown
	}
	if k.refusal != nil {
		return nil, k.refusal
	}
	k.lists = append(k.lists, o.ResourceVersion)
	if o.ResourceVersion == "0" && k.past != nil {
		return k.past, nil
	}
	if asked, _ := strconv.Atoi(o.ResourceVersion); asked > k.version {
		return nil, apierrors.NewTimeoutError("Too large resource version", 1)
	}
	var items []T
	for _, o := range k.objects {
		items = append(items, *o)
	}
	return k.list(items, k.now()), nil
}

func (k *fakeKind[T, P]) WatchWithContext(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down {
		return nil, errDown
	}
	if k.refusal != nil {
		return nil, k.refusal
	}
	w := &fakeWatch{events: make(chan watch.Event, 1000)}
	if o.SendInitialEvents != nil {
		if !k.streaming {
			return nil, apierrors.NewBadRequest("no streaming lists here")
		}
		for _, o := range k.objects {
			w.events <- watch.Event{Type: watch.Added, Object: clone(o)}
		}
		end := k.bookmark()
		end.Object.(metav1.Object).SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		w.events <- end
	} else if o.ResourceVersion != k.now() {
		return nil, apierrors.NewResourceExpired("gone") // forces a list
	}
	k.watchers = append(k.watchers, w)
	return w, nil
}

func clone[T any, P object[T]](o P) runtime.Object {
	return any(o).(runtime.Object).DeepCopyObject()
}

func (k *fakeKind[T, P]) bookmark() watch.Event {
	var o P = new(T)
	o.SetResourceVersion(k.now())
	return watch.Event{Type: watch.Bookmark, Object: any(o).(runtime.Object)}
}

func (k *fakeKind[T, P]) send(e watch.Event) {
	for _, w := range k.watchers {
		w.send(e)
	}
}

// put creates or changes an object and returns its version.
func (k *fakeKind[T, P]) put(o T) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version++
	p := P(&o)
	p.SetResourceVersion(k.now())
	kind := watch.Modified
	if k.objects[p.GetName()] == nil {
		kind = watch.Added
	}
	k.objects[p.GetName()] = p
	k.send(watch.Event{Type: kind, Object: clone(p)})
	return k.now()
}

func (k *fakeKind[T, P]) remove(names ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		k.version++
		gone := clone(k.objects[name])
		gone.(metav1.Object).SetResourceVersion(k.now())
		delete(k.objects, name)
		k.send(watch.Event{Type: watch.Deleted, Object: gone})
	}
}

// tick moves the version on without a change and sends a bookmark.
func (k *fakeKind[T, P]) tick() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version++
	k.send(k.bookmark())
}

// watching counts the watches that are open.
func (k *fakeKind[T, P]) watching() (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.watchers {
		w.mu.Lock()
		if !w.stopped {
			n++
		}
		w.mu.Unlock()
	}
	return n
}

// cut ends all watches.
func (k *fakeKind[T, P]) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.watchers {
		w.Stop()
	}
	k.watchers = nil
}

// restore makes the server answer with another version from now on.
func (h *history) restore(version int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.version = version
}

func (h *history) setDown(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

type (
	fakePools        = fakeKind[v1alpha1.NodePortPool, *v1alpha1.NodePortPool]
	fakeAllocations  = fakeKind[v1alpha1.NodePortAllocation, *v1alpha1.NodePortAllocation]
	fakeSets         = fakeKind[v1alpha1.AddressSet, *v1alpha1.AddressSet]
	fakeGateways     = fakeKind[v1alpha1.GatewaySet, *v1alpha1.GatewaySet]
	fakeInstallation = fakeKind[v1alpha1.Portreeve, *v1alpha1.Portreeve]
	fakeNode         = fakeKind[metav1.PartialObjectMetadata, *metav1.PartialObjectMetadata]
)

func newFakePools(h *history) *fakePools {
	return newFakeKind(h, func(items []v1alpha1.NodePortPool, version string) runtime.Object {
		return &v1alpha1.NodePortPoolList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: items}
	})
}

func newFakeAllocations(h *history) *fakeAllocations {
	return newFakeKind(h, func(items []v1alpha1.NodePortAllocation, version string) runtime.Object {
		return &v1alpha1.NodePortAllocationList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: items}
	})
}

func newFakeSets(h *history) *fakeSets {
	return newFakeKind(h, func(items []v1alpha1.AddressSet, version string) runtime.Object {
		return &v1alpha1.AddressSetList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: items}
	})
}

func newFakeGateways(h *history) *fakeGateways {
	return newFakeKind(h, func(items []v1alpha1.GatewaySet, version string) runtime.Object {
		return &v1alpha1.GatewaySetList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: items}
	})
}

func newFakeInstallation(h *history) *fakeInstallation {
	return newFakeKind(h, func(items []v1alpha1.Portreeve, version string) runtime.Object {
		return &v1alpha1.PortreeveList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: items}
	})
}

func newFakeNode(h *history) *fakeNode {
	return newFakeKind(h, func(items []metav1.PartialObjectMetadata, version string) runtime.Object {
		return &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: items}
	})
}
