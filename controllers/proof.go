package controllers

import (
	"context"
	"sync"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// Proof judges marks by how far allocations, AddressSets and GatewaySets have been read. Read it
// before the allocations it is to judge.
func (s Snapshot) Proof(ctx context.Context) (compile.Proof, error) {
	var reports v1alpha1.NodeDatapathList
	if err := s.List(ctx, &reports, readOnly); err != nil {
		return compile.Proof{}, err
	}
	listed, err := s.listed(ctx, s.Listed, &v1alpha1.NodePortAllocation{}, &v1alpha1.NodePortAllocationList{}, reports.Items,
		func(m v1alpha1.Marks) string { return m.Allocations })
	if err != nil {
		return compile.Proof{}, err
	}
	sets, err := s.listed(ctx, s.ListedSets, &v1alpha1.AddressSet{}, &v1alpha1.AddressSetList{}, reports.Items,
		func(m v1alpha1.Marks) string { return m.AddressSets })
	if err != nil {
		return compile.Proof{}, err
	}
	gateways, err := s.listed(ctx, s.ListedGateways, &v1alpha1.GatewaySet{}, &v1alpha1.GatewaySetList{}, reports.Items,
		func(m v1alpha1.Marks) string { return m.GatewaySets })
	if err != nil {
		return compile.Proof{}, err
	}
	proof := compile.Proof{Listed: listed, ListedSets: sets, ListedGateways: gateways, Gateways: compile.GatewaySets{}}
	var chosen v1alpha1.GatewaySetList
	if err := s.List(ctx, &chosen, readOnly); err != nil {
		return compile.Proof{}, err
	}
	for i := range chosen.Items {
		proof.Gateways[v1alpha1.ObjectName(chosen.Items[i].Name)] = &chosen.Items[i]
	}
	installation, err := s.Installation(ctx)
	if installation != nil {
		proof.Installation = installation.ResourceVersion
	}
	return proof, err
}

// listed returns the resource version up to which a kind has been read.
//
// An informer that hears nothing stands still while an agent that has just
// started has listed something newer; then the API server itself is asked how
// far it is, so that such marks neither count unseen nor wait for a bookmark.
func (s Snapshot) listed(ctx context.Context, known *Listed, kind client.Object, list client.ObjectList, reports []v1alpha1.NodeDatapath, mark func(v1alpha1.Marks) string) (string, error) {
	informer, err := s.Cache.GetInformer(ctx, kind)
	if err != nil {
		return "", err
	}
	if shared, ok := informer.(toolscache.SharedIndexInformer); ok {
		known.raise(shared.LastSyncResourceVersion())
	}
	for i := range reports {
		if !known.reaches(mark(reports[i].Status.Marks)) {
			if err := s.Live.List(ctx, list, client.Limit(1)); err != nil {
				return "", err
			}
			known.raise(list.GetResourceVersion())
			break
		}
	}
	return known.upTo(), nil
}

// Listed is the highest resource version of one kind that this process has read.
type Listed struct {
	mu sync.Mutex
	rv string
}

func (l *Listed) raise(rv string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rv != "" && (l.rv == "" || !compile.AtLeast(l.rv, rv)) {
		l.rv = rv
	}
}

func (l *Listed) reaches(rv string) bool { return rv == "" || compile.AtLeast(l.upTo(), rv) }

func (l *Listed) upTo() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rv
}
