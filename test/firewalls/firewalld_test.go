package firewalls

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// firewalld starts, reloads and stops, with each of its backends. With either it
// flushes every table of iptables at each of these, whosever the rules are.
func TestBesideFirewalldWithNFTables(t *testing.T) {
	beside(t, func(t *testing.T, s subject) { besideFirewalld(t, s, "nftables") }, "firewalld", "dbus-daemon")
}

func TestBesideFirewalldWithIPTables(t *testing.T) {
	beside(t, func(t *testing.T, s subject) { besideFirewalld(t, s, "iptables") }, "firewalld", "dbus-daemon")
}

func besideFirewalld(t *testing.T, subject subject, backend string) {
	w, s := newWorld(t, subject)
	h := newHouse(t, w.Node, subject.variant)
	h.run("sed -i s/^FirewallBackend=.*/FirewallBackend=" + backend + "/;s/^CleanupModulesOnExit=.*/CleanupModulesOnExit=no/ /etc/firewalld/firewalld.conf")
	h.run("dbus-daemon --system --fork --nopidfile")
	h.run("firewall-offline-cmd --add-port=7443/tcp --add-port=32500/tcp")
	// does something to firewalld; kube-proxy then brings back what was flushed of its own.
	does := func(do func()) func() {
		return func() {
			do()
			if subject.variant == "nft" {
				w.Carry()
			}
		}
	}
	theirs := []string{"mallory " + allowed + " answered", "mallory " + notSaid + " refused"}
	var ended <-chan error
	s.after(act{says: "firewalld starts", flushes: true, packets: judged(theirs...), do: does(func() {
		ended = h.start("firewalld --nofork")
		h.awaitFirewalld()
	})})
	for _, command := range []string{"--reload", "--complete-reload"} {
		s.after(act{says: "firewall-cmd " + command, flushes: true, packets: judged(theirs...),
			do: does(func() { h.run("firewall-cmd " + command) })})
	}
	s.leave("mallory "+onThePod+" answered", "mallory "+onTheNode+" answered", "mallory "+notSaid+" refused")
	s.after(act{says: "firewalld stops", flushes: true,
		packets: judged("mallory "+allowed+" answered", "mallory "+notSaid+" answered"),
		do: does(func() {
			h.run("kill " + strings.TrimSpace(h.run("cat /run/firewalld.pid")))
			if err := <-ended; err != nil {
				t.Errorf("firewalld ended badly: %v", err)
			}
		})})
}

func (h *house) awaitFirewalld() {
	h.t.Helper()
	ask := append(h.door(), "firewall-cmd", "--state")
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := h.node.Do(func() error { return exec.Command(ask[0], ask[1:]...).Run() })
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("firewalld does not come up: %v", err)
		}
	}
}
