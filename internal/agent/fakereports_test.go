package agent

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

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
