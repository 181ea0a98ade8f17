package compile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// carried is an allocation in place, spelled "30004 Open https/443".
func carried(text string, changes ...func(*v1alpha1.NodePortAllocation)) v1alpha1.NodePortAllocation {
	var number, state, name string
	port := v1alpha1.ClaimedPort{Protocol: "TCP"}
	if _, err := fmt.Sscanf(strings.ReplaceAll(text, "/", " "), "%s %s %s %d", &number, &state, &name, &port.Port); err != nil {
		panic(err)
	}
	port.Name = name
	a := *version(number, "1")
	a.Spec = v1alpha1.NodePortAllocationSpec{
		State: v1alpha1.AllocationState(state), Carrier: v1alpha1.ServiceInPlace, Pool: "web", Protocols: []v1alpha1.Protocol{"TCP"},
		Ports: []v1alpha1.ClaimedPort{port}, Claim: v1alpha1.Claim{Namespace: "shop", Policy: "shop", Service: "shop"},
	}
	for _, change := range changes {
		change(&a)
	}
	return a
}

func byPolicy(a *v1alpha1.NodePortAllocation)     { a.Spec.Carrier = v1alpha1.ServiceCompanion }
func ofTheService(a *v1alpha1.NodePortAllocation) { a.Spec.Adopted = true }

func heldSince(at time.Time) func(*v1alpha1.NodePortAllocation) {
	return func(a *v1alpha1.NodePortAllocation) { a.Spec.Since = &metav1.MicroTime{Time: at} }
}

// serving is a Service, its ports spelled "https/443/30004" (0: no node port).
func serving(kind corev1.ServiceType, ports ...string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}, Spec: corev1.ServiceSpec{Type: kind, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster}}
	for _, text := range ports {
		var p corev1.ServicePort
		if _, err := fmt.Sscanf(strings.ReplaceAll(text, "/", " "), "%s %d %d", &p.Name, &p.Port, &p.NodePort); err != nil {
			panic(err)
		}
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
	return s
}

func TestInPlace(t *testing.T) {
	const node, cluster, balancer = corev1.ServiceTypeNodePort, corev1.ServiceTypeClusterIP, corev1.ServiceTypeLoadBalancer
	for _, c := range []struct {
		name string
		own  []v1alpha1.NodePortAllocation
		have *corev1.Service
		want string
	}{
		{"a ClusterIP Service gets its number", []v1alpha1.NodePortAllocation{carried("30004 Open https/443")}, serving(cluster, "https/443/0"), "service shop NodePort https/TCP=30004"},
		{"one port has no number yet", []v1alpha1.NodePortAllocation{carried("30004 Open https/443")}, serving(cluster, "https/443/0", "http/80/0"), "service shop ClusterIP"},
		{"every port has a number", []v1alpha1.NodePortAllocation{carried("30004 Open https/443"), carried("30005 Open http/80")}, serving(cluster, "https/443/0", "http/80/0"), "service shop NodePort https/TCP=30004 http/TCP=30005"},
		{"the port is known by its number, not its name", []v1alpha1.NodePortAllocation{carried("30004 Open web/443")}, serving(cluster, "https/443/0"), "service shop NodePort https/TCP=30004"},
		{"a port of another number is another", []v1alpha1.NodePortAllocation{carried("30004 Open https/8443")}, serving(cluster, "https/443/0"), "service shop ClusterIP"},
		{"a port is moved", []v1alpha1.NodePortAllocation{carried("30004 Open https/443")}, serving(node, "https/443/31999"), "service shop NodePort https/TCP=30004"},
		{"what nobody decides stays", []v1alpha1.NodePortAllocation{carried("30004 Open https/443")}, serving(node, "https/443/30004", "http/80/31998"), "service shop NodePort https/TCP=30004 http/TCP=31998"},
		{"a given number is taken", []v1alpha1.NodePortAllocation{carried("30004 Closed https/443")}, serving(node, "https/443/30004"), "service shop ClusterIP"},
		{"an adopted number stays", []v1alpha1.NodePortAllocation{carried("30004 Closed https/443", ofTheService)}, serving(node, "https/443/30004"), "service shop NodePort https/TCP=30004"},
		{"a closed number that the Service does not have", []v1alpha1.NodePortAllocation{carried("30004 Closed https/443")}, serving(node, "https/443/31999"), "service shop NodePort https/TCP=31999"},
		{"a companion's number is none of its own", []v1alpha1.NodePortAllocation{carried("30004 Open https/443", byPolicy), carried("30005 Closed https/443", byPolicy)}, serving(node, "https/443/30005"), "service shop NodePort https/TCP=30005"},
		{"a load balancer stays one", []v1alpha1.NodePortAllocation{carried("30004 Open https/443")}, serving(balancer, "https/443/31999"), "service shop LoadBalancer https/TCP=30004"},
		{"a load balancer without its number stays one", []v1alpha1.NodePortAllocation{carried("30004 Closed https/443")}, serving(balancer, "https/443/30004"), "service shop LoadBalancer"},
		{"nothing at all", nil, serving(node, "https/443/31999"), "service shop NodePort https/TCP=31999"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.have.DeepCopy()
			got := InPlace(c.own, c.have)
			if describeService(got) != c.want {
				t.Errorf("%s, want %s", describeService(got), c.want)
			}
			if got.Spec.Type == cluster && before.Spec.Type != cluster && got.Spec.ExternalTrafficPolicy != "" {
				t.Errorf("a ClusterIP Service with externalTrafficPolicy %s", got.Spec.ExternalTrafficPolicy)
			}
			if !equality.Semantic.DeepEqual(c.have, before) {
				t.Error("the input was changed")
			}
			if again := InPlace(c.own, got); !equality.Semantic.DeepEqual(again, got) {
				t.Errorf("not settled: %s, then %s", describeService(got), describeService(again))
			}
		})
	}
}

// Two numbers for one port, while a pin moves: the one that has it keeps it, in
// whatever order they are read.
func TestInPlaceInAnyOrder(t *testing.T) {
	own := []v1alpha1.NodePortAllocation{
		carried("30004 Open https/443", heldSince(clock)), carried("30007 Open https/443", heldSince(clock.Add(-time.Hour))), carried("30002 Closed https/443"), carried("30001 Open http/80"),
	}
	own[2].Spec.ClosedAt = &metav1.MicroTime{Time: clock}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		random.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
		if got := describeService(InPlace(own, serving(corev1.ServiceTypeNodePort, "https/443/30007", "http/80/30001"))); got != "service shop NodePort https/TCP=30007 http/TCP=30001" {
			t.Fatal(got)
		}
	}
}

// Whatever the allocations are: the API server takes the Service, and is left no
// number to choose.
func TestInPlaceLeavesNoNumberToChance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		own := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) v1alpha1.NodePortAllocation {
			state := rapid.SampledFrom([]string{"Open", "Closed"}).Draw(t, "state")
			a := carried(fmt.Sprintf("%d %s x/%d", rapid.IntRange(30000, 30003).Draw(t, "number"), state, rapid.IntRange(80, 82).Draw(t, "port")))
			a.Spec.Adopted = rapid.Bool().Draw(t, "adopted")
			return a
		}), 0, 4, func(a v1alpha1.NodePortAllocation) string { return a.Name }).Draw(t, "own")
		var ports []string
		for _, p := range rapid.SliceOfNDistinct(rapid.IntRange(80, 82), 1, 3, rapid.ID).Draw(t, "ports") {
			ports = append(ports, fmt.Sprintf("p%d/%d/0", p, p))
		}
		got := InPlace(own, serving(corev1.ServiceTypeClusterIP, ports...))
		held := len(Held(got))
		switch got.Spec.Type {
		case corev1.ServiceTypeClusterIP:
			if held > 0 {
				t.Fatal(describeService(got))
			}
		case corev1.ServiceTypeNodePort:
			if slices.ContainsFunc(got.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == 0 }) {
				t.Fatal(describeService(got))
			}
		}
	})
}

func TestElder(t *testing.T) {
	policy := func(name string, days int, changes ...func(*v1alpha1.NodePortPolicy)) v1alpha1.NodePortPolicy {
		p := v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(clock.AddDate(0, 0, -days))}}
		p.Spec.Service, p.Spec.ServiceRef.Name = v1alpha1.ServiceInPlace, "shop"
		for _, change := range changes {
			change(&p)
		}
		return p
	}
	going := func(p *v1alpha1.NodePortPolicy) { p.DeletionTimestamp = &metav1.Time{Time: clock} }
	plan := func(p *v1alpha1.NodePortPolicy) { p.Spec.Mode = v1alpha1.ModePlan }
	companion := func(p *v1alpha1.NodePortPolicy) { p.Spec.Service = v1alpha1.ServiceCompanion }
	elsewhere := func(p *v1alpha1.NodePortPolicy) { p.Namespace = "till" }
	other := func(p *v1alpha1.NodePortPolicy) { p.Spec.ServiceRef.Name = "other" }
	for _, c := range []struct {
		name   string
		others []v1alpha1.NodePortPolicy
		want   string
	}{
		{"alone", []v1alpha1.NodePortPolicy{policy("m", 5)}, ""},
		{"a younger one", []v1alpha1.NodePortPolicy{policy("a", 4)}, ""},
		{"an older one", []v1alpha1.NodePortPolicy{policy("z", 6)}, "z"},
		{"the oldest of several", []v1alpha1.NodePortPolicy{policy("z", 6), policy("y", 8), policy("x", 7)}, "y"},
		{"as old, by name", []v1alpha1.NodePortPolicy{policy("l", 5), policy("n", 5), policy("k", 5)}, "k"},
		{"none that counts", []v1alpha1.NodePortPolicy{policy("a", 9, going), policy("b", 9, plan), policy("c", 9, companion), policy("d", 9, elsewhere), policy("e", 9, other)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policy("m", 5)
			if got := Elder(&p, append(c.others, p)); got != c.want {
				t.Errorf("Elder = %q, want %q", got, c.want)
			}
			slices.Reverse(c.others)
			if got := Elder(&p, c.others); got != c.want {
				t.Errorf("in another order Elder = %q, want %q", got, c.want)
			}
		})
	}
}

// Of two allocations for one port the older claim stays, whichever object is older:
// one that came out of a backup is younger than its claim.
func TestTheOlderClaimStays(t *testing.T) {
	object := func(number string, created, since time.Time) v1alpha1.NodePortAllocation {
		a := carried(number+" Open https/443", byPolicy)
		a.CreationTimestamp = metav1.NewTime(created)
		if !since.IsZero() {
			a.Spec.Since = &metav1.MicroTime{Time: since}
		}
		return a
	}
	hour := func(n int) time.Time { return clock.Add(time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		name string
		own  []v1alpha1.NodePortAllocation
		want uint16
	}{
		{"by claim", []v1alpha1.NodePortAllocation{object("30001", hour(0), hour(0)), object("30007", hour(1), hour(-9))}, 30007},
		{"by claim, the restored object is lower", []v1alpha1.NodePortAllocation{object("30001", hour(1), hour(-9)), object("30007", hour(0), hour(0))}, 30001},
		{"by object where no claim is dated", []v1alpha1.NodePortAllocation{object("30001", hour(1), time.Time{}), object("30007", hour(0), time.Time{})}, 30007},
		{"a dated claim against an older object", []v1alpha1.NodePortAllocation{object("30001", hour(1), hour(-1)), object("30007", hour(0), time.Time{})}, 30001},
		{"of one age, by number", []v1alpha1.NodePortAllocation{object("30007", hour(0), hour(0)), object("30001", hour(5), hour(0))}, 30001},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				serving := Assign(healthy().Wish, c.own).Serving
				if _, stays := serving[c.want]; !stays || len(serving) != 1 {
					t.Errorf("stays: %v, want %d", serving, c.want)
				}
				slices.Reverse(c.own)
			}
		})
	}
}
