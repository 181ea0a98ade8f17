package controllers

import (
	"context"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// podsOn is a slice of a Service, as the cache holds it.
func podsOn(t *testing.T, service string, nodes ...string) *discoveryv1.EndpointSlice {
	t.Helper()
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: service + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(8443))}},
	}
	for i, node := range nodes {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{NodeName: &node, Addresses: []string{"10.244.0." + string(rune('1'+i))}})
	}
	kept, err := WithoutAddresses(s)
	if err != nil {
		t.Fatal(err)
	}
	return kept.(*discoveryv1.EndpointSlice)
}

// A change of pods is about the policies whose number its Service carries, if it carries
// it Local, and about nobody while the same nodes have pods.
func TestASliceWakesThePoliciesItIsAbout(t *testing.T) {
	claim := func(name, policy string, carrier v1alpha1.ServiceMode, local bool) *v1alpha1.NodePortAllocation {
		return &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NodePortAllocationSpec{
			State: v1alpha1.AllocationOpen, Carrier: carrier, LocalOnly: local,
			Claim: v1alpha1.Claim{Namespace: "shop", Policy: policy, Service: "shop"},
		}}
	}
	all := []client.Object{podsOn(t, "local-nodeport", "a"), podsOn(t, "shop", "b"), podsOn(t, "cluster-nodeport", "c")}
	reader := store(t, append(all,
		claim("30000", "local", v1alpha1.ServiceCompanion, true), claim("30001", "cluster", v1alpha1.ServiceCompanion, false),
		claim("30002", "in-place", v1alpha1.ServiceInPlace, true))...).Build()
	s := Snapshot{Reader: reader}
	for service, want := range map[string]string{"local-nodeport": "local", "shop": "in-place", "cluster-nodeport": "", "other": ""} {
		got := ""
		for _, r := range s.localPolicies(context.Background(), podsOn(t, service, "a")) {
			got += r.Name
		}
		if got != want {
			t.Errorf("slices of %s wake %q, want %q", service, got, want)
		}
	}
	for policy, carrier := range map[string]v1alpha1.ServiceMode{"local": v1alpha1.ServiceCompanion, "in-place": v1alpha1.ServiceInPlace} {
		found, err := s.Endpoints(context.Background(), []v1alpha1.NodePortAllocation{*claim("30001", policy, carrier, false), *claim("30000", policy, carrier, true)})
		if err != nil || len(found) != 1 {
			t.Errorf("%s: %v, %v, want one", policy, found, err)
		}
	}
	if found, err := s.Endpoints(context.Background(), []v1alpha1.NodePortAllocation{*claim("30001", "cluster", v1alpha1.ServiceCompanion, false)}); err != nil || found != nil {
		t.Errorf("endpoints were read for nobody: %v, %v", found, err)
	}
	for _, c := range []struct {
		before, after []string
		want          bool
	}{{[]string{"a", "b"}, []string{"b", "a", "a"}, false}, {[]string{"a"}, []string{"b"}, true}, {[]string{"a"}, nil, true}} {
		if got := endpointsMoved(event.UpdateEvent{ObjectOld: podsOn(t, "shop", c.before...), ObjectNew: podsOn(t, "shop", c.after...)}); got != c.want {
			t.Errorf("from %v to %v: %v", c.before, c.after, got)
		}
	}
}
