package agent

import (
	"fmt"
	"os"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

func at(a v1alpha1.NodePortAllocation, version string) *v1alpha1.NodePortAllocation {
	a.ResourceVersion = version
	return &a
}

func TestMirrorMovesForwardOnly(t *testing.T) {
	changed := make(chan struct{}, 1)
	m := newMirror(kindAllocations, "100", changed)
	woken := func() bool {
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	expect := func(step string, wantItems int, complete, newest string, synced, stale bool) {
		t.Helper()
		v := m.view()
		if v.items.Len() != wantItems || v.complete != complete || v.newest != newest || v.synced != synced || (v.stale != nil) != stale {
			t.Errorf("%s: %d items, complete %s, newest %s, synced %v, stale %v", step, v.items.Len(), v.complete, v.newest, v.synced, v.stale)
		}
	}
	refused := func(step string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: taken", step)
		}
	}

	refused("a list older than the marks on disk", m.Replace(nil, "99"))
	expect("a list older than the marks on disk", 0, "100", "", false, true)
	if !woken() {
		t.Error("nobody was told that the list is stale")
	}
	refused("a list with a version that can't be compared", m.Replace(nil, "x"))

	if err := m.Replace([]any{at(open(30080), "50"), at(open(30081), "90")}, "100"); err != nil {
		t.Fatal(err)
	}
	expect("a list", 2, "100", "90", true, false)
	if !woken() {
		t.Error("nobody was told of the list")
	}

	m.UpdateResourceVersion("120")
	expect("a bookmark", 2, "120", "90", true, false)
	if woken() {
		t.Error("a bookmark wakes the loop")
	}
	m.UpdateResourceVersion("110")
	expect("an older bookmark", 2, "120", "90", true, false)

	refused("an older event", m.Update(at(closed(30080), "119")))
	refused("an older deletion", m.Delete(at(open(30080), "119")))
	expect("older events", 2, "120", "90", true, false)

	if err := m.Delete(at(open(30080), "130")); err != nil {
		t.Fatal(err)
	}
	expect("a deletion", 1, "130", "130", true, false)

	refused("an older list", m.Replace(nil, "129"))
	expect("an older list", 1, "130", "130", true, true)
	if err := m.Replace([]any{at(open(30081), "90")}, "140"); err != nil {
		t.Fatal(err)
	}
	expect("a list again", 1, "140", "130", true, false)
	refused("an object of another kind", m.Add(&v1alpha1.NodePortPool{}))
}

func TestOlderListThanOnDiskIsRefused(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.stop()
		l.kernel.take()
		before := l.kernel.loaded
		l.history.restore(60) // a backup was restored
		l.allocations.objects["30080"] = at(open(30080, "198.51.100.0/24"), "55")
		l.start()
		l.wantReason(v1alpha1.ReasonStale)
		l.wantMarks("", "")
		l.pass(time.Minute)
		l.wantUntouched()
		if l.kernel.loaded != before {
			t.Error("an older list changed the kernel")
		}
		if n := l.allocations.watching(); n > 1 {
			t.Errorf("%d watches are open after a minute of refusals", n)
		}
		l.history.restore(200)
		l.pass(5 * time.Second)
		l.wantReason(v1alpha1.ReasonOK)
	})
}

func TestHistoryThatGoesBackWhileRunningWithdrawsTheMarks(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.wantMarks("101", "103")
		l.history.setDown(true)
		l.allocations.cut()
		l.pass(time.Second)
		l.history.restore(60)
		l.history.setDown(false)
		l.pass(10 * time.Second)
		l.wantReason(v1alpha1.ReasonStale)
		l.wantMarks("101", "")
		l.wantAdmits(30080, "203.0.113.7", true)
	})
}

func TestMarksFile(t *testing.T) {
	f := newMarksFile(t.TempDir() + "/not/yet")
	if m, err := f.load(); err != nil || m != (memory{}) {
		t.Errorf("no file: %v, %v", m, err)
	}
	want := memory{versions: versions{Marks: v1alpha1.Marks{Pools: "12", Allocations: "34", AddressSets: "56", Installation: "78", GatewaySets: "67"}, Node: "90"}}
	if err := f.save(want); err != nil {
		t.Fatal(err)
	}
	if m, err := f.load(); err != nil || m != want {
		t.Errorf("saved %v, loaded %v, %v", want, m, err)
	}
	want.Standing = &v1alpha1.PortreeveSpec{Lockdown: true, FailSafePorts: []v1alpha1.PortSpan{"30050"}}
	if err := f.save(want); err != nil {
		t.Fatal(err)
	}
	if m, err := f.load(); err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("saved %+v, loaded %+v, %v", want, m, err)
	}
	for _, garbage := range []string{"", "{", `{"pools":"-1"}`, `{"allocations":"0"}`, `{"addressSets":"x"}`, `{"node":"-1"}`, "\x00\x00", `{"pools":12}`} {
		if err := os.WriteFile(f.path, []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := f.load(); err == nil || m != (memory{}) {
			t.Errorf("%q: %v, %v", garbage, m, err)
		}
	}
}

func TestGarbageOnDiskCountsAsNone(t *testing.T) {
	inLab(t, func(l *lab) {
		if err := os.WriteFile(newMarksFile(l.stateDir).path, []byte("{{{"), 0o600); err != nil {
			t.Fatal(err)
		}
		l.start()
		l.wantReason(v1alpha1.ReasonOK)
		if m, err := l.agent.marksFile.load(); err != nil || m.Pools == "" {
			t.Errorf("marks were not written anew: %v, %v", m, err)
		}
	})
}

func TestMarksThatCannotBeKeptAreNotReported(t *testing.T) {
	inLab(t, func(l *lab) {
		l.stateDir = "/dev/null/no"
		l.start()
		l.wantReason(v1alpha1.ReasonFailed)
		l.wantMarks("", "")
		l.wantAdmits(30080, "203.0.113.7", true) // the kernel does not wait for the disk
		synctest.Wait()
	})
}

// What the mirror keeps of an object is what rules are made of, and lists that many
// have are there once.
func TestMirrorKeepsWhatIsOfUse(t *testing.T) {
	m := newMirror(kindAllocations, "", make(chan struct{}, 1))
	one, other := open(30080, "203.0.113.0/24", "10.0.0.0/8"), open(30081, "203.0.113.0/24", "10.0.0.0/8")
	one.Labels = map[string]string{"portreeve.dev/policy": "shop"}
	slim, err := m.Transformer()(at(one, "1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Replace([]any{slim, at(other, "2")}, "2"); err != nil {
		t.Fatal(err)
	}
	var lists []*v1alpha1.CIDR
	for _, a := range compile.Copies[v1alpha1.NodePortAllocation](m.view().items) {
		if got := a.Spec.Ports[0].Sources; len(got) != 2 || got[0] != "203.0.113.0/24" || got[1] != "10.0.0.0/8" || len(a.Labels) > 0 {
			t.Errorf("%s admits %v, with labels %v", a.Name, got, a.Labels)
		}
		lists = append(lists, &a.Spec.Ports[0].Sources[0])
	}
	if lists[0] != lists[1] {
		t.Error("one list is there twice")
	}
	for n := range 2 * mostLists {
		list := []v1alpha1.CIDR{v1alpha1.CIDR(fmt.Sprint(n))}
		if got := m.shared.of(list); &got[0] != &list[0] || len(m.shared) > mostLists {
			t.Fatalf("list %d is %v, of %d", n, got, len(m.shared))
		}
	}
	if got := m.shared.of([]v1alpha1.CIDR{"10.0.0.0/8 ", "x"}); len(got) != 2 || len(m.shared.of([]v1alpha1.CIDR{"10.0.0.0/8  x"})) != 1 {
		t.Error("two lists were taken for one")
	}
	if _, err := m.Transformer()(&v1alpha1.NodePortPool{}); err == nil {
		t.Error("an object of another kind was taken")
	}
}
