package nftables

import (
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// chain is one of ours with its rules.
type chain struct {
	name  string
	lines []line
}

// chainsOf returns the chains of a gate, the one that bears its name first. Whoever
// comes to the end of that one is dropped by judge. in says in which families a
// class has sources.
func chainsOf(g rule.Gate, in func(rule.ClassID) []family, mute bool) []chain {
	name, pass := chainOf(g), accept()
	if g.Refuse {
		pass = gotoChain(chainRefused)
	}
	main, behind := chain{name: name}, []chain(nil)
	if g.Log.Accepted {
		passed := chain{name + ".passed", append(logLines(mute, g.Log.PerSecond, datapath.Accepted), on("", accept()))}
		pass, behind = gotoChain(passed.name), append(behind, passed)
	}
	if g.Limits != (rule.Limits{}) {
		limited := chain{name + ".limited", limitLines(g, pass, mute)}
		pass, behind = gotoChain(limited.name), append(behind, limited)
	}
	main.lines = sourceLines(g.Class, in(g.Class), pass)
	if g.Audit != "" {
		audited := chain{name + ".audited", append(logLines(mute, datapath.AuditRate, datapath.Audited), on("", accept()))}
		behind = append(behind, audited)
		main.lines = append(main.lines, sourceLines(g.Audit, in(g.Audit), gotoChain(audited.name))...)
	}
	if g.Log.Denied {
		denied := logLines(mute, g.Log.PerSecond, datapath.NotAdmitted)
		main.lines = append(main.lines, denied...)
		behind = append(behind, chain{endedChain(g), append(denied, on("", drop()))})
	}
	return append([]chain{main}, behind...)
}

// endedChain is where a port leads when its gate has ended.
func endedChain(g rule.Gate) string {
	if g.Log.Denied {
		return chainOf(g) + ".ended"
	}
	return chainEnded
}

// sourceLines deal with the sources of a class.
func sourceLines(id rule.ClassID, in []family, verdict []expr.Any) []line {
	var out []line
	for _, f := range in {
		out = append(out, on("", is(f), source(f), lookup(classSet(id, f)), verdict))
	}
	return out
}

// limitLines pass what is within the limits of its gate. A source of which the
// kernel can't take note, because the set is full, is above them.
func limitLines(g rule.Gate, pass []expr.Any, mute bool) []line {
	out := []line{on("limits are for new connections", goingOn(), pass)}
	for _, f := range families {
		within := [][]expr.Any{is(f), sourceProtocolNumber(f)}
		for _, d := range limitSets(g.Limits, f) {
			within = append(within, d.update())
		}
		out = append(out, on("within the limits", append(within, pass)...))
	}
	if g.Log.Denied {
		out = append(out, logLines(mute, g.Log.PerSecond, datapath.Limited)...)
	}
	return append(out, on("above the limits", drop()))
}

// logLines log what begins a connection, so many lines a second for each port and
// family.
func logLines(mute bool, perSecond uint32, reason datapath.Reason) []line {
	if mute {
		return nil
	}
	d := lineSet(reason, perSecond)
	return []line{on("", beginning(), familyProtocolNumber(), d.update(), logAs(reason))}
}

// dynamic is a set that packets fill: each element bounds what comes under its key.
type dynamic struct {
	name    string
	key     []field
	timeout time.Duration // of an element that nothing came under; 0: while it counts connections
	limit   expr.Any
}

// room in a dynamic set. Memory is taken as elements come.
const room = 1 << 18

func (d dynamic) update() []expr.Any {
	operation := uint32(unix.NFT_DYNSET_OP_UPDATE)
	if d.timeout == 0 {
		operation = unix.NFT_DYNSET_OP_ADD
	}
	return []expr.Any{&expr.Dynset{SrcRegKey: first, SetName: d.name, Operation: operation, Timeout: d.timeout, Exprs: []expr.Any{d.limit}}}
}

// limitSets returns the sets by which limits are kept in one family.
func limitSets(l rule.Limits, f family) []dynamic {
	key := []field{f.address, fieldProtocol, fieldNumber}
	var out []dynamic
	if n := l.Connections; n > 0 {
		out = append(out, dynamic{name: nameLimit("connections", f, n), key: key, limit: &expr.Connlimit{Count: n}})
	}
	if n := l.PerSecond; n > 0 {
		out = append(out, dynamic{
			name: nameLimit("new", f, n, l.Burst), key: key, timeout: refill(n, l.Burst),
			limit: &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(n), Unit: expr.LimitTimeSecond, Burst: l.Burst},
		})
	}
	return out
}

func lineSet(reason datapath.Reason, perSecond uint32) dynamic {
	return dynamic{
		name: nameLimit("lines-"+string(reason), family{}, perSecond),
		key:  []field{fieldFamily, fieldProtocol, fieldNumber}, timeout: refill(perSecond, perSecond),
		limit: &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(perSecond), Unit: expr.LimitTimeSecond, Burst: perSecond},
	}
}

// refill is when a bucket that nobody drew from is full, and may be forgotten.
func refill(perSecond, burst uint32) time.Duration {
	return max(time.Minute, time.Duration(burst/perSecond+1)*time.Second)
}

// dynamicsOf returns the dynamic sets that a gate's rules name.
func dynamicsOf(g rule.Gate) []dynamic {
	var out []dynamic
	for _, f := range families {
		out = append(out, limitSets(g.Limits, f)...)
	}
	if g.Audit != "" {
		out = append(out, lineSet(datapath.Audited, datapath.AuditRate))
	}
	if g.Log.Accepted {
		out = append(out, lineSet(datapath.Accepted, g.Log.PerSecond))
	}
	if g.Log.Denied {
		out = append(out, lineSet(datapath.NotAdmitted, g.Log.PerSecond))
		if g.Limits != (rule.Limits{}) {
			out = append(out, lineSet(datapath.Limited, g.Log.PerSecond))
		}
	}
	return out
}

// dynamicKinds begin the names of the sets that packets fill.
var dynamicKinds = []string{"connections", "new", "lines"}
