package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// fakeKernel is a datapath and a sweeper over memory. Like the real ones it
// outlives agents, and it notes each call in order.
type fakeKernel struct {
	mu      sync.Mutex
	loaded  *rule.Set // nil: absent
	calls   []string
	swept   []rule.PortRanges
	openErr error // of the next calls
	syncErr error
	haveErr error
	sweeps  error
}

func (k *fakeKernel) note(call string) func() {
	k.mu.Lock()
	k.calls = append(k.calls, call)
	return k.mu.Unlock
}

func (k *fakeKernel) open() (datapath.Datapath, string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k, "fake", k.openErr
}

func (k *fakeKernel) Sync(_ context.Context, want rule.Set) error {
	defer k.note("sync")()
	same := k.loaded != nil && k.loaded.Equal(want)
	if same {
		k.calls[len(k.calls)-1] = "confirm" // nothing is written
	}
	if k.syncErr != nil && !tookAway(k.syncErr) {
		return k.syncErr
	}
	if len(want.Judged.Intersect(rule.FailSafe)) > 0 {
		return errors.New("fake kernel: a fail-safe port is judged")
	}
	for port := range want.Ports {
		if !want.Judged.Contains(port.Number) {
			return fmt.Errorf("fake kernel: %s has a class but is not judged", port)
		}
	}
	if !same {
		k.loaded = &want
	}
	return k.syncErr
}

func (k *fakeKernel) Have(context.Context) (rule.Set, error) {
	defer k.note("have")()
	switch {
	case k.haveErr != nil:
		return rule.Set{}, k.haveErr
	case k.loaded == nil:
		return rule.Set{}, fmt.Errorf("fake kernel: no chain: %w", datapath.ErrDamaged)
	}
	// As from a real kernel: ports without sources do not read back.
	sources := rule.Set{Judged: k.loaded.Judged, Ports: map[rule.Port]rule.ClassID{}, Classes: k.loaded.Classes}
	for port, class := range k.loaded.Ports {
		if len(k.loaded.Classes[class]) > 0 {
			sources.Ports[port] = class
		}
	}
	return sources, nil
}

func (k *fakeKernel) Cleanup(context.Context) error {
	defer k.note("cleanup")()
	k.loaded = nil
	return nil
}

func (k *fakeKernel) Sweep(_ context.Context, numbers rule.PortRanges, _ rule.Set) (int, error) {
	defer k.note("sweep")()
	if k.sweeps != nil {
		return 0, k.sweeps
	}
	k.swept = append(k.swept, numbers)
	return numbers.Len(), nil
}

// set changes the fake from outside.
func (k *fakeKernel) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

// take returns the calls since the last take.
func (k *fakeKernel) take() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	calls := k.calls
	k.calls = nil
	return calls
}

func (k *fakeKernel) lastSweep() rule.PortRanges {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.swept) == 0 {
		return nil
	}
	return k.swept[len(k.swept)-1]
}

// history is the versions of the whole fake API server.
type history struct {
	mu      sync.Mutex
	version int
	down    bool // refuses every connection
}

func (h *history) now() string { return strconv.Itoa(h.version) }

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
	fakePools       = fakeKind[v1alpha1.NodePortPool, *v1alpha1.NodePortPool]
	fakeAllocations = fakeKind[v1alpha1.NodePortAllocation, *v1alpha1.NodePortAllocation]
)

func newFakePools(h *history) *fakePools {
	return &fakePools{history: h, streaming: true, objects: map[string]*v1alpha1.NodePortPool{}, list: func(items []v1alpha1.NodePortPool, version string) runtime.Object {
		return &v1alpha1.NodePortPoolList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: items}
	}}
}

func newFakeAllocations(h *history) *fakeAllocations {
	return &fakeAllocations{history: h, streaming: true, objects: map[string]*v1alpha1.NodePortAllocation{}, list: func(items []v1alpha1.NodePortAllocation, version string) runtime.Object {
		return &v1alpha1.NodePortAllocationList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: items}
	}}
}

// fakeReports is the API server's side of Reports.
type fakeReports struct {
	mu      sync.Mutex
	uid     types.UID
	stored  *v1alpha1.NodeDatapath
	writes  []v1alpha1.NodeDatapathStatus
	err     error
	version int
}

var resource = v1alpha1.GroupVersion.WithResource(nodeDatapaths).GroupResource()

func (r *fakeReports) Node(context.Context) (types.UID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uid, r.err
}

func (r *fakeReports) Read(context.Context) (*v1alpha1.NodeDatapath, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	if r.stored == nil {
		return nil, apierrors.NewNotFound(resource, "n1")
	}
	return r.stored.DeepCopy(), nil
}

func (r *fakeReports) Create(_ context.Context, d *v1alpha1.NodeDatapath) (*v1alpha1.NodeDatapath, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	if r.stored != nil {
		return nil, apierrors.NewAlreadyExists(resource, d.Name)
	}
	r.store(d, v1alpha1.NodeDatapathStatus{}) // a create ignores the status
	return r.stored.DeepCopy(), nil
}

func (r *fakeReports) WriteStatus(_ context.Context, d *v1alpha1.NodeDatapath) (*v1alpha1.NodeDatapath, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.err != nil:
		return nil, r.err
	case r.stored == nil:
		return nil, apierrors.NewNotFound(resource, d.Name)
	case r.stored.ResourceVersion != d.ResourceVersion:
		return nil, apierrors.NewConflict(resource, d.Name, errors.New("changed"))
	}
	seen := map[int32]bool{}
	for _, e := range d.Status.Exceptions {
		if seen[e.Port] || len(d.Status.Exceptions) > 64 {
			return nil, apierrors.NewBadRequest("exceptions break the schema")
		}
		seen[e.Port] = true
	}
	for _, c := range d.Status.Conditions {
		if c.LastTransitionTime.IsZero() || c.Reason == "" {
			return nil, apierrors.NewBadRequest("conditions break the schema")
		}
	}
	r.writes = append(r.writes, d.Status)
	r.store(d, d.Status)
	return r.stored.DeepCopy(), nil
}

func (r *fakeReports) store(d *v1alpha1.NodeDatapath, s v1alpha1.NodeDatapathStatus) {
	r.version++
	r.stored = d.DeepCopy()
	r.stored.ResourceVersion = strconv.Itoa(r.version)
	r.stored.Status = *s.DeepCopy()
}

func (r *fakeReports) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *fakeReports) written() []v1alpha1.NodeDatapathStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.writes)
}
