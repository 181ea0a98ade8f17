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
	// unlogged says why the chain in use has no log rule; nil when it has.
	unlogged error
}

// logRule is the place of the log rule in the chain. It is the one rule that a
// chain may lack and be whole: see speak.
const logRule = 8

// rulesFor returns the chain's rules. Only the last two drop, and only on a
// judged number: losing any other rule closes more of the pools, never the node.
//
// The log rule is for LOG, not NFLOG: its lines come to the kernel's log, where an
// operator looks and the journal already listens, while NFLOG's are lost unless
// some process of ours or his reads them. The price is that a node which is itself
// a container logs only with the sysctl net.netfilter.nf_log_all_netns. It logs
// what begins a connection, as every packet of one that nobody admits comes by
// here; the limit is there because anybody can make the kernel write.
//
// A packet without a connection (INVALID, or UNTRACKED by someone's NOTRACK) has
// no direction. By TCP it can open nothing unless it is a SYN; by UDP or SCTP it
// could, and is judged.
func rulesFor(f iptables.Protocol) [][]string {
	sctp, admit, exempt := specs[sctp4].name, specs[admit4].name, specs[exempt4].name
	if f == iptables.ProtocolIPv6 {
		sctp, admit, exempt = specs[sctp6].name, specs[admit6].name, specs[exempt6].name
	}
	numbers, unenforced := specs[judged].name, specs[audited].name
	rules := []string{
		"-i lo -j RETURN",
		"! -p sctp -m set ! --match-set " + numbers + " dst -j RETURN", // most packets end here
		"-p sctp -m set ! --match-set " + sctp + " src,dst -j RETURN",
		"-m conntrack --ctdir REPLY -j RETURN",
		"-p tcp ! --syn -m conntrack --ctstate INVALID,UNTRACKED -j RETURN",
		"-m addrtype ! --dst-type LOCAL -j RETURN",
		"-m set --match-set " + exempt + " dst -j RETURN",
		"-m set --match-set " + admit + " src,dst -j RETURN",
		fmt.Sprintf("-m set --match-set %s dst -m conntrack ! --ctstate ESTABLISHED -m limit --limit %d/sec --limit-burst %d -j LOG --log-level info --log-prefix %q",
			unenforced, datapath.AuditRate, datapath.AuditBurst, auditPrefix),
		"-m set --match-set " + unenforced + " dst -j RETURN",
		"-m set --match-set " + numbers + " dst -j DROP",
		"-p sctp -m set --match-set " + sctp + " src,dst -j DROP",
	}
	out := make([][]string, len(rules))
	for i, r := range rules {
		out[i] = slices.Concat(commentMatch, []string{comment(i)}, fields(r))
	}
	return out
}

// commentMatch begins every rule; its comment comes next.
var commentMatch = []string{"-m", "comment", "--comment"}

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

// ensure makes the skeleton whole. A chain in use is never edited, but for the log
// rule: the other one is built, jumped to, and only then is the first one taken
// away.
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
			if err := s.speak(chain); err != nil {
				return err
			}
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
	for _, r := range s.mute() {
		if err := s.ipt.Append(table, chain, r...); err != nil {
			return "", fmt.Errorf("fill chain %s: %w", chain, err)
		}
	}
	delete(s.spelling, chain)
	if err := s.written(chain); err != nil {
		return "", err
	}
	if err := s.speak(chain); err != nil {
		return "", err
	}
	if err := s.ipt.Insert(table, hook, 1, "-j", chain); err != nil {
		return "", fmt.Errorf("jump to chain %s: %w", chain, err)
	}
	return chain, nil
}

// mute returns the rules of a chain that logs nothing.
func (s *skeleton) mute() [][]string { return slices.Delete(slices.Clone(s.rules), logRule, logRule+1) }

// speak puts the log rule into a whole chain that lacks it; also into the one in
// use, since a single rule comes in whole or not at all.
//
// A kernel may have no LOG target. Then what is audited passes and is not logged,
// which Sync says: nothing passes that was not to pass, and a missing line is no
// reason to cut somebody off, still less to leave a node without any rule.
func (s *skeleton) speak(chain string) error {
	s.unlogged = nil
	if len(s.spelling[chain]) == len(s.rules)+1 {
		return nil
	}
	if err := s.ipt.Insert(table, chain, logRule+1, s.rules[logRule]...); err != nil {
		s.unlogged = fmt.Errorf("%s: the kernel refuses the rule that logs (modules xt_LOG, nf_log_syslog, xt_limit): %w: %w", s.place(), err, datapath.ErrUnlogged)
		return nil
	}
	s.changes++
	return s.written(chain)
}

// written makes sure that the chain reads back as it was written.
func (s *skeleton) written(chain string) error {
	whole, err := s.whole(chain)
	if err == nil && !whole {
		err = fmt.Errorf("%s: chain %s does not read back as it was written: %w", s.place(), chain, datapath.ErrDamaged)
	}
	return err
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

// whole says whether the chain holds exactly our rules in our order, the log rule
// or not. The chain of another version is not whole: it is replaced like a damaged
// one.
func (s *skeleton) whole(chain string) (bool, error) {
	lines, err := s.list(chain)
	if err != nil {
		return false, fmt.Errorf("list %s: %w", chain, err)
	}
	if proved, ok := s.spelling[chain]; ok && slices.Equal(proved, lines) {
		return true, nil
	}
	rules := s.rules
	if len(lines) == len(rules) {
		rules = s.mute()
	}
	if len(lines) != len(rules)+1 { // the first line creates the chain
		return false, nil
	}
	for i, r := range rules {
		if !slices.Contains(strings.Fields(lines[i+1]), r[len(commentMatch)]) {
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
