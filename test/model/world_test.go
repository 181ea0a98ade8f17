package model

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

type key = types.NamespacedName

// world is everything that matters, as the API server shows it at one moment.
type world struct {
	at       time.Time
	register map[uint16]*v1alpha1.NodePortAllocation
	policies map[key]*v1alpha1.NodePortPolicy
	// pools, the oldest first: it owns what several have.
	pools    []*v1alpha1.NodePortPool
	sets     map[string]*v1alpha1.AddressSet
	services map[key]*corev1.Service
	lockdown bool
	// installation is the version of the Portreeve object.
	installation string
	reports      []v1alpha1.NodeDatapath
}

// look reads the register before the Services: who holds a number must be in the
// register, also when that was read a moment earlier.
func look(ctx context.Context) (*world, error) {
	w := &world{
		at: time.Now(), register: map[uint16]*v1alpha1.NodePortAllocation{}, policies: map[key]*v1alpha1.NodePortPolicy{},
		sets: map[string]*v1alpha1.AddressSet{}, services: map[key]*corev1.Service{},
	}
	var allocations v1alpha1.NodePortAllocationList
	var policies v1alpha1.NodePortPolicyList
	var pools v1alpha1.NodePortPoolList
	var sets v1alpha1.AddressSetList
	var services corev1.ServiceList
	var installations v1alpha1.PortreeveList
	var reports v1alpha1.NodeDatapathList
	for _, list := range []client.ObjectList{&allocations, &services, &policies, &pools, &sets, &installations, &reports} {
		if err := town.Client.List(ctx, list); err != nil {
			return nil, err
		}
	}
	for i := range allocations.Items {
		w.register[numberOf(&allocations.Items[i])] = &allocations.Items[i]
	}
	for i := range policies.Items {
		w.policies[client.ObjectKeyFromObject(&policies.Items[i])] = &policies.Items[i]
	}
	for i := range pools.Items {
		w.pools = append(w.pools, &pools.Items[i])
	}
	slices.SortFunc(w.pools, byAge)
	for i := range sets.Items {
		w.sets[sets.Items[i].Name] = &sets.Items[i]
	}
	for i := range services.Items {
		w.services[client.ObjectKeyFromObject(&services.Items[i])] = &services.Items[i]
	}
	if len(installations.Items) != 1 {
		return nil, errors.New("there is not one Portreeve object")
	}
	w.lockdown, w.installation = installations.Items[0].Spec.Lockdown, installations.Items[0].ResourceVersion
	w.reports = reports.Items
	return w, w.findLost(ctx)
}

// with is the world with an object as it was just written.
func (w *world) with(o client.Object) *world {
	next := w.without(o)
	switch o := o.DeepCopyObject().(type) {
	case *v1alpha1.NodePortPolicy:
		next.policies[client.ObjectKeyFromObject(o)] = o
	case *v1alpha1.NodePortPool:
		next.pools = append(next.pools, o)
		slices.SortFunc(next.pools, byAge)
	case *v1alpha1.AddressSet:
		next.sets[o.Name] = o
	case *v1alpha1.NodePortAllocation:
		next.register[numberOf(o)] = o
	case *corev1.Service:
		next.services[client.ObjectKeyFromObject(o)] = o
	case *v1alpha1.Portreeve:
		next.lockdown = o.Spec.Lockdown
	}
	return next
}

// without is the world without an object that was just deleted.
func (w *world) without(o client.Object) *world {
	next := *w
	next.at = time.Now()
	next.policies, next.sets, next.services, next.register = maps.Clone(w.policies), maps.Clone(w.sets), maps.Clone(w.services), maps.Clone(w.register)
	next.pools = slices.Clone(w.pools)
	switch o := o.(type) {
	case *v1alpha1.NodePortPolicy:
		delete(next.policies, client.ObjectKeyFromObject(o))
	case *v1alpha1.NodePortPool:
		next.pools = slices.DeleteFunc(next.pools, func(p *v1alpha1.NodePortPool) bool { return p.Name == o.Name })
	case *v1alpha1.AddressSet:
		delete(next.sets, o.Name)
	case *v1alpha1.NodePortAllocation:
		delete(next.register, numberOf(o))
	case *corev1.Service:
		delete(next.services, client.ObjectKeyFromObject(o))
	}
	return &next
}

func byAge(a, b *v1alpha1.NodePortPool) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

func numberOf(a *v1alpha1.NodePortAllocation) uint16 {
	n, _ := strconv.ParseUint(a.Name, 10, 16) // the API server takes no other name
	return uint16(n)
}

// policyOf is the policy that an allocation is for; without a name if there is none.
func policyOf(a *v1alpha1.NodePortAllocation) key {
	return key{Namespace: a.Spec.Claim.Namespace, Name: a.Spec.Claim.Policy}
}

func serviceOf(a *v1alpha1.NodePortAllocation) key {
	return key{Namespace: a.Spec.Claim.Namespace, Name: a.Spec.Claim.Service}
}

// inPlace says whether the claim's own Service carries the number.
func inPlace(a *v1alpha1.NodePortAllocation) bool {
	return a.Spec.Carrier == v1alpha1.ServiceInPlace
}

// carrierOf is the Service that must have the number.
func carrierOf(a *v1alpha1.NodePortAllocation) key {
	if a.Spec.Claim.Policy == "" || inPlace(a) {
		return serviceOf(a)
	}
	return key{Namespace: a.Spec.Claim.Namespace, Name: a.Spec.Claim.Policy + v1alpha1.CompanionSuffix}
}

// numbersOf are the numbers that a Service has in the API server.
func numbersOf(s *corev1.Service) []uint16 {
	var out []uint16
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, uint16(p.NodePort))
		}
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 {
		out = append(out, uint16(n))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func isHold(s *corev1.Service) bool {
	return s.Namespace == system && s.Labels[v1alpha1.LabelHold] == "true"
}

// holder is the Service that has the number and is no hold of ours, nil if none.
func (w *world) holder(n uint16) *corev1.Service {
	if s := w.anyHolder(n); s != nil && !isHold(s) {
		return s
	}
	return nil
}

func (w *world) anyHolder(n uint16) *corev1.Service {
	for _, s := range w.services {
		if slices.Contains(numbersOf(s), n) {
			return s
		}
	}
	return nil
}

func (w *world) pool(name string) *v1alpha1.NodePortPool {
	for _, p := range w.pools {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// openFor are the policy's Open numbers, in order.
func (w *world) openFor(policy key) []uint16 {
	var out []uint16
	for n, a := range w.register {
		if a.Spec.State == v1alpha1.AllocationOpen && policyOf(a) == policy {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// reaches says whether a node's mark has come as far as an object.
func reaches(mark, version string) bool {
	order, err := resourceversion.CompareResourceVersion(mark, version)
	return err == nil && order >= 0
}
