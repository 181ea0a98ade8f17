package iptables

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-iptables/iptables"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
)

// rulesBeforeAudits are the ten rules of the version that knew no audits.
func rulesBeforeAudits(f iptables.Protocol) [][]string {
	family := "4"
	if f == iptables.ProtocolIPv6 {
		family = "6"
	}
	var out [][]string
	for i, r := range []string{
		"-i lo -j RETURN",
		"! -p sctp -m set ! --match-set PORTREEVE-JUDGED dst -j RETURN",
		"-p sctp -m set ! --match-set PORTREEVE-SCTP# src,dst -j RETURN",
		"-m conntrack --ctdir REPLY -j RETURN",
		"-p tcp ! --syn -m conntrack --ctstate INVALID,UNTRACKED -j RETURN",
		"-m addrtype ! --dst-type LOCAL -j RETURN",
		"-m set --match-set PORTREEVE-EXEMPT# dst -j RETURN",
		"-m set --match-set PORTREEVE-ADMIT# src,dst -j RETURN",
		"-m set --match-set PORTREEVE-JUDGED dst -j DROP",
		"-p sctp -m set --match-set PORTREEVE-SCTP# src,dst -j DROP",
	} {
		out = append(out, slices.Concat(commentMatch, []string{comment(i)}, fields(strings.ReplaceAll(r, "#", family))))
	}
	return out
}

// standIn makes the node look as the version before left it: its ten rules, and no
// set of audited numbers.
func standIn(t *testing.T, w *datapathtest.World, mode Mode) {
	t.Helper()
	err := w.Node.Do(func() error {
		skeletons, err := openSkeletons(mode)
		if err != nil {
			return err
		}
		for _, s := range skeletons {
			s.rules = rulesBeforeAudits(s.ipt.Proto())
			jumps, err := s.jumps()
			if err != nil {
				return err
			}
			chain := chainA
			if slices.Contains(jumps, chainA) {
				chain = chainB
			}
			if err := s.ipt.NewChain(table, chain); err != nil {
				return err
			}
			for _, r := range s.rules {
				if err := s.ipt.Append(table, chain, r...); err != nil {
					return err
				}
			}
			if err := s.ipt.Insert(table, hook, 1, "-j", chain); err != nil {
				return err
			}
			if err := s.prune(chain, append([]string{chain}, jumps...)); err != nil {
				return err
			}
		}
		return w.Datapath.(*Datapath).sets.destroy(audited)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Restart()
}

// An agent that knows audits finds the chain of one that did not, and puts its own
// in the place of it: nobody is let in who was out, and nobody shut out who was in.
func TestAChainFromBeforeAuditsIsReplacedWithoutAGap(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, _ := newNode(t, mode)
		want := datapathtest.Set(datapathtest.Pool, "udp/30050 alice")
		w.Sync(want)
		standIn(t, w, mode)
		w.Expect("alice udp/30050 answered", "mallory udp/30050 dropped", "mallory sctp/30050 dropped")
		stop := w.Watch("udp/30050", "alice", "mallory")
		if _, err := w.Have(); !errors.Is(err, datapath.ErrDamaged) {
			t.Errorf("Have = %v, want ErrDamaged", err)
		}
		auditing := want.WithAudited(datapathtest.Numbers("30060"))
		w.Sync(auditing)
		if have, err := w.Have(); err != nil || !have.Equal(auditing) {
			t.Errorf("Have = %v, %v, want %v", have, err, auditing)
		}
		stop()
		w.Expect("mallory udp/30060 answered", "mallory tcp/30060 answered", "mallory sctp/30060 answered", "mallory tcp/30061 dropped")
		if now := w.Node.Command(t, "", "iptables-"+string(mode)+"-save", "-t", "mangle"); strings.Count(now, "-j PORTREEVE-") != 1 || !strings.Contains(now, "-j LOG") {
			t.Errorf("the node's chain is not ours alone: %s", now)
		}
	})
}

// A kernel that can't log enforces and passes what it is to, and says so only
// while something is to be logged. When it can, it does.
func TestAKernelWithoutLogPassesWhatIsAuditedAndSaysSo(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, d := newNode(t, mode)
		able := make([][]string, len(d.skeletons))
		for i, s := range d.skeletons {
			able[i], s.rules[logRule] = s.rules[logRule], []string{"-m", "comment", "--comment", comment(logRule), "-j", "NO-SUCH-TARGET"}
		}
		plain := datapathtest.Set(datapathtest.Pool, "tcp/30050 alice")
		auditing := plain.WithAudited(datapathtest.Numbers("30060"))
		sync := func() error {
			return w.Node.Do(func() error { return d.Sync(context.Background(), auditing) })
		}
		w.Sync(plain) // nothing is to be logged, so nothing is amiss
		if err := sync(); !errors.Is(err, datapath.ErrUnlogged) || !errors.Is(err, datapath.ErrUnsupported) {
			t.Errorf("Sync = %v, want ErrUnlogged", err)
		}
		expect := func() {
			w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped", "mallory sctp/30061 dropped",
				"mallory tcp/30060 answered", "mallory udp/30060 answered", "mallory sctp/30060 answered")
			if have, err := w.Have(); err != nil || !have.Equal(auditing) {
				t.Errorf("Have = %v, %v, want %v", have, err, auditing)
			}
		}
		expect()
		before := d.Changes()
		if err := sync(); !errors.Is(err, datapath.ErrUnlogged) || d.Changes() != before {
			t.Errorf("a second Sync = %v after %d changes, want ErrUnlogged after none", err, d.Changes()-before)
		}
		for i, s := range d.skeletons {
			s.rules[logRule] = able[i] // the module is loaded
		}
		w.Sync(auditing)
		expect()
		if n := d.Changes() - before; n != len(d.skeletons) {
			t.Errorf("logging began with %d changes, want one rule per family", n)
		}
		// A foreign hand takes it out: the enforcement is whole all the while.
		w.Node.Command(t, "", "iptables-"+string(mode), "-w", "10", "-t", "mangle", "-D", chainA, "9")
		expect()
		w.Sync(auditing)
		if now := w.Node.Command(t, "", "iptables-"+string(mode)+"-save", "-t", "mangle"); !strings.Contains(now, "-j LOG") {
			t.Errorf("the log rule did not come back: %s", now)
		}
	})
}
