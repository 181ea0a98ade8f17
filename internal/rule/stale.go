package rule

// Stale says which connections to a number go on as its Service said before, although
// it says something else now: who tracks them asks the Service once, when they begin.
// Those of a source that may not connect are another matter.
type Stale struct {
	// Masqueraded: those whose pod sees the address of a node, where it is to see the
	// client's.
	Masqueraded bool
	// Direct: UDP flows whose pod sees the client, where any pod is to answer. A TCP
	// connection has nothing wrong with it.
	Direct bool
	// Unbound: UDP flows that were led to a pod each, where a client has one. A TCP
	// connection can't move.
	Unbound bool
	// Unanswered: UDP flows to the node itself that began before the Service had the
	// number, and to which nobody has answered.
	Unanswered bool
}

// Or returns what is stale by either.
func (s Stale) Or(t Stale) Stale {
	return Stale{s.Masqueraded || t.Masqueraded, s.Direct || t.Direct, s.Unbound || t.Unbound, s.Unanswered || t.Unanswered}
}
