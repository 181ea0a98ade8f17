package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// chaosCluster is one of the two, with what it may have opened.
type chaosCluster struct {
	*chaosWorld
	index    int
	firewall *cloud.Firewall
	provider *trouble
	want     cloud.Want
	skew     time.Duration // its clock runs ahead of the world's
	unsure   time.Time     // until then what it remembers may be wrong

	allowed cells // what was wished, or said to be coarse, since it last converged
	blurred cells // what it may have widened, and not seen for itself yet
	err     error // of the last run
}

func newCluster(w *chaosWorld, i int) *chaosCluster {
	c := &chaosCluster{chaosWorld: w, index: i}
	c.provider = &trouble{Provider: w.Providers[i], cluster: c}
	c.want = cloud.Want{Owner: []string{owner, other}[i], Groups: w.Groups, Pools: chaosPools(0)}
	c.restart()
	return c
}

func chaosPools(quota int) map[string]cloud.Pool {
	out := map[string]cloud.Pool{}
	for name, ports := range chaosRanges {
		out[name] = cloud.Pool{Ports: rule.NewPortRanges(ports)}
	}
	out["b"] = cloud.Pool{Ports: out["b"].Ports, Rules: quota}
	return out
}

// restart is a new process that knows nothing.
func (c *chaosCluster) restart() {
	c.tell("cluster %d: a new process", c.index)
	c.firewall = cloud.NewFirewall(c.provider, func() time.Time { return c.now.Add(c.skew) })
	c.unsure = c.now.Add(5 * time.Minute)
}

func (c *chaosCluster) changeMind() {
	kept := slices.DeleteFunc(slices.Clone(c.want.Grants), func(cloud.Grant) bool { return c.chance(25) })
	for range c.rng.IntN(5) {
		kept = append(kept, c.drawGrant())
	}
	c.want.Grants = kept[max(0, len(kept)-14):]
	c.wished()
}

// wished notes what may be open from now on.
func (c *chaosCluster) wished() {
	c.allowed.or(cellsOf(c.want.Grants, c.Peers))
	c.tell("cluster %d: wants %v", c.index, c.want.Grants)
}

func (c *chaosCluster) drawGrant() cloud.Grant {
	pool := []string{"a", "a", "b", "c"}[c.rng.IntN(4)]
	r, peer := c.drawRule(chaosRanges[pool])
	return cloud.Grant{Rule: r, Peer: peer, Pool: pool, Description: fmt.Sprintf("team %d", c.rng.IntN(3))}
}

// drawRule draws a rule on some of the ports.
func (w *chaosWorld) drawRule(within rule.PortRange) (rule.Rule, string) {
	first := int(within.First) + w.rng.IntN(int(within.Last-within.First)+1)
	last := min(first+[]int{0, 0, 0, 1, 3}[w.rng.IntN(5)], int(within.Last))
	r := rule.Rule{Protocol: chaosProtocols[w.rng.IntN(7)/6], Ports: rule.PortRange{First: uint16(first), Last: uint16(last)}}
	finest := 4
	if w.At != nil { // their quarters are of this world as well
		finest = 2
	}
	switch n := w.rng.IntN(20); {
	case n == 0:
		return r, w.Peers[w.rng.IntN(2)]
	case n < 6:
		r.Source = prefixAt(chaosNet6, w.rng.IntN(16), 1+w.rng.IntN(finest))
	default:
		r.Source = prefixAt(chaosNet4, w.rng.IntN(16), 1+w.rng.IntN(finest))
	}
	return r, ""
}

func (c *chaosCluster) changeSettings() {
	n := c.rng.IntN(8)
	switch {
	case c.At != nil && c.chance(30): // as a manager does: it remembers nothing of before
		priority := 40 + 10*c.rng.IntN(3)
		c.tell("cluster %d: its rules get priority %d", c.index, priority)
		c.provider.Provider = c.At(priority)
		c.restart()
		return
	case n < 2:
		c.want.Coarsen = !c.want.Coarsen
	case n == 2:
		c.want.Observe = !c.want.Observe
	case n == 3:
		c.want.Report = !c.want.Report
	case n < 6: // as it is, less, and more than there is
		n := []int{0, 4, 60}[c.rng.IntN(3)]
		if c.want.Limits = (cloud.Count{IPv4: n, IPv6: n}); c.can.RulesPerGroup.All > 0 {
			c.want.Limits = cloud.Count{All: n}
		}
	default:
		c.want.Pools = chaosPools(c.rng.IntN(4))
	}
	c.tell("cluster %d: coarsen %v, observe %v, report %v, limits %v, quota %d", c.index, c.want.Coarsen, c.want.Observe, c.want.Report, c.want.Limits, c.want.Pools["b"].Rules)
}

// sync runs Sync and holds it to everything that it promises.
func (c *chaosCluster) sync() (cloud.Report, error) {
	c.provider.begin()
	r, err := c.firewall.Sync(context.Background(), c.want)
	c.tell("cluster %d: sync: %+v, %v", c.index, r.Calls, err)
	c.err = err
	c.seen.runs++
	c.count(r, err)
	fresh := !c.provider.stale && len(r.Unlisted) == 0 && len(r.Groups) == len(c.Groups)
	c.checkOpen(r, fresh)
	c.checkReport(r, err, fresh)
	if err == nil && fresh {
		c.allowed = cellsOf(slices.Concat(c.want.Grants, r.Coarse), c.Peers)
		c.seen.fine++
	}
	return r, err
}

func (c *chaosCluster) count(r cloud.Report, err error) {
	for seen, n := range map[*int]bool{&c.seen.coarse: len(r.Coarse) > 0, &c.seen.quota: errors.Is(err, cloud.ErrQuota), &c.seen.contended: errors.Is(err, cloud.ErrContended)} {
		if n {
			*seen++
		}
	}
}

// checkOpen: what is widened is said.
func (c *chaosCluster) checkOpen(r cloud.Report, fresh bool) {
	if !fresh {
		c.blurred.or(c.widest())
		return
	}
	c.allowed.or(cellsOf(r.Coarse, c.Peers))
	for _, g := range r.Groups { // what was widened is no longer needed, and still there
		for _, going := range g.Remove {
			var in cells
			in.admit(going.Rule, going.Peer, c.Peers)
			c.allowed.or(in.and(c.widest()))
		}
		for _, ours := range g.Ours { // a coarse rule that a process did not see when it came
			said := fmt.Sprintf("%s %s from %s was added to %s ", ours.Protocol, ours.Ports, ours.Source, g.ID)
			if slices.ContainsFunc(r.Drifted, func(s string) bool { return strings.HasPrefix(s, said) }) {
				c.allowed.admit(ours.Rule, ours.Peer, c.Peers)
			}
		}
	}
	c.blurred = cells{}
	if at, ok := c.ours().within(c.allowed); !ok {
		c.fatalf("cluster %d opens %s, and nobody wished or reported that", c.index, at)
	}
}

// widest is what may be open while it is not sure.
func (c *chaosCluster) widest() cells {
	out := c.blurred
	if c.want.Coarsen {
		out.or(poolCells(c.want.Grants))
	}
	return out
}

// ours is whom the cluster's own work lets in now.
func (c *chaosCluster) ours() (out cells) {
	for _, group := range c.Groups {
		for _, r := range c.Rules(group) {
			if r.Owner == c.want.Owner && !c.tainted[taint{group, spelledOf(r)}] {
				out.admit(r.Rule, r.Peer, c.Peers)
			}
		}
	}
	return out
}

// checkReport: what is reported was true at the last listing.
func (c *chaosCluster) checkReport(r cloud.Report, err error, fresh bool) {
	if c.want.Observe && r.Calls.Mutating() > 0 {
		c.fatalf("cluster %d only observes and writes: %+v", c.index, r.Calls)
	}
	var mine cells
	truth := c.open(c.provider.truth)
	for _, group := range c.Groups {
		for _, listed := range c.provider.truth[group] {
			if listed.Owner == c.want.Owner {
				mine.admit(listed.Rule, listed.Peer, c.Peers)
			}
		}
	}
	if c.provider.stale {
		return
	}
	atoms := justRules(c.want.Grants)
	for range 10 {
		atom, _ := c.drawRule(rule.PortRange{First: chaosFirst, Last: chaosFirst + chaosPorts - 1})
		atoms = append(atoms, atom)
	}
	for _, atom := range atoms {
		var asked cells
		if !atom.Source.IsValid() || !r.Covers(atom) {
			continue
		}
		asked.admit(atom, "", nil)
		if at, ok := asked.within(truth); !ok {
			c.fatalf("cluster %d takes %v for proved, and %s is closed\n%+v", c.index, atom, at, r.InForce)
		}
	}
	for p, protocol := range chaosProtocols {
		for i := range chaosPorts {
			if mine.in[p][i] != 0 && !r.Holds(Port(protocol, uint16(chaosFirst+i))) {
				c.fatalf("cluster %d takes %s %d for free of rules of its own", c.index, protocol, chaosFirst+i)
			}
		}
	}
	if err == nil && fresh {
		c.checkConverged(r, mine)
	}
}

// checkConverged: a nil error means all of it, and nothing besides.
func (c *chaosCluster) checkConverged(r cloud.Report, mine cells) {
	wish := cellsOf(c.want.Grants, c.Peers)
	said := wish
	said.or(cellsOf(r.Coarse, c.Peers))
	if at, ok := mine.within(said); !ok {
		c.fatalf("cluster %d is content, and %s is open besides", c.index, at)
	}
	if at, ok := wish.within(c.open(c.provider.truth)); !ok {
		c.fatalf("cluster %d is content, and %s is closed", c.index, at)
	}
}

// excused says whether nothing is wrong but that not all fits, or that somebody else's
// rules drop it.
func excused(err error) bool {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(several.Unwrap(), func(err error) bool { return !excused(err) })
	}
	return errors.Is(err, cloud.ErrQuota) || errors.Is(err, cloud.ErrHidden)
}

func justRules(grants []cloud.Grant) []rule.Rule {
	out := make([]rule.Rule, len(grants))
	for i, g := range grants {
		out[i] = g.Rule
	}
	return out
}
