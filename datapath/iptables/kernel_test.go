package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/internal/rule"
)

// newNode returns a world whose datapath is of the mode, and that datapath.
func newNode(t *testing.T, mode Mode) (*datapathtest.World, *Datapath) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root")
	}
	w := datapathtest.NewWorld(t, func(t *testing.T) datapath.Datapath {
		d, err := New(mode)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		return d
	})
	return w, w.Datapath.(*Datapath)
}

func inEachMode(t *testing.T, f func(t *testing.T, mode Mode)) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			f(t, mode)
		})
	}
}

func TestASecondSyncChangesNothing(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, d := newNode(t, mode)
		want := datapathtest.Set(datapathtest.Pool, "tcp/30050 alice world", "udp/30050 mallory 0.0.0.0/0", "tcp/30060")
		w.Sync(want)
		before := d.Changes()
		w.Sync(want)
		if n := d.Changes() - before; n != 0 {
			t.Errorf("a second Sync made %d changes", n)
		}
		w.Restart()
		w.Sync(want)
		if n := w.Datapath.(*Datapath).Changes(); n != 0 {
			t.Errorf("the first Sync after a restart made %d changes", n)
		}
	})
}

// The read-back asks the kernel for single elements and compares with the
// image's answer: they must agree, also on /32 within wider entries, on halves
// and on what is not there.
func TestTheKernelAnswersAsTheImageDoes(t *testing.T) {
	w, d := newNode(t, NFT)
	now := time.Now().Unix()
	err := w.Node.Do(func() error {
		rapid.Check(t, func(t *rapid.T) {
			want := imageOf(anySet(now).Draw(t, "want"), now)
			if err := d.ensureSets(context.Background(), want); err != nil {
				t.Fatal(err)
			}
			p := newPlan(d.have, want, now)
			if err := d.sets.change(context.Background(), p.steps()); err != nil {
				t.Fatal(err)
			}
			d.have = nil
			if err := d.ensureSets(context.Background(), want); err != nil {
				t.Fatal(err)
			}
			found := d.have
			if !found.equal(want) {
				t.Fatalf("the kernel holds %#v, want %#v", found, want)
			}
			if again := newPlan(found, want, now); len(again.steps()) > 0 {
				t.Fatalf("a second plan has steps: %+v", again)
			}
			for _, port := range tryPorts {
				for _, p := range split([]netip.Prefix{anyPrefix.Draw(t, "prefix")}) {
					half := halves[halfOf(p)]
					for _, e := range []element{
						{set: admitSet(p), port: port, prefix: p}, {set: asideSet(p), port: port, prefix: p},
						{set: in(p.Addr(), denied4, denied6), prefix: p}, {set: in(p.Addr(), places4, places6), prefix: p},
						{set: in(p.Addr(), ends4, ends6), port: port, prefix: half}, {set: in(p.Addr(), alive4, alive6), port: port, prefix: half},
					} {
						if found, err := d.sets.contains(e); err != nil || found != want.contains(e) {
							t.Fatalf("the kernel says %t (%v) of %v, the image %t", found, err, e, want.contains(e))
						}
					}
				}
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A full set is an error of its kind, and keeps nothing from being taken away:
// neither a source, nor a number that is judged from now on.
func TestAFullSetStillTakesAway(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, d := newNode(t, mode)
		// SCTP4 needs two entries for each judged number, so four must fit.
		d.sets.limit = 4
		w.Sync(datapathtest.Set("30050", "tcp/30050 alice mallory"))
		w.Expect("mallory tcp/30050 answered")
		tooMuch := datapathtest.Set("30050 30060", "tcp/30050 alice", "tcp/30060 10.1.0.0/16 10.3.0.0/16 10.5.0.0/16 10.7.0.0/16")
		err := w.Node.Do(func() error { return d.Sync(context.Background(), tooMuch) })
		if !errors.Is(err, datapath.ErrFull) || !errors.Is(err, datapath.ErrUnsupported) {
			t.Errorf("Sync = %v, want ErrFull", err)
		}
		w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped", "mallory tcp/30060 dropped")
		w.Sync(datapathtest.Set("30050", "tcp/30050 mallory"))
		w.Expect("alice tcp/30050 dropped", "mallory tcp/30050 answered", "mallory tcp/30060 answered")
	})
}

// Also on a node that had nothing, what does not fit is closed.
func TestAFullSetOnAColdNodeCloses(t *testing.T) {
	w, d := newNode(t, NFT)
	d.sets.limit = 4
	tooMuch := datapathtest.Set("30050", "tcp/30050 alice 10.1.0.0/16 10.3.0.0/16 10.5.0.0/16 10.7.0.0/16 10.11.0.0/16")
	err := w.Node.Do(func() error { return d.Sync(context.Background(), tooMuch) })
	if !errors.Is(err, datapath.ErrFull) {
		t.Errorf("Sync = %v, want ErrFull", err)
	}
	w.Expect("mallory tcp/30050 dropped", "mallory udp/30050 dropped", "mallory sctp/30050 dropped")
}

// meddling is a context that lets a foreign hand act while a Sync is under way:
// when it is asked for the n-th time whether it is done.
type meddling struct {
	context.Context
	left *int
	act  func()
}

func (m meddling) Err() error {
	if *m.left--; *m.left == 0 {
		m.act()
	}
	return m.Context.Err()
}

// Sync reads back what it wrote, entry by entry or, after many, by listing: an
// entry that is gone again before it returns is an error, not "applied".
func TestSyncReportsOnlyWhatItReadBack(t *testing.T) {
	few := datapathtest.Set("30050", "tcp/30050 alice")
	many := datapathtest.Set(datapathtest.Pool, "tcp/30050 alice")
	for name, want := range map[string]rule.Set{"few entries": few, "many entries": many} {
		t.Run(name, func(t *testing.T) {
			w, d := newNode(t, NFT)
			w.Sync(rule.Set{})
			// A message for ADMIT4, one for ADMIT6, and before the third the hand takes
			// alice out again.
			left := 3
			ctx := meddling{context.Background(), &left, func() {
				w.Node.Command(t, "", "ipset", "del", string(admit4), "10.8.0.1,tcp:30050")
			}}
			if err := w.Node.Do(func() error { return d.Sync(ctx, want) }); !errors.Is(err, datapath.ErrDamaged) {
				t.Errorf("Sync = %v, want ErrDamaged", err)
			}
			w.Sync(want)
			w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped")
		})
	}
}

// While a damaged chain is replaced, nobody is let in who was out, and nobody
// shut out who was in.
func TestADamagedChainIsReplacedWithoutAGap(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, _ := newNode(t, mode)
		want := datapathtest.Set(datapathtest.Pool, "udp/30050 alice")
		w.Sync(want)
		stop := w.Watch("udp/30050", "alice", "mallory")
		tool := "iptables-" + string(mode) + " -w 10 -t mangle "
		for _, damage := range []string{
			"-I PORTREEVE 1 -s 172.16.0.1 -j ACCEPT",
			"-D PORTREEVE 7",
			"-A PORTREEVE -j ACCEPT",
			"-R PORTREEVE 1 -i lo -j RETURN",
			"-A PREROUTING -j PORTREEVE", // twice
			"-I PORTREEVE-SHUT 1 -s 172.16.0.1 -j RETURN",
			"-F PORTREEVE-DENY",
			"-A PORTREEVE-COUNT -p tcp -j DROP",
			"-N PORTREEVE-C",
		} {
			w.Node.Command(t, "", strings.Fields(tool+damage)...)
			if _, err := w.Have(); !errors.Is(err, datapath.ErrDamaged) {
				t.Errorf("after %q: Have = %v, want ErrDamaged", damage, err)
			}
			w.Sync(want)
			if _, err := w.Have(); err != nil {
				t.Errorf("after %q and Sync: Have = %v", damage, err)
			}
		}
		stop()
	})
}

func TestARuleAheadThatMayAcceptIsReportedAndLeft(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, d := newNode(t, mode)
		want := datapathtest.Set(datapathtest.Pool, "tcp/30050 alice")
		w.Sync(want)
		tool := "iptables-" + string(mode) + " -w 10 -t mangle "
		// What stands there already is overtaken, once, as the jump is made.
		w.Cleanup()
		w.Node.Command(t, "", strings.Fields(tool+"-A PREROUTING -p tcp -j ACCEPT")...)
		w.Sync(want)
		w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped")
		// What comes ahead later is reported.
		for _, words := range []string{"-N THEIRS", "-A THEIRS -m conntrack --ctstate ESTABLISHED -j ACCEPT", "-I PREROUTING 1 -j THEIRS"} {
			w.Node.Command(t, "", strings.Fields(tool+words)...)
		}
		before := w.Node.Command(t, "", strings.Fields(tool+"-S")...)
		changes := d.Changes()
		err := w.Node.Do(func() error { return d.Sync(context.Background(), want) })
		if !errors.Is(err, datapath.ErrPreempted) || !errors.Is(err, datapath.ErrUnsupported) {
			t.Errorf("Sync = %v, want ErrPreempted", err)
		}
		if after := w.Node.Command(t, "", strings.Fields(tool+"-S")...); after != before || d.Changes() != changes {
			t.Errorf("Sync fought for its place: %s", after)
		}
		if _, err := w.Have(); err != nil {
			t.Errorf("Have = %v", err)
		}
		w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped")
	})
}

// An agent that comes back in the other mode leaves nothing of the first.
func TestAChangeOfModeLeavesNoTraceAndNoGap(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, _ := newNode(t, mode)
		want := datapathtest.Set(datapathtest.Pool, "udp/30050 alice")
		w.Sync(want)
		stop := w.Watch("udp/30050", "alice", "mallory")
		other := modes[1-slices.Index(modes, mode)]
		err := w.Node.Do(func() error {
			d, err := New(other)
			if err != nil {
				return err
			}
			defer d.Close()
			return d.Sync(context.Background(), want)
		})
		if err != nil {
			t.Fatal(err)
		}
		if left := w.Node.Command(t, "", "iptables-"+string(mode)+"-save"); strings.Contains(left, "PORTREEVE") {
			t.Errorf("in %s mode there is still\n%s", mode, left)
		}
		stop()
	})
}

func TestASetThatSomebodyElseMadeIsNotTouched(t *testing.T) {
	w, d := newNode(t, NFT)
	w.Node.Command(t, "", "ipset", "create", "PORTREEVE-JUDGED", "hash:ip")
	err := w.Node.Do(func() error { return d.Sync(context.Background(), datapathtest.Set("30050")) })
	if !errors.Is(err, datapath.ErrDamaged) {
		t.Errorf("Sync = %v, want ErrDamaged", err)
	}
}

func TestDetectFindsTheModeThatKubernetesUses(t *testing.T) {
	hint := func(mode Mode, command string) []string {
		return strings.Fields(command + "-" + string(mode) + " -w 10 -t mangle -N KUBE-KUBELET-CANARY")
	}
	byDefault, err := defaultMode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		hints  [][]string
		mode   Mode
		hinted []Mode
	}{
		"no hint: the default":  {nil, byDefault, nil},
		"legacy":                {[][]string{hint(Legacy, "iptables")}, Legacy, []Mode{Legacy}},
		"legacy, IPv6 only":     {[][]string{hint(Legacy, "ip6tables")}, Legacy, []Mode{Legacy}},
		"nft":                   {[][]string{hint(NFT, "iptables")}, NFT, []Mode{NFT}},
		"both: nft, and say so": {[][]string{hint(Legacy, "iptables"), hint(NFT, "iptables")}, NFT, []Mode{NFT, Legacy}},
	} {
		t.Run(name, func(t *testing.T) {
			w := datapathtest.NewNamespace(t)
			for _, argv := range c.hints {
				w.Command(t, "", argv...)
			}
			names := w.Command(t, "", "cat", "/proc/net/ip_tables_names")
			var got Detection
			if err := w.Do(func() (err error) { got, err = Detect(); return err }); err != nil {
				t.Fatal(err)
			}
			if got.Mode != c.mode || !slices.Equal(got.Hinted, c.hinted) {
				t.Errorf("Detect = %+v, want %s hinted by %v", got, c.mode, c.hinted)
			}
			if after := w.Command(t, "", "cat", "/proc/net/ip_tables_names"); after != names {
				t.Errorf("looking made legacy tables: %q, before %q", after, names)
			}
		})
	}
}

// Sync trusts a set that has as many entries as it should; Have does not.
func TestHaveSeesOneEntryInThePlaceOfAnother(t *testing.T) {
	w, _ := newNode(t, NFT)
	want := datapathtest.Set(datapathtest.Pool, "tcp/30050 world").WithDenied(datapathtest.Prefixes("mallory"))
	w.Sync(want)
	w.Node.Command(t, "", "ipset", "del", string(denied4), "10.9.0.1")
	w.Node.Command(t, "", "ipset", "add", string(denied4), "10.9.0.2")
	if have, err := w.Have(); err != nil || have.Equal(want) {
		t.Errorf("Have = %v, %v: it does not see the damage", have, err)
	}
	w.Sync(want)
	w.Expect("mallory tcp/30050 dropped")
}

// More entries than one message takes, of every kind, come through whole.
func TestManyGatesReadBack(t *testing.T) {
	w, _ := newNode(t, NFT)
	terms := map[rule.Port]rule.Terms{}
	for n := uint16(30000); n < 31000; n++ {
		terms[rule.Port{Protocol: rule.TCP, Number: n}] = rule.Terms{
			Sources: datapathtest.Prefixes("alice", fmt.Sprintf("10.%d.%d.0/24", n>>8, n&0xff)), Audited: datapathtest.Prefixes("mallory"),
			Limits: rule.Limits{Connections: uint32(n), PerSecond: 50, Burst: 100}, Log: rule.Log{Denied: true, Accepted: true, PerSecond: 10},
			Expires: time.Now().Unix() + 1000 + int64(n),
		}
	}
	for _, want := range []rule.Set{rule.Build(nil, terms), rule.Build(nil, nil), rule.Build(nil, terms)} {
		w.Sync(want)
		if have, err := w.Have(); err != nil || !have.Equal(want) {
			t.Errorf("Have = %v after %d gates", err, want.Ports.Len())
		}
	}
	w.Expect("alice tcp/30500 answered", "mallory tcp/30500 answered", "remote tcp/30500 dropped")
}
