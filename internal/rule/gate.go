package rule

import "net/netip"

// Gate is what a port asks of a packet: its line in the port table. The gate of a
// port that has none lets nobody in and logs nothing.
type Gate struct {
	// Class may pass.
	Class ClassID
	// Refuse: Class does not pass either, but is told so at once, TCP by a reset and
	// the rest by an ICMP error. Everybody else is dropped, and learns nothing.
	Refuse bool
	// Audit passes as well, and is logged as what would be dropped.
	Audit ClassID
	// Local: who passes, and is then taken up by nobody on this node, is told so at once,
	// as Refuse does it. Nothing else changes by it, nor does it for anybody else.
	Local bool
	// Limits bound what one source of Class may do.
	Limits Limits
	Log    Log
	// Expires is when the gate ceases to be, in Unix seconds; 0 for never. From then
	// on nobody passes, whether or not anybody is there to take the gate away.
	Expires int64
}

// Limits bound the connections that one source address may have to one port; 0
// stands for no bound. What is above them is dropped, connections that exist go on.
type Limits struct {
	Connections uint32 // at a time
	PerSecond   uint32 // new ones
	Burst       uint32 // new ones at once; with PerSecond only, and then at least 1
}

// Log says which packets that begin a connection are logged.
type Log struct {
	Denied    bool   // what is dropped
	Accepted  bool   // what passes
	PerSecond uint32 // lines a second and port, at most; at least 1 where anything is logged
}

// Terms are what Build makes a gate of; see Gate.
type Terms struct {
	Sources, Audited []netip.Prefix
	Refuse, Local    bool
	Limits           Limits
	Log              Log
	Expires          int64
}

// canonical leaves out what has no effect, so that gates which do the same are
// equal.
func (g Gate) canonical() Gate {
	if g.Refuse = g.Refuse && g.Class != ""; g.Refuse {
		g.Audit = ""
	}
	if g.Class == "" || g.Refuse {
		g.Limits, g.Log.Accepted = Limits{}, false
	}
	if g.Audit == g.Class {
		g.Audit = ""
	}
	g.Local = g.Local && !g.Refuse && (g.Class != "" || g.Audit != "")
	if g.Limits.PerSecond == 0 {
		g.Limits.Burst = 0
	} else {
		g.Limits.Burst = max(g.Limits.Burst, 1)
	}
	if !g.Log.Denied && !g.Log.Accepted {
		g.Log = Log{}
	} else {
		g.Log.PerSecond = max(g.Log.PerSecond, 1)
	}
	if g.Class == "" && g.Audit == "" && g.Log == (Log{}) {
		return Gate{}
	}
	return g
}

// passing is the class that may pass, "" for none.
func (g Gate) passing() ClassID {
	if g.Refuse {
		return ""
	}
	return g.Class
}

// silenced drops whom the gate refuses.
func (g Gate) silenced() Gate {
	if g.Refuse {
		g = Gate{Log: g.Log}
	}
	return g.canonical()
}
