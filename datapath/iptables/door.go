package iptables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
)

// The door of a node with ports whose gate is Local: what comes to one of them and finds
// no pod is refused there. REJECT exists in the table filter only, whose INPUT hook is
// where kube-proxy in iptables mode drops it (KUBE-EXTERNAL-SERVICES, -m conntrack
// --ctstate NEW; pkg/proxy/iptables/proxier.go of Kubernetes 1.36). So our jump stands
// ahead of all of kube-proxy's, which puts its own in first place, but only once. What
// others accept ahead of ours is theirs to answer.
const (
	doorTable  = "filter"
	doorHook   = "INPUT"
	chainLocal = chainMain + "-LOCAL"

	// others begins the chains of kube-proxy and kubelet.
	others = "KUBE-"
)

// door is what is known of it in one family.
type door struct {
	there   bool  // it was made
	looked  bool  // whether an earlier run left one is known
	refused error // why the kernel does not take it, nil if it does
}

// hasLocal says whether some port's gate is Local.
func (im *image) hasLocal() bool { return len(im.properties[property{kind: local}]) > 0 }

// hasDoor says whether the table filter is ours to look at.
func (d *Datapath) hasDoor() bool {
	return slices.ContainsFunc(d.skeletons, func(s *skeleton) bool { return s.door.there })
}

// tables are those that hold something of ours.
func (s *skeleton) tables() []string {
	if s.door.there {
		return []string{table, doorTable}
	}
	return []string{table}
}

// lookForDoor asks once, without a process, whether an earlier run left one. In legacy
// mode that can't be asked.
func (d *Datapath) lookForDoor(s *skeleton) error {
	if s.door.looked || s.mode != NFT {
		return nil
	}
	family, found := uint8(unix.NFPROTO_IPV4), false
	if s.ipt.Proto() == iptables.ProtocolIPv6 {
		family = unix.NFPROTO_IPV6
	}
	err := d.sets.rules(family, doorTable, chainLocal, func([]byte) { found = true })
	s.door.looked, s.door.there = err == nil, found
	return err
}

// doorChain is the chain behind the jump. What is left at its end begins a connection
// that nobody takes up: no carrier has rewritten it, and nobody listens. The kernel would
// answer the same, if nobody dropped it before. Who may not come in did not come so far.
func (s *skeleton) doorChain() chain {
	digit, unreachable := "4", "icmp-port-unreachable"
	if s.ipt.Proto() == iptables.ProtocolIPv6 {
		digit, unreachable = "6", "icmp6-port-unreachable"
	}
	return chain{chainLocal, numbered([]string{
		"-i lo -j RETURN",
		"-m set ! --match-set " + string(property{kind: local}.set(digit)) + " src,dst -j RETURN", // most packets end here
		"-m conntrack ! --ctstate NEW -j RETURN",
		"-m conntrack --ctstate DNAT -j RETURN",
		"-m addrtype ! --dst-type LOCAL -j RETURN",
		"-m set --match-set PORTREEVE-EXEMPT" + digit + " dst -j RETURN",
		"-m set ! --match-set PORTREEVE-PLACES" + digit + " dst -j RETURN",
		"-m socket --nowildcard -j RETURN",
		"-p tcp -j REJECT --reject-with tcp-reset",
		"-j REJECT --reject-with " + unreachable,
	}, true)}
}

// readDoor lists the hook and, where there is one, our chain.
func (s *skeleton) readDoor() (listing, error) {
	have := listing{}
	out, err := s.run("", "", "-t", doorTable, "-S", doorHook)
	if err != nil {
		return nil, err
	}
	have[doorHook] = strings.Split(strings.TrimSpace(out), "\n")
	// That it is not there is an error like any other; if it was another, we fail next.
	if out, err := s.run("", "", "-t", doorTable, "-S", chainLocal); err == nil {
		have[chainLocal] = strings.Split(strings.TrimSpace(out), "\n")
	}
	return have, nil
}

// doorDamage says in what the door differs from what we would make, "" for in nothing.
func (s *skeleton) doorDamage(have listing) (string, error) {
	for _, line := range have[doorHook] {
		if line == "-A "+doorHook+" -j "+chainLocal {
			break
		}
		if _, target, ok := targetOf(line); ok && strings.HasPrefix(target, others) {
			return "the jump to " + target + " stands ahead of that to " + chainLocal, nil
		}
	}
	if jumps := jumpsFrom(doorHook, have[doorHook]); !slices.Equal(jumps, []string{chainLocal}) {
		return fmt.Sprintf("there are jumps to %q instead of one to %s", jumps, chainLocal), nil
	}
	whole, err := s.whole(doorTable, have[chainLocal], s.doorChain())
	if err == nil && !whole {
		return "chain " + chainLocal + " is not as we made it", nil
	}
	return "", err
}

// checkDoor says what is wrong with it, as an error that wraps ErrDamaged.
func (s *skeleton) checkDoor(wanted bool) error {
	if !wanted || s.door.refused != nil {
		return nil //nolint:nilerr // said by Unserved; there is nothing to check
	}
	have, err := s.readDoor()
	if err != nil {
		return err
	}
	damage, err := s.doorDamage(have)
	if err == nil && damage != "" {
		err = fmt.Errorf("%s %s %s: %s: %w", command(s.ipt.Proto()), doorTable, doorHook, damage, datapath.ErrDamaged)
	}
	return err
}

// ensureDoor makes it, or takes it away. A kernel that does not take it leaves everything
// else as it is: who finds no pod waits, which Unserved says.
func (s *skeleton) ensureDoor(wanted bool) error {
	if !wanted {
		if s.door.looked && !s.door.there {
			return nil
		}
		return s.removeDoor()
	}
	have, err := s.readDoor()
	if err != nil {
		return err
	}
	s.door.there, s.door.looked = true, true
	damage, err := s.doorDamage(have)
	if err != nil || damage == "" {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n", doorTable, chainLocal)
	for _, r := range s.doorChain().rules {
		fmt.Fprintf(&b, "-A %s %s\n", chainLocal, quoted(r))
	}
	for _, jump := range jumpsFrom(doorHook, have[doorHook]) {
		fmt.Fprintf(&b, "-D %s -j %s\n", doorHook, jump)
	}
	fmt.Fprintf(&b, "-I %s 1 -j %s\nCOMMIT\n", doorHook, chainLocal)
	s.door.refused = nil
	if _, err := s.run("-restore", b.String(), "-n"); err != nil {
		s.door.refused = fmt.Errorf("the kernel refuses the rules that refuse (modules xt_socket, ipt_REJECT, ip6t_REJECT): %w", err)
		return nil
	}
	s.changes++
	return s.checkDoor(true)
}

// removeDoor takes it away, whoever made it.
func (s *skeleton) removeDoor() error {
	if !inUse(s.mode, s.ipt.Proto(), doorTable) {
		s.door = door{looked: true}
		return nil
	}
	have, err := s.readDoor()
	if err != nil {
		return err
	}
	jumps := jumpsFrom(doorHook, have[doorHook])
	if len(jumps) > 0 || have[chainLocal] != nil {
		var b strings.Builder
		fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n", doorTable, chainLocal)
		for _, jump := range jumps {
			fmt.Fprintf(&b, "-D %s -j %s\n", doorHook, jump)
		}
		fmt.Fprintf(&b, "-X %s\nCOMMIT\n", chainLocal)
		if _, err := s.run("-restore", b.String(), "-n"); err != nil {
			return fmt.Errorf("remove our chain: %w", err)
		}
		s.changes++
	}
	s.door = door{looked: true}
	return nil
}
