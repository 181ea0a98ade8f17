package firewalls

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/datapath/nftables"
	"github.com/portreeve/portreeve/internal/rule"
)

// scene is a node on which our rules are in force while others act.
type scene struct {
	t        *testing.T
	inside   func(do func() error) error // the node
	datapath datapath.Datapath
	expect   func(packets ...string)
	want     rule.Set
	owned    bool   // nobody else can change our rules
	print    uint64 // when they were last seen to be right
}

func newScene(t *testing.T, inside func(func() error) error, d datapath.Datapath, want rule.Set, expect func(...string)) *scene {
	t.Helper()
	s := &scene{t: t, inside: inside, datapath: d, want: want, expect: expect}
	s.do(func() error { return d.Sync(t.Context(), want) })
	if n, ok := d.(*nftables.Datapath); ok {
		s.owned = n.Owned()
	}
	s.print = s.fingerprint()
	return s
}

func (s *scene) do(f func() error) {
	s.t.Helper()
	if err := s.inside(f); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) fingerprint() (print uint64) {
	s.t.Helper()
	s.do(func() (err error) {
		print, err = s.datapath.(datapath.Fingerprinter).Fingerprint()
		return err
	})
	return print
}

func (s *scene) changes() int { return s.datapath.(interface{ Changes() int }).Changes() }

// intact says whether the kernel holds all of ours and nothing else, and if not,
// what is amiss.
func (s *scene) intact() (whole bool, amiss error) {
	_ = s.inside(func() error {
		have, err := s.datapath.Have(s.t.Context())
		whole, amiss = err == nil && have.Equal(s.want), err
		return nil
	})
	return whole, amiss
}

// act is something that somebody else does on the node.
type act struct {
	says    string
	do      func()
	flushes bool     // it takes rules of ours away if it can
	packets []string // what becomes of packets then
}

// after lets somebody act, does what an agent does then, and holds both to what is
// promised.
func (s *scene) after(a act) {
	s.t.Helper()
	s.t.Logf("after %s:", a.says)
	changes := s.changes()
	a.do()
	print := s.fingerprint()
	whole, amiss := s.intact()
	switch {
	case s.owned && (!whole || print != s.print):
		s.t.Errorf("our own table was touched: %v", amiss)
	case !whole && print == s.print:
		s.t.Errorf("rules of ours were touched (%v) and the fingerprint is as before", amiss)
	case !s.owned && whole && a.flushes:
		s.t.Error("it was to touch rules of ours, and did not: the scene proves nothing")
	}
	if s.owned {
		s.expect(a.packets...)
	}
	before := s.theirs()
	s.do(func() error { return s.datapath.Sync(s.t.Context(), s.want) })
	s.same("our Sync", before, s.theirs())
	if s.owned {
		if n := s.changes() - changes; n != 0 {
			s.t.Errorf("there was nothing to repair, and Sync changed %d objects", n)
		}
		return
	}
	if whole, amiss := s.intact(); !whole {
		s.t.Errorf("one Sync did not repair: %v", amiss)
	}
	s.print = s.fingerprint()
	s.expect(a.packets...)
}

// leave takes all of ours away, which nobody else is to notice, and brings it back.
func (s *scene) leave(packets ...string) {
	s.t.Helper()
	s.t.Log("after our clean-up:")
	before := s.theirs()
	s.do(func() error { return s.datapath.Cleanup(s.t.Context()) })
	s.same("our Cleanup", before, s.theirs())
	s.expect(packets...)
	s.do(func() error { return s.datapath.Sync(s.t.Context(), s.want) })
	s.same("our first Sync", before, s.theirs())
	s.print = s.fingerprint()
}

func (s *scene) same(what, before, after string) {
	s.t.Helper()
	if before == after {
		return
	}
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	told := false
	for _, line := range old {
		if !slices.Contains(now, line) {
			told = true
			s.t.Errorf("%s took away what others keep: %s", what, line)
		}
	}
	for _, line := range now {
		if !slices.Contains(old, line) {
			told = true
			s.t.Errorf("%s added to what others keep: %s", what, line)
		}
	}
	for i := range min(len(old), len(now)) {
		if !told && old[i] != now[i] {
			s.t.Errorf("%s put what others keep in another order; line %d was %s and is %s", what, i, old[i], now[i])
			return
		}
	}
	if !told {
		s.t.Errorf("%s doubled or merged what others keep: %d lines, now %d", what, len(old), len(now))
	}
}

func (s *scene) output(argv ...string) string {
	s.t.Helper()
	var out, problems bytes.Buffer
	s.do(func() error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &problems
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, problems.String())
		}
		return nil
	})
	return out.String()
}

var (
	counters = regexp.MustCompile(`\[\d+:\d+\]`)
	// untouched is a built-in chain as the kernel makes it with its table.
	untouched = regexp.MustCompile(`^:[A-Z]+ ACCEPT `)
	// iptablesTable is one that iptables-nft keeps; nft 1.0 can't print all of it.
	iptablesTable = regexp.MustCompile(`^ip6? (filter|nat|mangle|raw|security)$`)
)

// theirs lists what others keep in the packet filters, without counters.
func (s *scene) theirs() string {
	s.t.Helper()
	var b strings.Builder
	for _, program := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		table := ""
		for line := range strings.Lines(s.output(program + "-save")) {
			switch {
			case line[0] == '*':
				table = strings.TrimSpace(line)
			case line[0] == '#', line == "COMMIT\n", untouched.MatchString(line), ours(line):
			default:
				fmt.Fprintln(&b, program, table, strings.TrimSpace(counters.ReplaceAllString(line, "")))
			}
		}
	}
	for line := range strings.Lines(s.output("nft", "list", "tables")) {
		name := strings.TrimPrefix(strings.TrimSpace(line), "table ")
		if !iptablesTable.MatchString(name) && name != "inet portreeve" {
			b.WriteString(s.output(append([]string{"nft", "--stateless", "list", "table"}, strings.Fields(name)...)...))
		}
	}
	for name := range strings.Lines(s.output("ipset", "list", "-name")) {
		if !ours(name) {
			b.WriteString(s.output("ipset", "save", strings.TrimSpace(name), "-sorted"))
		}
	}
	return b.String()
}

// ours are the lines that bear our name.
func ours(line string) bool {
	return strings.Contains(line, "PORTREEVE") || strings.Contains(line, "portreeve-")
}

// What the scenes in a datapathtest.World have in common. Port 30050 goes on to a pod;
// the others are listeners of the node itself, the last two outside all pools.
const (
	onThePod  = "tcp/30050"
	onTheNode = "tcp/32500"
	allowed   = "tcp/7443"
	notSaid   = "tcp/7444"
)

func newWorld(t *testing.T, s subject) (*datapathtest.World, *scene) {
	t.Helper()
	w := datapathtest.NewWorld(t, s.open)
	datapathtest.Serve(t, w.Node, 7443)
	datapathtest.Serve(t, w.Node, 7444)
	want := datapathtest.Set(datapathtest.Pool, onThePod+" alice persecond=500", onTheNode+" alice log=denied", "udp/32500 alice").
		WithAudited(datapathtest.Numbers("30060"))
	return w, newScene(t, w.Node.Do, w.Datapath, want, w.Expect)
}

// judged is what our rules make of packets, with what the others' make of theirs.
func judged(others ...string) []string {
	return append(others,
		"alice "+onThePod+" answered", "mallory "+onThePod+" dropped",
		"alice "+onTheNode+" answered", "mallory "+onTheNode+" dropped")
}
