package controllers

import (
	"context"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// Fields by which the cache is indexed.
const (
	byCategory  = "spec.category"             // policies
	byPool      = "spec.poolRef.name"         // policies
	byService   = "spec.serviceRef.name"      // policies
	byPolicy    = "spec.claim.policy"         // allocations, as namespace/name
	byGateways  = "spec.gateways.set"         // Open allocations
	byClaimed   = "spec.claim.service"        // allocations of policies, as namespace/name
	byNodePort  = "spec.ports.nodePort"       // Services, every number they hold
	byLocal     = "spec.localOnly"            // allocations, the Service that carries a Local one, as namespace/name
	byEndpoints = "metadata.labels.service"   // EndpointSlices, their Service, as namespace/name
	byBorrower  = "metadata.annotations.lent" // Services, the policy that changed their fields
	bySet       = "spec.sources.addressSet"   // policies
	byEntity    = "spec.sources.entity"       // policies
	byList      = "spec.sources.prefixList"   // policies
	byHostname  = "spec.front.dns.hostname"   // policies
)

func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, index := range []struct {
		object client.Object
		field  string
		values func(client.Object) []string
	}{
		{&v1alpha1.NodePortPolicy{}, byCategory, func(o client.Object) []string {
			return []string{o.(*v1alpha1.NodePortPolicy).Spec.Category}
		}},
		{&v1alpha1.NodePortPolicy{}, byPool, func(o client.Object) []string { return poolNamed(o.(*v1alpha1.NodePortPolicy)) }},
		{&v1alpha1.NodePortPolicy{}, bySet, func(o client.Object) []string {
			var names []string
			for _, s := range o.(*v1alpha1.NodePortPolicy).Spec.Sources {
				if s.AddressSet != "" {
					names = append(names, string(s.AddressSet))
				}
			}
			return names
		}},
		{&v1alpha1.NodePortPolicy{}, byEntity, func(o client.Object) []string {
			var entities []string
			for _, s := range o.(*v1alpha1.NodePortPolicy).Spec.Sources {
				if s.Entity != "" && !slices.Contains(entities, string(s.Entity)) {
					entities = append(entities, string(s.Entity))
				}
			}
			return entities
		}},
		{&v1alpha1.NodePortPolicy{}, byList, func(o client.Object) []string { return listsOf(o.(*v1alpha1.NodePortPolicy)) }},
		{&v1alpha1.NodePortPolicy{}, byHostname, func(o client.Object) []string { return hostnameOf(o.(*v1alpha1.NodePortPolicy)) }},
		{&v1alpha1.NodePortPolicy{}, byService, func(o client.Object) []string {
			return []string{o.(*v1alpha1.NodePortPolicy).Spec.ServiceRef.Name}
		}},
		{&v1alpha1.NodePortAllocation{}, byPolicy, func(o client.Object) []string {
			return []string{policyOf(o.(*v1alpha1.NodePortAllocation)).String()}
		}},
		{&v1alpha1.NodePortAllocation{}, byGateways, func(o client.Object) []string { return gatewaysOf(o.(*v1alpha1.NodePortAllocation)) }},
		{&v1alpha1.NodePortAllocation{}, byClaimed, func(o client.Object) []string {
			claim := o.(*v1alpha1.NodePortAllocation).Spec.Claim
			if claim.Policy == "" {
				return nil
			}
			return []string{types.NamespacedName{Namespace: claim.Namespace, Name: claim.Service}.String()}
		}},
		{&v1alpha1.NodePortAllocation{}, byLocal, func(o client.Object) []string {
			if a := o.(*v1alpha1.NodePortAllocation); a.Spec.LocalOnly {
				return []string{carrierKey(a).String()}
			}
			return nil
		}},
		{&discoveryv1.EndpointSlice{}, byEndpoints, endpointsOf},
		{&corev1.Service{}, byCaptured, capturedPorts},
		{&corev1.Service{}, byBorrower, func(o client.Object) []string { return []string{compile.Borrower(o.(*corev1.Service))} }},
		{&corev1.Service{}, byNodePort, heldNumbers},
	} {
		if err := indexer.IndexField(ctx, index.object, index.field, index.values); err != nil {
			return err
		}
	}
	return nil
}

// endpointsOf is the Service whose endpoints a slice has.
func endpointsOf(o client.Object) []string {
	if name := o.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
		return []string{types.NamespacedName{Namespace: o.GetNamespace(), Name: name}.String()}
	}
	return nil
}

func heldNumbers(o client.Object) (numbers []string) {
	for n := range compile.Held(o.(*corev1.Service)) {
		numbers = append(numbers, strconv.Itoa(int(n)))
	}
	return numbers
}

// poolNamed is the pool that a policy names, if it names one.
func poolNamed(policy *v1alpha1.NodePortPolicy) []string {
	if ref := policy.Spec.PoolRef; ref != nil {
		return []string{string(ref.Name)}
	}
	return nil
}

// gatewaysOf is the GatewaySet that an Open allocation names.
func gatewaysOf(a *v1alpha1.NodePortAllocation) []string {
	if choice := compile.GatewayChoiceOf(a); choice != nil {
		return []string{string(choice.Set)}
	}
	return nil
}

// listsOf are the prefix lists that a policy names.
func listsOf(policy *v1alpha1.NodePortPolicy) (ids []string) {
	for _, s := range policy.Spec.Sources {
		if id := string(s.PrefixList); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
