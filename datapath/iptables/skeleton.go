package iptables

import (
	"bytes"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// lockWait bounds, in seconds, the wait for /run/xtables.lock, which kube-proxy
// and others hold while they load their rules.
const lockWait = 10

// skeleton is the rules in one family: the jump and our chains.
type skeleton struct {
	ipt  *iptables.IPTables
	path string // of the program; its restore is beside it
	mode Mode
	// proved is how this iptables prints a chain that was found, rule by rule, to be
	// what it is to be. Versions print differently.
	proved  map[string]proof
	changes int // times that rules were written
	have    listing
	// unlogged says why the chains in use have no rules that log; nil when they have.
	unlogged error
	// target is what packets that are logged go to; a test puts in one that no
	// kernel has.
	target string
	door   door
}

type proof struct{ rules, lines []string }

// listing is what a table holds: the lines of each chain, the first of which makes
// the chain.
type listing map[string][]string

// terms are what the rules depend on.
type terms struct {
	shape       shape
	connections map[rule.Port]uint32
}

func openSkeletons(mode Mode) ([]*skeleton, error) {
	var out []*skeleton
	for _, f := range families() {
		s, err := openSkeleton(mode, f)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func openSkeleton(mode Mode, f iptables.Protocol) (*skeleton, error) {
	ipt, path, err := open(mode, f)
	if err != nil {
		return nil, err
	}
	return &skeleton{ipt: ipt, path: path, mode: mode, proved: map[string]proof{}, target: "NFLOG"}, nil
}

func (s *skeleton) place() string { return command(s.ipt.Proto()) + " " + table + " " + hook }

// run starts iptables, or iptables-restore, and returns what it printed.
func (s *skeleton) run(suffix, stdin string, args ...string) (string, error) {
	var out, problems bytes.Buffer
	cmd := exec.Command(s.path+suffix, append([]string{"-w", strconv.Itoa(lockWait)}, args...)...) //nolint:gosec // of our own making
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s%s: %w: %s", s.path, suffix, err, strings.TrimSpace(problems.String()))
	}
	return out.String(), nil
}

// read lists the whole table, in one process.
func (s *skeleton) read() (listing, error) {
	out, err := s.run("", "", "-t", table, "-S")
	if err != nil {
		return nil, err
	}
	chains := listing{}
	for _, line := range strings.Split(out, "\n") {
		if words := strings.SplitN(line, " ", 3); len(words) > 1 {
			chains[words[1]] = append(chains[words[1]], line)
		}
	}
	return chains, nil
}

// check says what is wrong with the skeleton as it was read, as an error that wraps
// ErrDamaged, or that something may preempt it, as one that wraps ErrPreempted.
func (s *skeleton) check(want terms) error {
	damage, err := s.damage(s.have, want)
	if err != nil {
		return err
	}
	if damage != "" {
		return fmt.Errorf("%s: %s: %w", s.place(), damage, datapath.ErrDamaged)
	}
	if by := preempting(s.have[hook], chainMain, s.have); by != "" {
		return fmt.Errorf("%s: %q stands ahead of our jump: %w", s.place(), by, datapath.ErrPreempted)
	}
	return nil
}

// damage says in what the table differs from what we would make of it, "" for in
// nothing. Chains that log nothing are no damage.
func (s *skeleton) damage(have listing, want terms) (string, error) {
	if jumps := jumpsIn(have[hook]); len(jumps) != 1 || jumps[0] != chainMain {
		return fmt.Sprintf("there are jumps to %q instead of one to %s", jumps, chainMain), nil
	}
	if old := have.outdated(); len(old) > 0 {
		return fmt.Sprintf("chain %s is of another version", old[0]), nil
	}
	for _, logs := range []bool{true, false} {
		damaged, err := s.differing(have, want.shape, logs)
		switch {
		case err != nil:
			return "", err
		case damaged == "":
			if counts, ok := s.counts(have); !ok || !maps.Equal(counts, want.connections) {
				return "chain " + chainCount + " is not as we made it", nil
			}
			return "", nil
		case !logs:
			return "chain " + damaged + " is not as we made it", nil
		}
	}
	return "", nil
}

// differing names the first of our chains, but chainCount, that does not hold exactly
// our rules in our order.
func (s *skeleton) differing(have listing, of shape, logs bool) (string, error) {
	for _, c := range s.chains(of, logs) {
		whole, err := s.whole(table, have[c.name], c)
		if err != nil || !whole {
			return c.name, err
		}
	}
	return "", nil
}

func (s *skeleton) chains(of shape, logs bool) []chain {
	chains := chainsFor(s.ipt.Proto(), of, logs)
	for _, c := range chains {
		for _, r := range c.rules {
			if i := slices.Index(r, "NFLOG"); i >= 0 {
				r[i] = s.target
			}
		}
	}
	return chains
}

// whole says whether the lines are those of the chain of that table. A rule that this iptables prints
// otherwise than we would is looked for by iptables itself.
func (s *skeleton) whole(table string, lines []string, c chain) (bool, error) {
	if len(lines) != len(c.rules)+1 { // the first line creates the chain
		return false, nil
	}
	rules := make([]string, len(c.rules))
	for i, r := range c.rules {
		rules[i] = quoted(r)
	}
	if p, ok := s.proved[c.name]; ok && slices.Equal(p.lines, lines) && slices.Equal(p.rules, rules) {
		return true, nil
	}
	for i, r := range c.rules {
		words := fields(lines[i+1])[2:]
		if slices.Equal(words, r) {
			continue
		}
		_, target, _ := targetOf(quoted(r))
		if !slices.Contains(words, comment(i)) || !slices.Contains(words, target) {
			return false, nil
		}
		exists, err := s.ipt.Exists(table, c.name, r...)
		if err != nil || !exists {
			return false, err
		}
	}
	s.proved[c.name] = proof{rules, lines}
	return true, nil
}

// counts reads chainCount; ok is false when there is something else in it, or it is
// not there.
func (s *skeleton) counts(have listing) (counts map[rule.Port]uint32, ok bool) {
	if len(have[chainCount]) == 0 {
		return nil, false
	}
	counts = map[rule.Port]uint32{}
	for _, line := range have[chainCount][1:] {
		port, connections, ok := parseCountRule(s.ipt.Proto(), fields(line)[2:])
		if _, twice := counts[port]; !ok || twice {
			return nil, false
		}
		counts[port] = connections
	}
	return counts, true
}

// ensure makes the skeleton, as it was read, what it is to be, in one transaction: at
// no moment is there none, or half of one. Its error is check's.
func (s *skeleton) ensure(want terms) error {
	damage, err := s.damage(s.have, want)
	if err != nil {
		return err
	}
	mute, err := s.differing(s.have, want.shape, true)
	if err != nil {
		return err
	}
	s.unlogged = nil
	if damage != "" || mute != "" {
		if err := s.write(damage != "", want); err != nil {
			return err
		}
	}
	return s.check(want)
}

// write puts the chains in, with logs; without, if they are damaged. A kernel may
// have no NFLOG target. Then nothing is logged, which Sync says: nothing passes that
// was not to pass, and a missing line is no reason to cut somebody off, still less to
// leave a node without any rule.
func (s *skeleton) write(damaged bool, want terms) error {
	if _, err := s.run("-restore", s.transaction(s.have, want, true), "-n"); err != nil {
		s.unlogged = fmt.Errorf("%s: the kernel refuses rules that log (modules xt_NFLOG, nfnetlink_log, xt_limit, xt_hashlimit): %w: %w", s.place(), err, datapath.ErrUnlogged)
		if !damaged {
			return nil // as before, without them
		}
		if _, err := s.run("-restore", s.transaction(s.have, want, false), "-n"); err != nil {
			s.unlogged = nil
			return fmt.Errorf("write rules: %w", err)
		}
	}
	s.changes++
	var err error
	s.have, err = s.read()
	return err
}

// transaction spells, for iptables-restore, how to come from what there is to what
// there is to be. chainCount is changed rule by rule, as each goes on counting from
// where it is.
func (s *skeleton) transaction(have listing, want terms, logs bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	counts, ok := s.counts(have)
	if !ok {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chainCount)
	}
	for _, c := range s.chains(want.shape, logs) {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c.name)
	}
	for _, c := range s.chains(want.shape, logs) {
		for _, r := range c.rules {
			fmt.Fprintf(&b, "-A %s %s\n", c.name, quoted(r))
		}
	}
	for _, change := range []struct {
		verb       string
		from, less map[rule.Port]uint32
	}{{"-D", counts, want.connections}, {"-A", want.connections, counts}} {
		for _, port := range slices.SortedFunc(maps.Keys(change.from), rule.ComparePorts) {
			if connections := change.from[port]; connections != change.less[port] {
				fmt.Fprintf(&b, "%s %s %s\n", change.verb, chainCount, quoted(countRule(s.ipt.Proto(), port, connections)))
			}
		}
	}
	if jumps := jumpsIn(have[hook]); len(jumps) != 1 || jumps[0] != chainMain {
		for _, chain := range jumps {
			fmt.Fprintf(&b, "-D %s -j %s\n", hook, chain)
		}
		fmt.Fprintf(&b, "-I %s 1 -j %s\n", hook, chainMain)
	}
	for _, verb := range []string{"-F", "-X"} {
		for _, chain := range have.outdated() {
			fmt.Fprintf(&b, "%s %s\n", verb, chain)
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// remove takes jumps and chains away.
func (s *skeleton) remove() error {
	have, err := s.read()
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	jumps, chains := jumpsIn(have[hook]), have.ours()
	if len(jumps)+len(chains) == 0 {
		return nil
	}
	for _, chain := range jumps {
		fmt.Fprintf(&b, "-D %s -j %s\n", hook, chain)
	}
	for _, verb := range []string{"-F", "-X"} {
		for _, chain := range chains {
			fmt.Fprintf(&b, "%s %s\n", verb, chain)
		}
	}
	b.WriteString("COMMIT\n")
	s.changes++
	if _, err := s.run("-restore", b.String(), "-n"); err != nil {
		return fmt.Errorf("remove our chains: %w", err)
	}
	return nil
}
