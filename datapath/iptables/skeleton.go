package iptables

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/portreeve/portreeve/datapath"
)

// lockWait bounds, in seconds, the wait for /run/xtables.lock, which kube-proxy
// and others hold while they load their rules.
const lockWait = 10

// skeleton is the fixed part in one family: the jump and one chain.
type skeleton struct {
	ipt   *iptables.IPTables
	rules [][]string
	// spelling is how this iptables prints the chain that was proved, rule by
	// rule, to be ours. Versions print differently, so there is nothing else to
	// compare a listing with.
	spelling map[string][]string
	changes  int // rules and chains written
}

// rulesFor returns the chain's rules. Only the last two drop, and only on a
// judged number: losing any other rule closes more of the pools, never the node.
//
// A packet without a connection (INVALID, or UNTRACKED by someone's NOTRACK) has
// no direction. By TCP it can open nothing unless it is a SYN; by UDP or SCTP it
// could, and is judged.
func rulesFor(f iptables.Protocol) [][]string {
	sctp, admit, exempt := specs[sctp4].name, specs[admit4].name, specs[exempt4].name
	if f == iptables.ProtocolIPv6 {
		sctp, admit, exempt = specs[sctp6].name, specs[admit6].name, specs[exempt6].name
	}
	numbers := specs[judged].name
	rules := []string{
		"-i lo -j RETURN",
		"! -p sctp -m set ! --match-set " + numbers + " dst -j RETURN", // most packets end here
		"-p sctp -m set ! --match-set " + sctp + " src,dst -j RETURN",
		"-m conntrack --ctdir REPLY -j RETURN",
		"-p tcp ! --syn -m conntrack --ctstate INVALID,UNTRACKED -j RETURN",
		"-m addrtype ! --dst-type LOCAL -j RETURN",
		"-m set --match-set " + exempt + " dst -j RETURN",
		"-m set --match-set " + admit + " src,dst -j RETURN",
		"-m set --match-set " + numbers + " dst -j DROP",
		"-p sctp -m set --match-set " + sctp + " src,dst -j DROP",
	}
	out := make([][]string, len(rules))
	for i, r := range rules {
		out[i] = append([]string{"-m", "comment", "--comment", comment(i)}, strings.Fields(r)...)
	}
	return out
}

func comment(i int) string { return commentPrefix + strconv.Itoa(i+1) }

func openSkeletons(mode Mode) ([]*skeleton, error) {
	var out []*skeleton
	for _, f := range families() {
		ipt, err := open(mode, f)
		if err != nil {
			return nil, err
		}
		out = append(out, &skeleton{ipt: ipt, rules: rulesFor(f), spelling: map[string][]string{}})
	}
	return out, nil
}

// check reads the skeleton and says what is wrong with it, as an error that
// wraps ErrDamaged, or that something may preempt it, as one that wraps
// ErrPreempted.
func (s *skeleton) check() error {
	lines, err := s.ipt.List(table, hook)
	if err != nil {
		return fmt.Errorf("list %s: %w", hook, err)
	}
	jumps := jumpsIn(lines)
	if len(jumps) != 1 {
		return fmt.Errorf("%s: %d jumps to our chain instead of one: %w", s.place(), len(jumps), datapath.ErrDamaged)
	}
	whole, err := s.whole(jumps[0])
	if err != nil {
		return err
	}
	if !whole {
		return fmt.Errorf("%s: chain %s is not as we made it: %w", s.place(), jumps[0], datapath.ErrDamaged)
	}
	by, err := preempting(lines, jumps[0], s.list)
	if err != nil {
		return err
	}
	if by != "" {
		return fmt.Errorf("%s: %q stands ahead of our jump: %w", s.place(), by, datapath.ErrPreempted)
	}
	return nil
}

func (s *skeleton) place() string { return command(s.ipt.Proto()) + " " + table + " " + hook }

// ensure makes the skeleton whole. A chain in use is never edited: the other one
// is built, jumped to, and only then is the first one taken away.
func (s *skeleton) ensure() error {
	jumps, err := s.jumps()
	if err != nil {
		return err
	}
	for _, chain := range jumps {
		whole, err := s.whole(chain)
		if err != nil {
			return err
		}
		if whole {
			return s.prune(chain, jumps)
		}
	}
	live, err := s.build(jumps)
	if err != nil {
		return err
	}
	if jumps, err = s.jumps(); err != nil {
		return err
	}
	return s.prune(live, jumps)
}

// build makes a complete chain and jumps to it, ahead of everything.
func (s *skeleton) build(jumps []string) (string, error) {
	s.changes++
	chain := chainA
	if slices.Contains(jumps, chainA) {
		chain = chainB
	}
	for _, jump := range jumps { // both in use and neither whole: give one up
		if jump == chain {
			if err := s.ipt.Delete(table, hook, "-j", chain); err != nil {
				return "", fmt.Errorf("remove jump to damaged chain: %w", err)
			}
		}
	}
	if err := s.ipt.ClearChain(table, chain); err != nil {
		return "", fmt.Errorf("make chain %s: %w", chain, err)
	}
	for _, r := range s.rules {
		if err := s.ipt.Append(table, chain, r...); err != nil {
			return "", fmt.Errorf("fill chain %s: %w", chain, err)
		}
	}
	delete(s.spelling, chain)
	whole, err := s.whole(chain)
	if err != nil {
		return "", err
	}
	if !whole {
		return "", fmt.Errorf("%s: chain %s does not read back as it was written: %w", s.place(), chain, datapath.ErrDamaged)
	}
	if err := s.ipt.Insert(table, hook, 1, "-j", chain); err != nil {
		return "", fmt.Errorf("jump to chain %s: %w", chain, err)
	}
	return chain, nil
}

// prune leaves one jump to live and removes the other chain.
func (s *skeleton) prune(live string, jumps []string) error {
	kept := false
	for _, chain := range jumps {
		if chain == live && !kept {
			kept = true
			continue
		}
		s.changes++
		if err := s.ipt.Delete(table, hook, "-j", chain); err != nil {
			return fmt.Errorf("remove extra jump to %s: %w", chain, err)
		}
	}
	for _, chain := range []string{chainA, chainB} {
		if chain != live {
			if err := s.ipt.ClearAndDeleteChain(table, chain); err != nil {
				return fmt.Errorf("remove chain %s: %w", chain, err)
			}
			delete(s.spelling, chain)
		}
	}
	return nil
}

// remove takes jumps and chains away.
func (s *skeleton) remove() error {
	jumps, err := s.jumps()
	if err != nil {
		return err
	}
	return s.prune("", jumps)
}

func (s *skeleton) jumps() ([]string, error) {
	lines, err := s.ipt.List(table, hook)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", hook, err)
	}
	return jumpsIn(lines), nil
}

// list returns the lines of a chain, none when there is no such chain: the
// target of a rule may also be an extension.
func (s *skeleton) list(chain string) ([]string, error) {
	exists, err := s.ipt.ChainExists(table, chain)
	if err != nil || !exists {
		return nil, err
	}
	return s.ipt.List(table, chain)
}

// whole says whether the chain holds exactly our rules in our order.
func (s *skeleton) whole(chain string) (bool, error) {
	lines, err := s.list(chain)
	if err != nil {
		return false, fmt.Errorf("list %s: %w", chain, err)
	}
	if proved, ok := s.spelling[chain]; ok && slices.Equal(proved, lines) {
		return true, nil
	}
	if len(lines) != len(s.rules)+1 { // the first line creates the chain
		return false, nil
	}
	for i, r := range s.rules {
		if !slices.Contains(strings.Fields(lines[i+1]), comment(i)) {
			return false, nil
		}
		exists, err := s.ipt.Exists(table, chain, r...)
		if err != nil || !exists {
			return false, err
		}
	}
	s.spelling[chain] = lines
	return true, nil
}

// jumpsIn returns the chain of each of our jumps, in order.
func jumpsIn(lines []string) []string {
	var out []string
	for _, line := range lines {
		for _, chain := range []string{chainA, chainB} {
			if line == jumpTo(chain) {
				out = append(out, chain)
			}
		}
	}
	return out
}

// jumpTo is how every iptables prints a rule without any match.
func jumpTo(chain string) string { return "-A " + hook + " -j " + chain }
