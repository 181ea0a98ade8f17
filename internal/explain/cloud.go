package explain

import (
	"fmt"
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// clouds is the gate of each cloud firewall, as the manager last read it: nobody but the
// manager may ask a cloud.
func (w walk) clouds() (gates []Gate) {
	a := w.allocation
	if a == nil || a.Spec.State != v1alpha1.AllocationOpen {
		return nil
	}
	for _, name := range slices.Sorted(slices.Values(a.Spec.CloudFirewalls)) {
		gates = append(gates, w.cloud(string(name)))
	}
	return gates
}

func (w walk) cloud(name string) Gate {
	g := Gate{Gate: GateCloud, Subject: name, State: Doubtful, Reason: compile.StatePending, Message: "the manager has not told yet what it holds"}
	g.Remedy = fmt.Sprintf("see kubectl describe cfw %s", name)
	firewall := w.firewall(name)
	var status *v1alpha1.CloudStatus
	if w.policy != nil {
		if i := slices.IndexFunc(w.policy.Status.Cloud, func(s v1alpha1.CloudStatus) bool { return s.Firewall == name }); i >= 0 {
			status = &w.policy.Status.Cloud[i]
		}
	}
	switch {
	case firewall == nil:
		g.Reason = v1alpha1.ReasonCloudFirewallNotFound
		g.Message = "the CloudFirewall does not exist, so nobody keeps rules for the port"
		g.Remedy = "create it, or take it out of the pool"
		return g
	case status == nil || w.policy.Status.ObservedGeneration < w.policy.Generation:
		return g
	}
	g.Reason, g.Message = status.State, status.Message
	shadows := shadowing(firewall)
	if status.State != compile.StateInForce {
		if len(shadows) > 0 {
			return wider(g, shadows)
		}
		// Without a rule of ours, or one that is wider, nothing there admits the port.
		if status.Rules == 0 && firewall.Status.LastVerified != nil && status.State != compile.StatePending && status.State != v1alpha1.ReasonUnreachable {
			g.State = Stops
			g.Message = "no rule of ours for the port is in its groups: " + g.Message
		}
		return g
	}
	return w.inForce(g, status, shadows)
}

func (w walk) inForce(g Gate, status *v1alpha1.CloudStatus, shadows []string) Gate {
	wished, member := w.wishedInCloud(g.Subject)
	g.State, g.Reason, g.Remedy = Passes, v1alpha1.ReasonOK, ""
	g.Message = fmt.Sprintf("%d rules in %s, read back", status.Rules, join(status.Groups))
	switch {
	case len(shadows) > 0:
		g.State = Warns
		g = wider(g, shadows)
	case status.Precision == compile.PrecisionCoarse:
		g.State, g.Reason = Warns, compile.PrecisionCoarse
		g.Message += "; some admit more than is asked, so that they fit; nodes are exact"
	case !wished && member:
		g.State, g.Reason = Doubtful, v1alpha1.ReasonProgressing
		g.Message += "; only members of a security group are admitted, and whether the client is one can't be seen from here"
	case !wished:
		g.State, g.Reason = Stops, ReasonNotListed
		g.Message += "; none is for the client"
	}
	if status.Message != "" {
		g.Message += "; " + status.Message
	}
	return g
}

// wider is a gate through which rules of others let more than is asked.
func wider(g Gate, shadows []string) Gate {
	g.Message = join(nonEmpty(g.Message, "rules that are not ours admit more than is asked: "+join(shadows)))
	g.Reason, g.Remedy = v1alpha1.ReasonForeignRule, "remove or narrow them; only nodes still filter"
	return g
}

// wishedInCloud says whether the firewall is to admit the client by its address, and
// whether it is to admit members of a group.
func (w walk) wishedInCloud(firewall string) (wished, member bool) {
	for _, admission := range compile.Cloud(firewall, []v1alpha1.NodePortAllocation{*w.allocation}, w.places) {
		switch {
		case admission.Protocol != w.port.Protocol:
		case admission.Peer != "":
			member = true
		case !w.from.IsValid() || admission.Source.Contains(w.from):
			wished = true
		}
	}
	return wished || member && !w.from.IsValid(), member
}

func (v *view) firewall(name string) *v1alpha1.CloudFirewall {
	for i := range v.Firewalls {
		if v.Firewalls[i].Name == name {
			return &v.Firewalls[i]
		}
	}
	return nil
}

// shadowing are the rules that are not ours and admit more than is asked, with their group.
func shadowing(f *v1alpha1.CloudFirewall) (out []string) {
	for _, g := range f.Status.Groups {
		for _, s := range g.Shadowing {
			out = append(out, s+" in "+g.ID)
		}
	}
	return out
}
