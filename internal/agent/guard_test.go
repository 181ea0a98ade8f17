package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

func TestGuard(t *testing.T) {
	pools := []v1alpha1.NodePortPool{pool("30000-30099")}
	foreign := open(30082)
	foreign.Spec.State = v1alpha1.AllocationForeign
	type allocations = []v1alpha1.NodePortAllocation
	for _, test := range []struct {
		name       string
		kept, read inputs
		vanished   []string
	}{
		{"nothing ever was", inputs{}, inputs{}, nil},
		{"unchanged", inputs{pools, allocations{open(30080)}}, inputs{pools, allocations{open(30080)}}, nil},
		{"one of two goes", inputs{pools, allocations{open(30080), open(30081)}}, inputs{pools, allocations{open(30081)}}, nil},
		{"the pools go", inputs{pools, nil}, inputs{}, []string{kindPools}},
		{"an open port goes", inputs{pools, allocations{closed(30081), open(30080)}}, inputs{pools, nil}, []string{kindAllocations}},
		{"a foreign port goes", inputs{pools, allocations{foreign}}, inputs{pools, nil}, []string{kindAllocations}},
		{"all closed ports go at once", inputs{pools, allocations{closed(30080), closed(30081)}}, inputs{pools, nil}, nil},
		{"everything goes", inputs{pools, allocations{open(30080)}}, inputs{}, []string{kindPools, kindAllocations}},
	} {
		t.Run(test.name, func(t *testing.T) {
			use, vanished := test.kept.guard(test.read)
			if !slices.Equal(vanished, test.vanished) {
				t.Errorf("vanished %v, want %v", vanished, test.vanished)
			}
			wantPools, wantAllocations := len(test.read.pools), len(test.read.allocations)
			if slices.Contains(vanished, kindPools) {
				wantPools = len(test.kept.pools)
			}
			if slices.Contains(vanished, kindAllocations) {
				wantAllocations = len(test.kept.allocations)
			}
			if len(use.pools) != wantPools || len(use.allocations) != wantAllocations {
				t.Errorf("enforces %d pools and %d allocations, want %d and %d", len(use.pools), len(use.allocations), wantPools, wantAllocations)
			}
		})
	}
}

func TestVanishedSince(t *testing.T) {
	judged := rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30099})
	closedPool := rule.NewSet(judged, nil)
	openPort := rule.NewSet(judged, map[rule.Port][]netip.Prefix{{Protocol: rule.TCP, Number: 30080}: rule.World})
	pools, allocations := []v1alpha1.NodePortPool{pool("30000-30099")}, []v1alpha1.NodePortAllocation{open(30080)}
	for _, test := range []struct {
		name       string
		have, want rule.Set
		read       inputs
		vanished   []string
	}{
		{"empty kernel", rule.Set{}, rule.Set{}, inputs{}, nil},
		{"closed pool, no pools listed", closedPool, rule.Set{}, inputs{}, []string{kindPools}},
		{"closed pool, pool listed", closedPool, closedPool, inputs{pools, nil}, nil},
		{"open port, no allocations listed", openPort, closedPool, inputs{pools, nil}, []string{kindAllocations}},
		{"open port, nothing listed", openPort, rule.Set{}, inputs{}, []string{kindPools, kindAllocations}},
		{"open port, other allocations listed", openPort, openPort, inputs{pools, allocations}, nil},
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
		l.status()
		l.allocations.remove("30080", "30081")
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantMarks("101", "103")
		l.wantAdmits(30080, "203.0.113.7", true)

		// The pools are still believed.
		version := l.pools.put(pool("30000-30199"))
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantMarks(version, "103")
		l.wantAdmits(30150, "203.0.113.7", false)

		// So is a list that holds something again.
		version = l.allocations.put(open(30082, "203.0.113.0/24"))
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", false)
		if got := l.status().Marks.Allocations; got != version {
			t.Errorf("mark %s, want %s", got, version)
		}
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
