package explain

import (
	"fmt"
	"net/netip"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// sources says whether the client may come in, as every node decides it that has read
// what we have.
func (w walk) sources() Gate {
	g := Gate{Gate: GateSources, State: Passes, Reason: ReasonAdmitted}
	if w.from.IsValid() {
		g.Subject = w.from.String()
	}
	a, d := w.allocation, w.decision
	if !d.judged() {
		g.State, g.Reason, g.Message = NotRequired, ReasonNotGated, "nobody judges this number, so everybody passes"
		return g
	}
	if set := w.deniedBy(); set != "" {
		g.State, g.Reason = Stops, ReasonDeniedToAll
		g.Message = fmt.Sprintf("%s is in AddressSet %s, which is denied everywhere, whatever policies say", w.from, set)
		g.Remedy = fmt.Sprintf("take it out of AddressSet %s, or the set off spec.denyAddressSets of Portreeve %s", set, v1alpha1.InstallationName)
		return g
	}
	switch {
	case w.lockdown():
		g.State, g.Reason = Stops, v1alpha1.ReasonLockdown
		g.Message = fmt.Sprintf("lockdown: Portreeve %s closes every port to everybody", v1alpha1.InstallationName)
		g.Remedy = "end it: kubectl patch reeve cluster --type merge -p '{\"spec\":{\"lockdown\":false}}'"
	case a == nil || a.Spec.State != v1alpha1.AllocationOpen || w.allocated().State == Stops:
		g.State, g.Reason, g.Message = NotRequired, v1alpha1.ReasonNotRequired, "the allocation alone decides: it admits "+networks(d.who())
	case !d.passes(w.from):
		return w.refused(g)
	case !w.from.IsValid():
		g.Message = "admits " + networks(d.who())
	default:
		g.Message = w.admitted()
		if !contains(d.set.Sources(d.port), w.from) {
			g.State, g.Reason = Warns, ReasonAudited
			g.Remedy = fmt.Sprintf("name it in spec.sources before NodePortPolicy %s/%s is enforced", a.Spec.Claim.Namespace, a.Spec.Claim.Policy)
		}
	}
	return g
}

// deniedBy names the denied AddressSet that holds the client, "" if none does.
func (w walk) deniedBy() string {
	if !contains(w.decision.set.Denied, w.from) || w.Installation == nil {
		return ""
	}
	for _, name := range w.Installation.Spec.DenyAddressSets {
		if w.inSet(string(name)) {
			return string(name)
		}
	}
	return ""
}

func (w walk) inSet(name string) bool {
	for i := range w.AddressSets {
		if w.AddressSets[i].Name == name {
			return w.inAny(w.AddressSets[i].Spec.CIDRs) != ""
		}
	}
	return false
}

// inAny is the network that holds the client, "" if none does.
func (w walk) inAny(cidrs []v1alpha1.CIDR) v1alpha1.CIDR {
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(string(c)); err == nil && w.from.IsValid() && p.Contains(w.from) {
			return c
		}
	}
	return ""
}

// claimed is the port as the allocation has it.
func (w walk) claimed() (port v1alpha1.ClaimedPort) {
	for _, p := range w.allocation.Spec.Ports {
		if string(p.Protocol) == string(w.port.Protocol) {
			port = p
		}
	}
	return port
}

// admitted says by what the client comes in.
func (w walk) admitted() string {
	port, by := w.claimed(), ""
	switch {
	case port.World:
		by = "entity World"
	case w.inAny(port.Sources) != "":
		by = string(w.inAny(port.Sources))
	}
	for _, peer := range port.Peers {
		if c := w.inAny(peer.Sources); by == "" && c != "" {
			by = fmt.Sprintf("%s, on nodes; clouds want a member of security group %s", c, peer.ID)
		}
	}
	for _, set := range port.AddressSets {
		if by == "" && w.inSet(string(set)) {
			by = "AddressSet " + string(set)
		}
	}
	switch {
	case !contains(w.decision.set.Sources(w.decision.port), w.from):
		return fmt.Sprintf("%s is no source: it passes, and is logged, because the policy audits", w.from)
	case by == "" && len(port.PrefixLists)+len(port.Entities) > 0:
		by = fmt.Sprintf("one of %v %v", port.PrefixLists, port.Entities)
	}
	return fmt.Sprintf("%s is admitted by %s", w.from, by)
}

// refused says why the client, or everybody, is kept out of an Open allocation.
func (w walk) refused(g Gate) Gate {
	a, who := w.allocation, w.decision.who()
	policy := a.Spec.Claim.Namespace + "/" + a.Spec.Claim.Policy
	g.State, g.Reason = Stops, ReasonNotListed
	g.Remedy = fmt.Sprintf("if it may connect, add it to spec.sources of NodePortPolicy %s; if you expected another address, look on a node which one arrives", policy)
	g.Message = fmt.Sprintf("%s is in none of the sources: nodes admit %s", w.from, networks(who))
	for _, set := range w.claimed().AddressSets {
		if w.inSet(string(set)) {
			g.Reason = v1alpha1.ReasonSourceRefused
			g.Message = fmt.Sprintf("%s is in AddressSet %s, which the guard-rails of pool %s keep out: nodes admit %s", w.from, set, a.Spec.Pool, networks(who))
			g.Remedy = fmt.Sprintf("see kubectl -n %s describe npp %s for the guard-rail; narrow the set, or have the pool widened", a.Spec.Claim.Namespace, a.Spec.Claim.Policy)
		}
	}
	if w.policy != nil {
		w.except(&g)
	}
	if len(who) == 0 {
		g.Reason, g.Message = ReasonNobodyListed, "no source is in force: nodes admit nobody"
		g.Remedy = fmt.Sprintf("add sources to NodePortPolicy %s, or correct those that it says are refused", policy)
	}
	return g
}

// except says which entry names the client and takes it out again, or was refused.
func (w walk) except(g *Gate) {
	for i, s := range w.policy.Spec.Sources {
		if s.CIDR == "" || w.inAny([]v1alpha1.CIDR{s.CIDR}) == "" {
			continue
		}
		if hole := w.inAny(s.Except); hole != "" {
			g.Message = fmt.Sprintf("%s is in sources[%d], %s, and in its exception %s: nodes admit %s", w.from, i, s.CIDR, hole, networks(w.decision.who()))
			g.Remedy = "take it out of except, or name it in an entry of its own"
			return
		}
		g.Reason = v1alpha1.ReasonSourceRefused
		g.Message = fmt.Sprintf("%s is in sources[%d], %s, which admits nobody here: nodes admit %s", w.from, i, s.CIDR, networks(w.decision.who()))
		g.Remedy = "see the Policy gate for why: another port, a guard-rail of the pool, or an edit that the manager has not taken up"
	}
}
