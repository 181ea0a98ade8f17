package iptables

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/internal/rule"
)

// standIn makes the node look as the version before gates left it: one chain of
// twelve rules, and no sets but those. It has synced a set that audits nothing.
func standIn(t *testing.T, w *datapathtest.World, mode Mode) {
	t.Helper()
	rules := []string{
		"-i lo -j RETURN",
		"! -p sctp -m set ! --match-set PORTREEVE-JUDGED dst -j RETURN",
		"-p sctp -m set ! --match-set PORTREEVE-SCTP# src,dst -j RETURN",
		"-m conntrack --ctdir REPLY -j RETURN",
		"-p tcp ! --syn -m conntrack --ctstate INVALID,UNTRACKED -j RETURN",
		"-m addrtype ! --dst-type LOCAL -j RETURN",
		"-m set --match-set PORTREEVE-EXEMPT# dst -j RETURN",
		"-m set --match-set PORTREEVE-ADMIT# src,dst -j RETURN",
		`-m set --match-set PORTREEVE-AUDIT dst -m conntrack ! --ctstate ESTABLISHED -m limit --limit 10/sec --limit-burst 20 -j LOG --log-level info --log-prefix "portreeve audit: "`,
		"-m set --match-set PORTREEVE-AUDIT dst -j RETURN",
		"-m set --match-set PORTREEVE-JUDGED dst -j DROP",
		"-p sctp -m set --match-set PORTREEVE-SCTP# src,dst -j DROP",
	}
	for _, f := range families() {
		digit := map[iptables.Protocol]string{iptables.ProtocolIPv4: "4", iptables.ProtocolIPv6: "6"}[f]
		var b strings.Builder
		b.WriteString("*mangle\n:PORTREEVE-A - [0:0]\n")
		for i, r := range rules {
			fmt.Fprintf(&b, "-A PORTREEVE-A -m comment --comment portreeve-%d %s\n", i+1, strings.ReplaceAll(r, "#", digit))
		}
		b.WriteString("-I PREROUTING 1 -j PORTREEVE-A\n-D PREROUTING -j PORTREEVE\n")
		for _, verb := range []string{"-F", "-X"} {
			for _, chain := range []string{chainMain, chainPass, chainCount, chainOver, chainShut, chainDeny} {
				fmt.Fprintf(&b, "%s %s\n", verb, chain)
			}
		}
		b.WriteString("COMMIT\n")
		w.Node.Command(t, b.String(), command(f)+"-"+string(mode)+"-restore", "-w", "10", "-n")
	}
	for _, id := range []setID{sctpAudit4, sctpAudit6, aside4, aside6, denied4, denied6, places4, places6, ends4, ends6, alive4, alive6} {
		w.Node.Command(t, "", "ipset", "destroy", string(id))
	}
	w.Restart()
}

// An agent of this version finds the chain of the one before, and puts its own in the
// place of it: nobody is let in who was out, and nobody shut out who was in.
func TestTheChainOfAnotherVersionIsReplacedWithoutAGap(t *testing.T) {
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
		if now := w.Node.Command(t, "", "iptables-"+string(mode)+"-save", "-t", "mangle"); strings.Contains(now, "PORTREEVE-A ") || strings.Count(now, "-j PORTREEVE\n") != 1 {
			t.Errorf("the node's chains are not ours alone: %s", now)
		}
	})
}

// A kernel that can't log enforces and passes what it is to, and says so only
// while something is to be logged. When it can, it does.
func TestAKernelWithoutLogEnforcesAndSaysSo(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, d := newNode(t, mode)
		for _, s := range d.skeletons {
			s.target = "NO-SUCH-TARGET"
		}
		plain := datapathtest.Set(datapathtest.Pool, "tcp/30050 alice")
		for _, want := range []rule.Set{
			plain.WithAudited(datapathtest.Numbers("30060")),
			datapathtest.Set(datapathtest.Pool, "tcp/30050 alice log=denied,accepted connections=5", "tcp/30060 audited=mallory", "udp/30060 world", "sctp/30060 world"),
		} {
			sync := func() error {
				return w.Node.Do(func() error { return d.Sync(context.Background(), want) })
			}
			w.Sync(plain) // nothing is to be logged, so nothing is amiss
			if err := sync(); !errors.Is(err, datapath.ErrUnlogged) || !errors.Is(err, datapath.ErrUnsupported) {
				t.Errorf("Sync = %v, want ErrUnlogged", err)
			}
			expect := func() {
				t.Helper()
				w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped", "mallory sctp/30061 dropped",
					"mallory tcp/30060 answered", "mallory udp/30060 answered", "mallory sctp/30060 answered")
				if have, err := w.Have(); err != nil || !have.Equal(want) {
					t.Errorf("Have = %v, %v, want %v", have, err, want)
				}
			}
			expect()
			before := d.Changes()
			if err := sync(); !errors.Is(err, datapath.ErrUnlogged) || d.Changes() != before {
				t.Errorf("a second Sync = %v after %d changes, want ErrUnlogged after none", err, d.Changes()-before)
			}
			for _, s := range d.skeletons {
				s.target = "NFLOG" // the module is loaded
			}
			w.Sync(want)
			expect()
			if n := d.Changes() - before; n != len(d.skeletons) {
				t.Errorf("logging began with %d changes, want one per family", n)
			}
			for _, s := range d.skeletons {
				s.target = "NO-SUCH-TARGET"
			}
		}
	})
}

// The rules that count connections go on counting when another port's come or go,
// where the kernel lets them: in legacy mode every change of anybody's makes the whole
// table anew.
func TestConnectionsAreCountedOnWhileOthersChange(t *testing.T) {
	w, _ := newNode(t, NFT)
	w.Sync(datapathtest.Set(datapathtest.Pool, "tcp/30050 alice connections=2"))
	rules := func() string {
		var out []string
		for _, line := range strings.Split(w.Node.Command(t, "", "nft", "-a", "list", "chain", "ip", "mangle", chainCount), "\n") {
			if strings.Contains(line, "30050") {
				out = append(out, line[strings.Index(line, "# handle"):])
			}
		}
		return strings.Join(out, "\n")
	}
	before := rules()
	w.Sync(datapathtest.Set(datapathtest.Pool, "tcp/30050 alice connections=2 persecond=5", "tcp/30051 alice connections=2 log=denied"))
	w.Sync(datapathtest.Set(datapathtest.Pool, "tcp/30050 alice connections=2", "udp/30050 mallory log=denied"))
	if after := rules(); before == "" || after != before {
		t.Errorf("the rule was %q and is %q: it was made anew", before, after)
	}
}

func TestTheNameOfASetSaysWhatItIs(t *testing.T) {
	for _, p := range []property{
		{kind: counted}, {rated, 50, 100}, {rated, math.MaxUint32, math.MaxUint32}, {denials, 1, 0}, {accepted, math.MaxUint32, 0},
	} {
		for i, id := range p.sets() {
			got, family, ok := parseProperty(id)
			if !ok || got != p || family != []uint8{unix.AF_INET, unix.AF_INET6}[i] || len(id) > 31 {
				t.Errorf("%s reads as %v of family %d, %t; want %v", id, got, family, ok, p)
			}
		}
	}
	for _, id := range append(slices.Clone(fixedSets), "PORTREEVE-R4-1", "PORTREEVE-R4-01-2", "PORTREEVE-LD4-1-2", "PORTREEVE-CONN", "PORTREEVE-R5-1-2", "other") {
		if p, _, ok := parseProperty(id); ok {
			t.Errorf("%s reads as %v", id, p)
		}
	}
}

func TestACountingRuleReadsBack(t *testing.T) {
	for _, f := range []iptables.Protocol{iptables.ProtocolIPv4, iptables.ProtocolIPv6} {
		for _, protocol := range rule.Protocols {
			port := rule.Port{Protocol: protocol, Number: 30050}
			words := countRule(f, port, 7)
			if got, n, ok := parseCountRule(f, words); !ok || got != port || n != 7 {
				t.Errorf("%v reads as %v, %d, %t", words, got, n, ok)
			}
			words[len(words)-1] = "ACCEPT"
			if _, _, ok := parseCountRule(f, words); ok {
				t.Errorf("%v reads as ours", words)
			}
		}
	}
}
