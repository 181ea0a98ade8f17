package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/host"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	// absence is how long an exempt listener may be away, while the agent runs,
	// before its exemption ends: longer than what restarts or is upgraded.
	absence = time.Hour
	// lookInterval is how often the agent looks whether exempt listeners are there.
	lookInterval = time.Minute
)

// fresh are the numbers that drop here for the first time.
func (m nodeMemory) fresh(n compile.Numbers) rule.PortRanges {
	return n.Dropped.Subtract(ranges(m.Armed))
}

// arm returns the memory of a node whose pools now have those numbers. Of what
// listens there, it exempts what listens on a fresh number that nobody claims: an
// allocation is what judges a number that has one, now and ever after. So is a pool
// that leaves nothing alone. A number that left all pools is forgotten.
func (m nodeMemory) arm(n compile.Numbers, claimed rule.PortRanges, listeners []host.Listener) nodeMemory {
	fresh, free := m.fresh(n), n.Lenient.Subtract(claimed)
	m.Armed = ranges(m.Armed).Intersect(n.Armed).Union(n.Dropped).Strings()
	var exempt []exemption
	for _, e := range m.Exempt {
		if free.Contains(e.Number) {
			exempt = append(exempt, e)
		}
	}
	for _, l := range listeners {
		if fresh.Contains(l.Port.Number) && free.Contains(l.Port.Number) {
			exempt = append(exempt, exemption{l.Port.Protocol, l.Port.Number, l.What})
		}
	}
	m.Exempt = sortExempt(exempt)
	return m
}

func sortExempt(exempt []exemption) []exemption {
	slices.SortStableFunc(exempt, func(a, b exemption) int { return rule.ComparePorts(a.port(), b.port()) })
	return slices.CompactFunc(exempt, func(a, b exemption) bool { return a.port() == b.port() })
}

// absences tells since when exempt listeners are away.
type absences map[rule.Port]time.Time

// look returns since when those are away that do not listen now, and whose
// exemption has ended by that.
func (a absences) look(exempt []exemption, listeners []host.Listener, now time.Time) (next absences, ended []rule.Port) {
	next = absences{}
	for _, e := range exempt {
		if slices.ContainsFunc(listeners, func(l host.Listener) bool { return l.Port == e.port() }) {
			continue
		}
		since, away := a[e.port()]
		if !away {
			since = now
		}
		if now.Sub(since) >= absence {
			ended = append(ended, e.port())
			continue
		}
		next[e.port()] = since
	}
	return next, ended
}

// reported adds the exempt ports to the exceptions. They never fill the list: a
// full one says that there may be more, and so denies proof to ports beyond it.
func reported(exceptions []v1alpha1.PortException, exempt []exemption) []v1alpha1.PortException {
	for _, e := range exempt {
		reason := fmt.Sprintf("%s: exempt, since %s was here before the pool; everybody passes until it has been gone for an hour, the number gets an allocation, or the pool says grandfather: false", e.port(), e.What)
		i := slices.IndexFunc(exceptions, func(x v1alpha1.PortException) bool { return x.Port == int32(e.Number) })
		if i >= 0 {
			exceptions[i].Reason += "; " + reason
		} else if len(exceptions) < maxExceptions-1 {
			exceptions = append(exceptions, v1alpha1.PortException{Port: int32(e.Number), Reason: reason})
		}
	}
	slices.SortFunc(exceptions, func(a, b v1alpha1.PortException) int { return cmp.Compare(a.Port, b.Port) })
	return exceptions
}

// armed returns the numbers of the pools, and the memory of a node on which they
// are about to drop: what listens on those that never did is exempt. Of what can't
// be listed nothing is.
func (a *Agent) armed(use inputs) (compile.Numbers, nodeMemory) {
	n := compile.NumbersOf(compile.Copies[v1alpha1.NodePortPool](use[kindPools]), only[v1alpha1.Portreeve](use[kindInstallation]))
	next := a.node.nodeMemory
	if !a.begun { // what the kernel drops already, whoever forgot it
		next.Armed = ranges(next.Armed).Union(a.left.Judged.Subtract(a.left.Audited)).Strings()
	}
	var listeners []host.Listener
	if fresh := next.fresh(n); len(fresh) > 0 && !a.node.lost {
		var err error
		if listeners, err = a.config.Host.Listeners(); err != nil {
			a.log.Error("what listens on this node can't be listed, so that nothing is exempt on these numbers", "numbers", fresh.Strings(), "error", err)
			listeners = nil
		}
	}
	ports := next.exemptPorts()
	for _, l := range listeners {
		ports = append(ports, l.Port)
	}
	return n, next.arm(n, use.claimed(ports), listeners)
}

// arm remembers what armed found. It goes before the rules: what comes after has
// come too late, also if the agent dies in between.
func (a *Agent) arm(next nodeMemory) error {
	for _, e := range next.Exempt {
		if !slices.Contains(a.node.Exempt, e) {
			a.log.Warn("a port is exempt from its pool because of what listened there before", "port", e.port().String(), "what", e.What)
		}
	}
	a.node.lost = false
	a.metrics.exempt.Set(float64(len(next.Exempt)))
	return a.node.remember(next)
}

// claimed are the numbers of those ports that have an allocation.
func (in inputs) claimed(ports []rule.Port) rule.PortRanges {
	var numbers []rule.PortRange
	for _, p := range ports {
		if in.allocation(p.Number) != nil {
			numbers = append(numbers, rule.PortRange{First: p.Number, Last: p.Number})
		}
	}
	return rule.NewPortRanges(numbers...)
}

// allocation returns that of a number, nil if it has none.
func (in inputs) allocation(number uint16) *v1alpha1.NodePortAllocation {
	a, _ := in[kindAllocations].Get(compile.Name(strconv.Itoa(int(number)))).(*v1alpha1.NodePortAllocation)
	return a
}

// lookAfterExempt ends the exemptions of what has been gone for long.
func (a *Agent) lookAfterExempt(now time.Time) {
	if len(a.node.Exempt) == 0 || now.Sub(a.looked) < lookInterval {
		return
	}
	a.looked = now
	listeners, err := a.config.Host.Listeners()
	if err != nil {
		a.log.Warn("what listens on this node can't be listed", "error", err)
		return
	}
	var ended []rule.Port
	a.away, ended = a.away.look(a.node.Exempt, listeners, now)
	if len(ended) == 0 {
		return
	}
	next := a.node.nodeMemory
	next.Exempt = slices.DeleteFunc(slices.Clone(next.Exempt), func(e exemption) bool { return slices.Contains(ended, e.port()) })
	a.log.Info("what listened there is gone, so these ports are closed from now on", "ports", fmt.Sprint(ended))
	if err := a.node.remember(next); err != nil {
		a.log.Error("the state directory can't be written", "error", err)
	}
}
