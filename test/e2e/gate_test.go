package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

func TestAClientHasNoMoreConnectionsThanItsLimit(t *testing.T) {
	s := open(t, "limits", "30510-30519")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Limits.ConnectionsPerSource = 2
	s.create(policy)
	t.Cleanup(func() { _ = town.Client.Delete(context.Background(), policy) }) // a kernel without limits fails no other test
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 9), port) // kube-proxy has heard of it, too
	node := town.Nodes()[0]
	var held []*lab.Held
	for range 2 {
		h, err := s.office.Hold(s.ctx, patiently(flow(node, from(officeCIDR, 1), port)))
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		held = append(held, h)
	}
	s.dropped(s.office, node, 1, port)
	s.answered(s.office, node, 2, port) // another address has its own
	s.answered(s.office, town.Nodes()[1], 1, port)
	for i, h := range held {
		select {
		case <-h.Cut():
			t.Errorf("connection %d, which was there before, was cut: %s", i, h.End())
		default:
		}
	}
	held[0].Close()
	s.answered(s.office, node, 1, port)

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Limits = v1alpha1.Limits{} })
	s.awaitReady(policy)
	for range 3 {
		h, err := s.office.Hold(s.ctx, patiently(flow(node, from(officeCIDR, 1), port)))
		if err != nil {
			t.Fatalf("without a limit: %v", err)
		}
		defer h.Close()
	}
}

func TestAClientBeginsNoMoreConnectionsThanItsLimit(t *testing.T) {
	const burst = 4
	s := open(t, "rates", "30520-30529")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Limits = v1alpha1.Limits{NewConnectionsPerSecond: 1, Burst: burst}
	s.create(policy)
	t.Cleanup(func() { _ = town.Client.Delete(context.Background(), policy) })
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 9), port) // kube-proxy has heard of it, too
	node := town.Nodes()[0]
	begun, start := 0, time.Now()
	for i := range 12 {
		f := flow(node, from(officeCIDR, 1), port)
		if f.Timeout = 100 * time.Millisecond; i < burst { // those pass, and an answer may take its time; a second packet would come after a second
			f.Timeout = 900 * time.Millisecond
		}
		if a := s.office.Ask(s.ctx, f); a.Outcome == lab.Answered {
			begun++
		}
	}
	took := time.Since(start)
	if most := burst + 1 + int(took/time.Second); begun > most {
		t.Errorf("BREACH: %d connections in %s, want at most %d", begun, took, most)
	}
	if begun < burst {
		t.Errorf("%d connections in %s, want at least %d", begun, took, burst)
	}
	s.answered(s.office, node, 2, port) // another address has its own
	s.answered(s.office, node, 1, port) // and this one in a second
}

func TestPacketsAreLoggedAsThePolicySays(t *testing.T) {
	s := open(t, "packets", "30530-30539")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Log = v1alpha1.Log{Denied: true}
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	s.silent(s.street, from(streetCIDR, 3), port)
	line := s.awaitPacket(port, "not-admitted")
	for key, want := range map[string]any{
		"verdict": "dropped", "protocol": "TCP", "source": from(streetCIDR, 3).Addr().String(),
		"namespace": "packets", "policy": "shop", "service": "shop", "pool": "packets", "team": "team-packets",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v: %v", key, line[key], want, line)
		}
	}
	if lines := s.packetLines(port, "accepted"); len(lines) > 0 {
		t.Errorf("nobody asked for %v", lines)
	}

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Log = v1alpha1.Log{Accepted: true} })
	s.awaitReady(policy)
	s.eventually("each node has logged the one packet that it dropped", func() error { // agents write a little later
		if lines := s.packetLines(port, "not-admitted"); len(lines) != len(town.Nodes()) {
			return fmt.Errorf("%d lines: %v", len(lines), lines)
		}
		return nil
	})
	before := len(town.Nodes())
	s.answers(s.office, from(officeCIDR, 2), port)
	s.silent(s.street, from(streetCIDR, 4), port)
	if line := s.awaitPacket(port, "accepted"); line["verdict"] != "passed" || line["source"] != from(officeCIDR, 2).Addr().String() {
		t.Errorf("line %v", line)
	}
	if after := len(s.packetLines(port, "not-admitted")); after > before {
		t.Errorf("%d lines that nobody asked for any more", after-before)
	}
}

func TestAnAuditPassesWhatThePoolAllows(t *testing.T) {
	s := open(t, "audited", "30540-30549")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Mode = v1alpha1.ModeAudit
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) {
		p.Spec.Guardrails.Audit = v1alpha1.Allow
		p.Spec.Guardrails.AllowedSources = []v1alpha1.CIDR{officeCIDR, streetCIDR}
	})
	port := s.awaitReady(policy)
	s.awaitReason(policy, v1alpha1.Ready, v1alpha1.ReasonAudit)
	if c := s.awaitReason(policy, v1alpha1.HostEnforced, v1alpha1.ReasonAudit); c.Status == metav1.ConditionTrue {
		t.Error("an audit claims to be enforced")
	}
	s.answers(s.office, from(officeCIDR, 1), port)
	s.answers(s.street, from(streetCIDR, 1), port)
	s.silent(s.street, from("2001:db8:51::/64", 1), port) // the pool allows none of these
	if line := s.awaitPacket(port, "audited"); line["verdict"] != "passed" || line["source"] != from(streetCIDR, 1).Addr().String() {
		t.Errorf("line %v", line)
	}
	held, err := s.street.Hold(s.ctx, flow(town.Nodes()[0], from(streetCIDR, 1), port))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Mode = v1alpha1.ModeEnforce })
	s.silentSoon(s.street, from(streetCIDR, 2), port)
	s.eventually("what was only audited is cut", func() error {
		select {
		case <-held.Cut():
			return nil
		default:
			return fmt.Errorf("it lives")
		}
	})
	s.awaitReason(policy, v1alpha1.HostEnforced, v1alpha1.ReasonOK)
	s.answers(s.office, from(officeCIDR, 1), port)

	// The pool has the last word, whatever the policy says.
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Mode = v1alpha1.ModeAudit })
	s.answers(s.street, from(streetCIDR, 3), port)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Guardrails.Audit = v1alpha1.Deny })
	s.silentSoon(s.street, from(streetCIDR, 3), port)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused)
}

// The kernel alone ends access: no manager, no agent, no API server runs.
func TestAnEndComesWithEverythingDown(t *testing.T) {
	s := open(t, "ends", "30550-30559")
	ends := time.Now().Add(30 * time.Second).Truncate(time.Second)
	policy, stays := s.policy("shop", officeCIDR), s.policy("stays", officeCIDR)
	policy.Spec.ExpiresAt = &metav1.Time{Time: ends}
	s.create(stays)
	s.create(policy)
	kept, port := s.awaitReady(stays), s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port) // kube-proxy has heard of it, too
	held, err := s.office.Hold(s.ctx, patiently(flow(town.Nodes()[0], from(officeCIDR, 2), port)))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	town.Manager().Kill()
	for _, node := range town.Nodes() {
		town.Agent(node).Kill()
		<-town.Agent(node).Done()
	}
	town.StopAPIServer()
	if time.Now().After(ends.Add(-3 * time.Second)) {
		t.Fatal("all this took too long to be seen")
	}
	s.answers(s.office, from(officeCIDR, 1), port)
	time.Sleep(time.Until(ends.Add(2 * time.Second)))
	s.silent(s.office, from(officeCIDR, 1), port)
	s.answers(s.office, from(officeCIDR, 1), kept)
	select {
	case <-held.Cut():
		if last := held.LastAnswer(); last.Before(ends.Add(-time.Second)) || last.After(ends.Add(2*time.Second)) {
			t.Errorf("an open connection was cut %s after the end", last.Sub(ends))
		}
	case <-time.After(within):
		t.Error("an open connection outlived the end")
	}

	if err := town.StartAPIServer(s.ctx); err != nil {
		t.Fatal(err)
	}
	<-town.Manager().Done()
	if err := town.StartAll(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.awaitReason(policy, v1alpha1.Ready, v1alpha1.ReasonExpired)
	s.silent(s.office, from(officeCIDR, 1), port)
	s.answers(s.office, from(officeCIDR, 1), kept)
	// kube-proxy looks again after up to half a minute; later tests need it sooner.
	for _, node := range town.Nodes() {
		node.StopKubeProxy()
		if err := node.StartKubeProxy(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// answered waits until one node answers the n-th address of the office.
func (s *scene) answered(c *lab.Client, node *lab.Node, n int, port uint16) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s answers address %d", node.Name, n), func() error {
		if a := c.Ask(s.ctx, flow(node, from(officeCIDR, n), port)); a.Outcome != lab.Answered {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

// dropped asks one node once, from the n-th address of the office.
func (s *scene) dropped(c *lab.Client, node *lab.Node, n int, port uint16) {
	s.Helper()
	f := flow(node, from(officeCIDR, n), port)
	f.Timeout = 300 * time.Millisecond
	if a := c.Ask(s.ctx, f); a.Outcome != lab.TimedOut {
		s.Errorf("BREACH: %s: address %d: %s, want it dropped", node.Name, n, a)
	}
}

// packetLines are the lines that the agents wrote of packets to the port.
func (s *scene) packetLines(port uint16, reason string) (lines []map[string]any) {
	s.Helper()
	for _, node := range town.Nodes() {
		file, err := os.Open(town.Agent(node).Log)
		if err != nil {
			s.Fatal(err)
		}
		for scan := bufio.NewScanner(file); scan.Scan(); {
			line := map[string]any{}
			if json.Unmarshal(scan.Bytes(), &line) == nil && line["msg"] == "packet" && line["port"] == float64(port) && line["reason"] == reason {
				lines = append(lines, line)
			}
		}
		_ = file.Close()
	}
	return lines
}

// awaitPacket waits for such a line and returns the last.
func (s *scene) awaitPacket(port uint16, reason string) (line map[string]any) {
	s.Helper()
	s.eventually(fmt.Sprintf("a line of a packet to %d that is %s", port, reason), func() error {
		lines := s.packetLines(port, reason)
		if len(lines) == 0 {
			return fmt.Errorf("there is none")
		}
		line = lines[len(lines)-1]
		return nil
	})
	return line
}
