package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// paper collects the lines of a log.
type paper struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (p *paper) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.Write(data)
}

// take returns the lines with that message since the last take.
func (p *paper) take(t *testing.T, message string) (lines []map[string]any) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for text := range strings.Lines(p.buf.String()) {
		line := map[string]any{}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if line["msg"] == message {
			lines = append(lines, line)
		}
	}
	p.buf.Reset()
	return lines
}

// fakePackets is a kernel's log: what is sent is delivered.
type fakePackets struct {
	sent chan datapath.Packet
	errs []error // of the next runs
}

func (f *fakePackets) run(ctx context.Context, deliver func(datapath.Packet)) error {
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-f.sent:
			deliver(p)
		}
	}
}

func (f *fakePackets) send(reason datapath.Reason, number uint16, times int) {
	for range times {
		f.sent <- datapath.Packet{
			Reason: reason, Protocol: rule.TCP, Port: number, SourcePort: 40000, Interface: "eth0",
			Source: netip.MustParseAddr("198.51.100.7"), Destination: netip.MustParseAddr("10.0.0.1"),
		}
	}
	synctest.Wait()
}

// inPressRoom runs a test in a lab whose agent logs packets.
func inPressRoom(t *testing.T, test func(l *lab, kernel *fakePackets, lines *paper)) {
	inLab(t, func(l *lab) {
		kernel, lines := &fakePackets{sent: make(chan datapath.Packet)}, &paper{}
		l.packets, l.lines = kernel.run, slog.NewJSONHandler(lines, nil)
		test(l, kernel, lines)
	})
}

// logged is an open allocation whose policy wants lines.
func logged(number uint16, log v1alpha1.Log) v1alpha1.NodePortAllocation {
	a := open(number, "203.0.113.0/24")
	a.Spec.Claim = v1alpha1.Claim{Namespace: "shop", Policy: "web", Service: "frontend"}
	a.Spec.Pool, a.Spec.Team, a.Spec.Log = "payments", "till", log
	return a
}

func TestADroppedPacketIsALineThatNamesItsPolicy(t *testing.T) {
	inPressRoom(t, func(l *lab, kernel *fakePackets, lines *paper) {
		l.allocations.put(logged(30082, v1alpha1.Log{Denied: true}))
		l.start()
		lines.take(t, "")
		kernel.send(datapath.NotAdmitted, 30082, 1)
		l.pass(time.Second)
		got := lines.take(t, "packet")
		if len(got) != 1 {
			t.Fatalf("%d lines, want one", len(got))
		}
		delete(got[0], "time")
		want := map[string]any{
			"level": "INFO", "msg": "packet", "verdict": "dropped", "reason": "not-admitted", "protocol": "TCP",
			"source": "198.51.100.7", "sourcePort": 40000.0, "destination": "10.0.0.1", "port": 30082.0, "interface": "eth0",
			"namespace": "shop", "policy": "web", "service": "frontend", "pool": "payments", "team": "till",
		}
		for key, value := range want {
			if got[0][key] != value {
				t.Errorf("%s: %v, want %v", key, got[0][key], value)
			}
		}
		if len(got[0]) != len(want) {
			t.Errorf("line %v, want %v", got[0], want)
		}
	})
}

func TestAPolicySaysWhichPacketsAreWrittenDownAndAllAreCounted(t *testing.T) {
	for reason, wanted := range map[datapath.Reason][]v1alpha1.Log{
		datapath.NotAdmitted: {{Denied: true}}, datapath.Limited: {{Denied: true}}, datapath.Denied: {{Denied: true}},
		datapath.Accepted: {{Accepted: true}},
		datapath.Audited:  {{}, {Denied: true}, {Accepted: true}},
	} {
		t.Run(string(reason), func(t *testing.T) {
			for _, log := range []v1alpha1.Log{{}, {Denied: true}, {Accepted: true}} {
				want := 0
				for _, w := range wanted {
					if w == log {
						want = 1
					}
				}
				inPressRoom(t, func(l *lab, kernel *fakePackets, lines *paper) {
					l.allocations.put(logged(30082, log))
					l.start()
					kernel.send(reason, 30082, 1)
					l.pass(time.Second)
					if got := lines.take(t, "packet"); len(got) != want {
						t.Errorf("log %+v: %d lines, want %d", log, len(got), want)
					}
					if got := testutil.ToFloat64(l.agent.journal.packets.WithLabelValues("shop", "web", string(reason))); got != 1 {
						t.Errorf("log %+v: %v counted", log, got)
					}
				})
			}
		})
	}
}

func TestAnAuditedNumberIsLoggedWithItsPool(t *testing.T) {
	inPressRoom(t, func(l *lab, kernel *fakePackets, lines *paper) {
		l.start()
		kernel.send(datapath.Unclaimed, 30050, 1)
		l.pass(time.Second)
		got := lines.take(t, "packet")
		if len(got) != 1 || got[0]["verdict"] != "passed" || got[0]["pool"] != "web" || got[0]["policy"] != nil {
			t.Errorf("lines %v", got)
		}
		kernel.send(datapath.NotAdmitted, 30050, 1) // of an allocation that has just closed
		l.pass(time.Second)
		if got := lines.take(t, "packet"); len(got) != 0 {
			t.Errorf("lines %v of nobody's packet", got)
		}
	})
}

func TestLinesAreBoundedByPolicyAndTheRestIsTold(t *testing.T) {
	inPressRoom(t, func(l *lab, kernel *fakePackets, lines *paper) {
		l.allocations.put(logged(30082, v1alpha1.Log{Denied: true, PerSecond: 3}))
		l.allocations.put(logged(30083, v1alpha1.Log{Denied: true, PerSecond: 3})) // of the same policy
		other := logged(30084, v1alpha1.Log{Denied: true})
		other.Spec.Claim.Policy = "api"
		l.allocations.put(other)
		l.start()
		kernel.send(datapath.NotAdmitted, 30082, 50)
		kernel.send(datapath.Limited, 30083, 50)
		kernel.send(datapath.NotAdmitted, 30084, 5)
		if got := lines.take(t, "packet"); len(got) != 3+5 {
			t.Errorf("%d lines, want 3 of one policy and 5 of the other", len(got))
		}
		l.pass(time.Second)
		kernel.send(datapath.NotAdmitted, 30083, 10)
		got := lines.take(t, "packet")
		if len(got) != 3 || got[0]["suppressed"] != 97.0 || got[1]["suppressed"] != nil {
			t.Errorf("lines %v, want three, the first with what was left out before", got)
		}
		l.pass(2 * tellEvery)
		if got := lines.take(t, "packets not logged"); len(got) != 1 || got[0]["suppressed"] != 7.0 || got[0]["policy"] != "web" {
			t.Errorf("told %v, want once, of seven", got)
		}
		if got := testutil.ToFloat64(l.agent.journal.suppressed); got != 104 {
			t.Errorf("%v suppressed lines counted", got)
		}

		l.allocations.put(logged(30082, v1alpha1.Log{Denied: true, PerSecond: 20}))
		l.allocations.put(logged(30083, v1alpha1.Log{Denied: true, PerSecond: 20}))
		l.pass(2 * time.Second)
		kernel.send(datapath.NotAdmitted, 30082, 1) // hears of the new bound
		l.pass(time.Second)
		lines.take(t, "")
		kernel.send(datapath.NotAdmitted, 30082, 50)
		if got := lines.take(t, "packet"); len(got) != 20 {
			t.Errorf("%d lines, want as many as the policy says now", len(got))
		}
	})
}

func TestCountersGoWithTheirPolicy(t *testing.T) {
	inPressRoom(t, func(l *lab, kernel *fakePackets, lines *paper) {
		l.allocations.put(logged(30082, v1alpha1.Log{Denied: true, PerSecond: 1}))
		l.start()
		kernel.send(datapath.NotAdmitted, 30082, 3)
		kernel.send(datapath.Unclaimed, 30050, 1)
		l.pass(time.Second)
		if got := testutil.CollectAndCount(l.agent.journal.packets); got != 2 {
			t.Errorf("%d counters, want one of the policy and one of nobody", got)
		}
		l.allocations.put(closed(30082))
		l.pass(time.Second)
		if got := testutil.CollectAndCount(l.agent.journal.packets); got != 1 {
			t.Errorf("%d counters after the policy went", got)
		}
		if got := lines.take(t, "packets not logged"); len(got) != 1 || got[0]["suppressed"] != 2.0 {
			t.Errorf("told %v, want what was left out of the policy that went", got)
		}
	})
}

func TestPacketsThatCannotBeReadAreAskedForAgain(t *testing.T) {
	inPressRoom(t, func(l *lab, kernel *fakePackets, lines *paper) {
		kernel.errs = []error{errors.New("no nflog"), errors.New("no nflog")}
		l.allocations.put(logged(30082, v1alpha1.Log{Denied: true}))
		l.start()
		l.wantReason(v1alpha1.ReasonOK)
		l.pass(10 * time.Second)
		if got := lines.take(t, "packets can't be read from the kernel, so none are logged; trying again"); len(got) != 1 {
			t.Errorf("said %d times", len(got))
		}
		kernel.send(datapath.NotAdmitted, 30082, 1)
		l.pass(time.Second)
		if got := lines.take(t, "packet"); len(got) != 1 {
			t.Errorf("lines %v", got)
		}
	})
}
