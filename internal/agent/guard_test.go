package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

func poolNamed(name string) v1alpha1.NodePortPool {
	p := pool("30000-30099")
	p.Name = name
	return p
}

// of sorts objects by their kinds.
func of(objects ...any) (in inputs) {
	add := func(k kind, o metav1.Object) { in[k] = in[k].With(compile.Name(o.GetName()), o) }
	for _, o := range objects {
		switch o := o.(type) {
		case v1alpha1.NodePortPool:
			add(kindPools, &o)
		case v1alpha1.NodePortAllocation:
			add(kindAllocations, &o)
		case v1alpha1.AddressSet:
			add(kindAddressSets, &o)
		case v1alpha1.GatewaySet:
			add(kindGatewaySets, &o)
		case v1alpha1.Portreeve:
			add(kindInstallation, &o)
		case metav1.PartialObjectMetadata:
			add(kindNode, &o)
		}
	}
	return in
}

// spelled lists the names of what is enforced.
func spelled(in inputs) (out []string) {
	for _, objects := range in {
		for _, o := range objects.All {
			out = append(out, o.GetName())
		}
	}
	slices.Sort(out)
	return out
}

func TestGuard(t *testing.T) {
	a, b := poolNamed("a"), poolNamed("b")
	foreign := open(30083)
	foreign.Spec.State, foreign.Spec.Grandfathered = v1alpha1.AllocationForeign, true
	squatter := open(30084)
	squatter.Spec.State = v1alpha1.AllocationForeign
	type step struct {
		at       time.Duration
		read     inputs
		use      []string
		vanished []kind
		again    time.Duration
	}
	for _, test := range []struct {
		name  string
		kept  inputs
		steps []step
	}{
		{"nothing ever was", inputs{}, []step{{0, inputs{}, nil, nil, 0}}},
		{"what is there is used", of(a, open(30080)), []step{
			{0, of(a, closed(30080), open(30081)), []string{"30080", "30081", "a"}, nil, 0},
		}},
		{"one of two goes after two seconds", of(a, b, open(30080), open(30081)), []step{
			{0, of(a, open(30081)), []string{"30080", "30081", "a", "b"}, nil, 2 * time.Second},
			{time.Second, of(a, open(30081)), []string{"30080", "30081", "a", "b"}, nil, time.Second},
			{2 * time.Second, of(a, open(30081)), []string{"30081", "a"}, nil, 0},
		}},
		{"one that comes back was never gone", of(a, b), []step{
			{0, of(a), []string{"a", "b"}, nil, 2 * time.Second},
			{time.Second, of(a, b), []string{"a", "b"}, nil, 0},
			{3 * time.Second, of(a), []string{"a", "b"}, nil, 2 * time.Second},
		}},
		{"a kind that goes one by one vanishes as a whole", of(a, open(30080), open(30081), foreign), []step{
			{0, of(a, open(30081), foreign), []string{"30080", "30081", "30083", "a"}, nil, 2 * time.Second},
			{time.Second, of(a, foreign), []string{"30080", "30081", "30083", "a"}, nil, 2 * time.Second},
			{2 * time.Second, of(a), []string{"30080", "30081", "30083", "a"}, []kind{kindAllocations}, 0},
			{time.Hour, of(a), []string{"30080", "30081", "30083", "a"}, []kind{kindAllocations}, 0},
			{2 * time.Hour, of(a, open(30090)), []string{"30090", "a"}, nil, 0},
		}},
		{"the pools vanish", of(a, b, open(30080)), []step{
			{0, of(open(30080)), []string{"30080", "a", "b"}, []kind{kindPools}, 0},
		}},
		{"closed ports may go together", of(a, closed(30080), closed(30081)), []step{
			{0, of(a), []string{"a"}, nil, 0},
		}},
		{"so may what is Foreign and dropped", of(a, squatter), []step{
			{0, of(a), []string{"a"}, nil, 0},
		}},
		{"what goes all the time goes in the end", of(a, open(30080), open(30081), open(30082)), []step{
			{0, of(a, open(30081), open(30082)), []string{"30080", "30081", "30082", "a"}, nil, 2 * time.Second},
			{29 * time.Second, of(a, open(30082)), []string{"30080", "30081", "30082", "a"}, nil, time.Second},
			{30 * time.Second, of(a, open(30082)), []string{"30082", "a"}, nil, 0},
		}},
		{"a set nobody uses goes at once", of(a, openTo(30080, "s"), set("s"), set("t")), []step{
			{0, of(a, openTo(30080, "s"), set("s")), []string{"30080", "a", "s"}, nil, 0},
		}},
		{"a set in use goes after two seconds", of(a, openTo(30080, "s"), set("s"), set("t")), []step{
			{0, of(a, openTo(30080, "s"), set("t")), []string{"30080", "a", "s", "t"}, nil, 2 * time.Second},
			{2 * time.Second, of(a, openTo(30080, "s"), set("t")), []string{"30080", "a", "t"}, nil, 0},
		}},
		{"the last set in use stays until it is used no more", of(a, openTo(30080, "s"), set("s")), []step{
			{0, of(a, openTo(30080, "s")), []string{"30080", "a", "s"}, []kind{kindAddressSets}, 0},
			{time.Hour, of(a, openTo(30080, "s")), []string{"30080", "a", "s"}, []kind{kindAddressSets}, 0},
			{2 * time.Hour, of(a, open(30080)), []string{"30080", "a"}, nil, 0},
		}},
		{"allocations and their sets vanish together", of(a, openTo(30080, "s"), set("s")), []step{
			{0, of(a), []string{"30080", "a", "s"}, []kind{kindAllocations, kindAddressSets}, 0},
		}},
		{"a GatewaySet nobody names goes at once", of(a, through(30080, "gw"), gateways("gw", "n1"), gateways("gx", "n1")), []step{
			{0, of(a, through(30080, "gw"), gateways("gw", "n1")), []string{"30080", "a", "gw"}, nil, 0},
		}},
		{"the last GatewaySet in use stays until it is used no more", of(a, through(30080, "gw"), gateways("gw", "n1")), []step{
			{0, of(a, through(30080, "gw")), []string{"30080", "a", "gw"}, []kind{kindGatewaySets}, 0},
			{time.Second, of(a, through(30080, "gw"), gateways("gw", "n2")), []string{"30080", "a", "gw"}, nil, 0},
			{time.Minute, of(a, closed(30080)), []string{"30080", "a"}, nil, 0},
		}},
		{"the installation may go", of(a, installation(false)), []step{{0, of(a), []string{"a"}, nil, 0}}},
		{"but not in lockdown", of(a, installation(true)), []step{
			{0, of(a), []string{"a", "cluster"}, []kind{kindInstallation}, 0},
			{time.Hour, of(a, installation(false)), []string{"a", "cluster"}, nil, 0},
		}},
		{"the Node goes", of(a, node(nil)), []step{{0, of(a), []string{"a", "n1"}, []kind{kindNode}, 0}}},
		{"everything vanishes", of(a, open(30080)), []step{
			{0, inputs{}, []string{"30080", "a"}, []kind{kindPools, kindAllocations}, 0},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var g guard
			kept, start := test.kept, time.Unix(1e9, 0)
			for _, s := range test.steps {
				var j judged
				g, j = g.judge(kept, s.read, start.Add(s.at))
				if got := spelled(j.use); !slices.Equal(got, s.use) || !slices.Equal(j.vanished, s.vanished) || j.again != s.again {
					t.Errorf("after %s: enforces %v, vanished %v, again in %s; want %v, %v, %s", s.at, got, j.vanished, j.again, s.use, s.vanished, s.again)
				}
				kept = j.use
			}
		})
	}
}

func TestVanishedSince(t *testing.T) {
	judged := rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30099})
	closedPool := rule.NewSet(judged, nil)
	openPort := rule.NewSet(judged, map[rule.Port][]netip.Prefix{{Protocol: rule.TCP, Number: 30080}: rule.World})
	web := pool("30000-30099")
	for _, test := range []struct {
		name       string
		have, want rule.Set
		read       inputs
		vanished   []kind
	}{
		{"empty kernel", rule.Set{}, rule.Set{}, inputs{}, nil},
		{"closed pool, no pools listed", closedPool, rule.Set{}, inputs{}, []kind{kindPools}},
		{"closed pool, pool listed", closedPool, closedPool, of(web), nil},
		{"open port, no allocations listed", openPort, closedPool, of(web), []kind{kindAllocations}},
		{"open port, nothing listed", openPort, rule.Set{}, inputs{}, []kind{kindPools, kindAllocations}},
		{"open port, no sets listed", openPort, closedPool, of(web, openTo(30080, "s")), []kind{kindAddressSets}},
		{"open port that does not need the sets", openPort, openPort, of(web, openTo(30080, "s")), nil},
		{"open port, set listed", openPort, closedPool, of(web, openTo(30080, "s"), set("s")), nil},
		{"open port, other allocations listed", openPort, openPort, of(web, open(30080)), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := vanishedSince(test.have, test.want, test.read); !slices.Equal(got, test.vanished) {
				t.Errorf("vanished %v, want %v", got, test.vanished)
			}
		})
	}
}

func TestVanishedAllocationsKeepTheirRules(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.allocations.remove("30081")
		l.wantReason(v1alpha1.ReasonOK)
		l.wantMarks("101", "104")
		l.allocations.remove("30080")
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantMarks("101", "104")
		l.wantAdmits(30080, "203.0.113.7", true)

		// The pools are still believed.
		version := l.pools.put(pool("30000-30199"))
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantMarks(version, "104")
		l.wantAdmits(30150, "203.0.113.7", false)

		// So is a list that holds something again.
		version = l.allocations.put(open(30082, "203.0.113.0/24"))
		l.pass(departure)
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", false)
		if got := l.status().Marks.Allocations; got != version {
			t.Errorf("mark %s, want %s", got, version)
		}
	})
}

func TestDeletedCRDTakesNothingAway(t *testing.T) {
	inLab(t, func(l *lab) {
		l.pools.put(poolNamed("api"))
		for n := range uint16(20) {
			l.allocations.put(open(30010+n, "203.0.113.0/24"))
		}
		l.start()
		before := l.kernel.loaded
		for n := range uint16(20) {
			l.allocations.remove(fmt.Sprint(30010 + n))
			l.pass(100 * time.Millisecond)
		}
		l.pools.remove("api")
		l.pass(100 * time.Millisecond)
		l.allocations.remove("30080", "30081")
		l.pools.remove("web")
		l.wantReason(v1alpha1.ReasonVanished)
		l.pass(time.Hour)
		if !l.kernel.loaded.Equal(*before) {
			t.Error("a deleted CRD changed the kernel")
		}
	})
}

func TestDeletedPoolIsLeftAloneSoon(t *testing.T) {
	inLab(t, func(l *lab) {
		other := pool("31000-31009")
		other.Name = "other"
		l.pools.put(other)
		l.start()
		l.wantAdmits(31000, "203.0.113.7", false)
		l.pools.remove("other")
		l.pass(departure)
		l.wantAdmits(31000, "203.0.113.7", true) // none of our business any more
		l.wantReason(v1alpha1.ReasonOK)
	})
}

func TestLastClosedPortsMayGoTogether(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.allocations.put(closed(30080))
		l.status()
		l.allocations.remove("30080", "30081")
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", false)
	})
}

func TestEmptyListAfterRestartLeavesTheKernel(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		before := l.kernel.loaded
		l.stop()
		l.kernel.take()
		l.pools.remove("web")
		l.allocations.remove("30080", "30081")
		l.start()
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantMarks("", "")
		l.pass(time.Minute)
		if slices.Contains(l.kernel.take(), "sync") || l.kernel.loaded != before {
			t.Error("an empty list after a restart changed the kernel")
		}
		l.pools.put(pool("30000-30099"))
		l.allocations.put(closed(30080))
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", false)
	})
}
