package agent

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// down takes the API server away.
func (l *lab) down() {
	l.history.setDown(true)
	l.reports.set(func() { l.reports.err = errDown })
	for _, f := range l.fakes() {
		f.(interface{ cut() }).cut()
	}
}

func (l *lab) up() {
	l.history.setDown(false)
	l.reports.set(func() { l.reports.err = nil })
	l.pass(5 * time.Second)
}

// wantJudged looks at all that the kernel judges.
func (l *lab) wantJudged(want ...string) {
	l.t.Helper()
	if loaded := l.kernel.now(); loaded == nil {
		l.t.Errorf("the kernel is empty, want %v judged", want)
	} else if got := loaded.Judged.Strings(); !slices.Equal(got, want) {
		l.t.Errorf("judged %v, want %v", got, want)
	}
}

func TestWhatIsDoneBeforeTheAPIServerIsHeard(t *testing.T) {
	for _, c := range []struct {
		sentence string
		found    situation
		want     resumption
	}{
		{"an agent that restarts leaves the kernel as it is", situation{intact: true, kept: true, trace: true}, leave},
		{"so does the boot unit", situation{intact: true, kept: true, trace: true, boot: true}, leave},
		{"a rebooted node gets its last rules", situation{kept: true, trace: true}, restore},
		{"so does one whose rules somebody removed", situation{kept: true, trace: true, up: time.Hour}, restore},
		{"a node whose last rules are lost is closed", situation{trace: true, up: time.Hour}, shut},
		{"a node that has just joined is closed", situation{up: time.Minute}, shut},
		{"a running node is left alone when Portreeve is installed", situation{up: young}, leave},
		{"the boot unit closes whatever it finds", situation{boot: true, up: young}, shut},
	} {
		if got := c.found.resume(); got != c.want {
			t.Errorf("%s: %v, want %v", c.sentence, got, c.want)
		}
	}
}

func TestAfterARebootTheLastRulesComeFromTheDisk(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		before := *l.kernel.now()
		l.down()
		l.reboot()
		l.start()
		l.wantCalls("have", "sync") // and no sweep
		if loaded := l.kernel.now(); loaded == nil || !loaded.Equal(before) {
			t.Fatalf("in force %+v, want %+v", loaded, before)
		}
		if got := l.reports.stored.Status.BootID; got != "boot-1" {
			t.Errorf("boot %s was reported without an API server", got)
		}
		// Somebody flushes them before the API server is back.
		l.kernel.set(func() { l.kernel.loaded = nil })
		l.pass(checkInterval)
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantAdmits(30081, "203.0.113.7", false)

		l.kernel.take()
		version := l.allocations.put(closed(30080))
		l.up()
		l.wantAdmits(30080, "203.0.113.7", false)
		l.wantMarks("101", version)
		if got := l.kernel.lastSweep(); got.Len() != 100 {
			t.Errorf("swept %v, want the whole pool", got)
		}
	})
}

func TestWhatWasClosedAMomentBeforeTheRebootStaysClosed(t *testing.T) {
	inLab(t, func(l *lab) {
		l.allocations.put(open(30082, "203.0.113.0/24"))
		l.start() // which writes the rules, and not again within keepPause
		file := newRulesFile(l.stateDir).path
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		l.allocations.put(closed(30080))
		l.pass(roundPause)
		marks, err := os.ReadFile(l.agent.marksFile.path)
		if err != nil {
			t.Fatal(err)
		}
		now, err := os.ReadFile(file)
		if err != nil || string(now) != string(before) {
			t.Fatalf("the rules were written again at once: %v", err)
		}
		l.down()
		l.reboot()
		// The power is cut: nobody writes at the end.
		if err := os.WriteFile(file, before, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(l.agent.marksFile.path, marks, 0o600); err != nil {
			t.Fatal(err)
		}
		l.start()
		l.wantAdmits(30080, "203.0.113.7", false)
		l.wantAdmits(30082, "203.0.113.7", true)
	})
}

func TestRulesThatCannotBeUsedCloseTheFallbackRange(t *testing.T) {
	for _, c := range []struct {
		sentence string
		spoil    func(data string) string
	}{
		{"torn", func(d string) string { return d[:len(d)/2] }},
		{"empty", func(string) string { return "" }},
		{"changed", func(d string) string { return strings.Replace(d, "203.0.113.0", "203.0.112.0", 1) }},
		{"edited", func(d string) string { return strings.Replace(d, "30000-30099", "30000-30098", 1) }},
		{"newer", func(d string) string { return strings.Replace(d, "portreeve rules 1 ", "portreeve rules 2 ", 1) }},
	} {
		t.Run(c.sentence, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.start()
				l.down()
				l.reboot()
				file := newRulesFile(l.stateDir).path
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(c.spoil(string(data))), 0o600); err != nil {
					t.Fatal(err)
				}
				l.start()
				l.wantJudged("30000-32767")
				l.wantAdmits(30080, "203.0.113.7", false)
				l.restart() // still away
				l.wantJudged("30000-32767")
				l.up()
				l.wantJudged("30000-30099")
				l.wantAdmits(30080, "203.0.113.7", true)
				l.wantReason(v1alpha1.ReasonOK)
			})
		})
	}
}

// The range is none that a pool had: a cluster without pools must not look like one
// whose pools have vanished.
func TestFallbackIsNoPoolThatVanished(t *testing.T) {
	inLab(t, func(l *lab) {
		l.pools.remove("web")
		l.allocations.remove("30080", "30081")
		l.host.booted = time.Now() // a node that has just joined
		l.down()
		l.start()
		l.wantJudged("30000-32767")
		l.restart()
		l.up()
		l.wantJudged()
		l.wantReason(v1alpha1.ReasonOK)
	})
}

func TestInstallingOnARunningNodeClosesNothingBeforeItIsTold(t *testing.T) {
	inLab(t, func(l *lab) {
		l.down()
		l.start()
		l.pass(time.Minute)
		l.wantUntouched()
		l.up()
		l.wantAdmits(30080, "203.0.113.7", true)
		if s := l.status(); s.ExposedSeconds == nil || *s.ExposedSeconds > 70 {
			t.Errorf("exposed for %v, want it counted from the agent's start", s.ExposedSeconds)
		}
	})
}

func TestRulesOfAnotherNodeAreRefused(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.stop()
		for _, name := range []string{"n2", ""} {
			_, _, err := loadRules(newRulesFile(l.stateDir), name)
			if (err == nil) != (name == "") {
				t.Errorf("as node %q: %v", name, err)
			}
		}
	})
}

func TestALockdownComesBackWithTheNode(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.installation.put(installation(true))
		l.pass(roundPause) // and no time to write the rules
		l.down()
		l.reboot()
		l.start()
		l.wantAdmits(30080, "203.0.113.7", false)
	})
}

func TestAnEndThatPassedWhileTheNodeWasOff(t *testing.T) {
	port := rule.Port{Protocol: rule.TCP, Number: 30080}
	s := rule.Build(ranged(t, "30080-30089"), map[rule.Port]rule.Terms{port: {Sources: rule.World, Expires: 1000}})
	for now, open := range map[int64]bool{999: true, 1000: false, 1001: false} {
		if got := without(s, nil, time.Unix(now, 0)); (len(got.Sources(port)) > 0) != open {
			t.Errorf("at %d: %+v", now, got.Ports)
		}
	}
	if got := without(s, ranged(t, "30085", "30100"), time.Unix(0, 0)); !slices.Equal(got.Judged.Strings(), []string{"30080-30089", "30100"}) {
		t.Errorf("judged %v: what was closed last must be judged", got.Judged.Strings())
	}
}

func TestExposedSeconds(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.down()
		l.reboot()
		l.pass(42*time.Second + time.Millisecond)
		l.start()
		l.up()
		for range 2 { // a restart does not count anew
			if s := l.status(); s.ExposedSeconds == nil || *s.ExposedSeconds != 43 {
				t.Errorf("exposed for %v, want 43 s", s.ExposedSeconds)
			}
			if got := testutil.ToFloat64(l.agent.metrics.exposed); got != 43 {
				t.Errorf("metric %v, want 43", got)
			}
			l.pass(time.Minute)
			l.restart()
		}
	})
}

func TestBoot(t *testing.T) {
	inLab(t, func(l *lab) {
		boot := func() {
			t.Helper()
			l.host.set(func() { l.host.booted = time.Now().Add(-3 * time.Second) })
			c := l.config(Sources{})
			c.Node = "" // nobody has told
			if err := New(c).Boot(l.t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		boot() // for the first time
		l.wantJudged("30000-32767")
		l.host.listen("tcp/30050")
		l.start()
		l.wantAdmits(30050, "203.0.113.7", true) // it was here before any pool
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantReserved("30000-30099")
		l.reboot()
		l.pass(time.Minute)
		boot()
		l.wantAdmits(30050, "203.0.113.7", true)
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantAdmits(30080, "198.51.100.7", false)
		l.wantReserved("30000-30099")
		l.kernel.take()
		l.start()
		l.wantCalls("have", "confirm", "sweep")
		if s := l.status(); s.ExposedSeconds == nil || *s.ExposedSeconds != 3 {
			t.Errorf("exposed for %v, want 3 s", s.ExposedSeconds)
		}
	})
}

// The firewall is what the installation asks for, or was in use before this agent's
// version: whichever holds the rules, they are not to be doubled by those from the disk.
func TestAnAgentThatStartsLooksWhereTheRulesAre(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		t.Run(fmt.Sprintf("forgotten=%v", forgotten), func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.other = &fakeKernel{}
				p := installation(false)
				p.Spec.Firewall = v1alpha1.FirewallIPTables
				l.installation.put(p)
				l.start()
				l.down()
				l.stop()
				if forgotten {
					if err := os.Remove(newNodeFile(l.stateDir).path); err != nil {
						t.Fatal(err)
					}
				}
				l.other.take()
				l.start()
				l.pass(time.Minute)
				if l.kernel.now() != nil || l.other.now() == nil || slices.Contains(l.other.take(), "sync") {
					t.Error("the kernel was changed before the API server was read")
				}
				if forgotten {
					return
				}
				l.reboot()
				l.other.set(func() { l.other.loaded = nil })
				l.start()
				if l.kernel.now() != nil || l.other.now() == nil {
					t.Error("the rules came back by another firewall")
				}
				// The node has lost what it takes.
				l.reboot()
				l.other.set(func() {
					l.other.loaded, l.other.openErr = nil, fmt.Errorf("fake: no ipset: %w", datapath.ErrUnsupported)
				})
				l.start()
				l.wantAdmits(30080, "203.0.113.7", true)
				l.wantAdmits(30080, "198.51.100.7", false)
			})
		})
	}
}

func TestForget(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.reserved = ranged(t, "8080", "30005")
		l.start()
		l.wantReserved("8080", "30000-30099")
		l.stop()
		for range 2 {
			if err := New(l.config(Sources{})).Forget(); err != nil {
				t.Fatal(err)
			}
			l.wantReserved("8080", "30005")
		}
		left, err := os.ReadDir(l.stateDir)
		if err != nil || len(left) != 1 || left[0].Name() != "marks.json" {
			t.Errorf("left %v, %v, want the marks only", left, err)
		}
	})
}
