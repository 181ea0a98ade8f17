package explain

import "net/netip"

// Version of the shape of Answer and Report as JSON. Fields may come within a version;
// none goes or changes its meaning.
const Version = "v1"

// Question is what is asked: about a port, or about all ports of a policy.
type Question struct {
	// Port number; 0 for those of the policy.
	Port uint16 `json:"port,omitempty"`
	// Namespace and Policy name a NodePortPolicy; empty for a port number.
	Namespace string `json:"namespace,omitempty"`
	Policy    string `json:"policy,omitempty"`
	// Protocol TCP, UDP or SCTP; empty for all that the number has.
	Protocol string `json:"protocol,omitempty"`
	// From is the client's address as nodes see it; the zero value for nobody in particular.
	From netip.Addr `json:"from,omitzero"`
}

// Verdict sums up.
type Verdict string

// The verdicts.
const (
	// Open: every gate lets the packet pass on every Ready node, and was seen to. Without an
	// address: there is somebody for whom this is so.
	Open Verdict = "Open"
	// Closed: a gate was seen to stop it, wherever it comes in.
	Closed Verdict = "Closed"
	// Partial: some nodes let it pass, others stop it.
	Partial Verdict = "Partial"
	// Unproved: a gate was not seen to do either.
	Unproved Verdict = "Unproved"
)

// State of a gate.
type State string

// The states.
const (
	Passes      State = "Passes"
	Stops       State = "Stops"
	Doubtful    State = "Unproved"
	Warns       State = "Warns" // passes, and is not as it should be
	NotRequired State = "NotRequired"
)

// Gate is one line: what one gate does, and what to do about it.
type Gate struct {
	// Gate is Allocation, Policy, Sources, CloudFirewall, Node, Service or Endpoints.
	Gate string `json:"gate"`
	// Subject is the object looked at.
	Subject string `json:"subject,omitempty"`
	State   State  `json:"state"`
	// Reason is one word of the closed list in docs/explain.md, or one of a policy's.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Remedy is the next step; empty where there is nothing to do.
	Remedy string `json:"remedy,omitempty"`
}

// The gates.
const (
	GateAllocation = "Allocation"
	GatePolicy     = "Policy"
	GateSources    = "Sources"
	GateCloud      = "CloudFirewall"
	GateNode       = "Node"
	GateService    = "Service"
	GateEndpoints  = "Endpoints"
)

// PortAnswer is the answer for one port.
type PortAnswer struct {
	// Port number, 0 where a policy has none yet.
	Port     uint16  `json:"port,omitempty"`
	Protocol string  `json:"protocol,omitempty"`
	Verdict  Verdict `json:"verdict"`
	// StoppedBy is the first gate that stops the packet, or can't be vouched for; absent
	// when the verdict is Open.
	StoppedBy *Gate `json:"stoppedBy,omitempty"`
	// TooOpen is a gate that lets in, or may, whom no policy declares, be it that another
	// gate stops them; absent when there is none.
	TooOpen *Gate `json:"tooOpen,omitempty"`
	// Admits are the networks that nodes let pass, canonical; empty: nobody.
	Admits []netip.Prefix `json:"admits"`
	Gates  []Gate         `json:"gates"`
}

// Answer to a Question.
type Answer struct {
	Kind    string   `json:"kind"`
	Version string   `json:"version"`
	Asked   Question `json:"asked"`
	// Verdict over all ports: that of each if they are alike, Unproved if one is, else
	// Partial.
	Verdict Verdict      `json:"verdict"`
	Ports   []PortAnswer `json:"ports"`
}

// Exit statuses of explain and audit; 2 is a wrong use, or an API server that does not
// answer.
const (
	ExitOpen     = 0
	ExitClosed   = 1
	ExitUnproved = 3
)

// ExitStatus for scripts: both 0 and 1 are only said of what was seen.
func (a Answer) ExitStatus() int {
	switch a.Verdict {
	case Open:
		return ExitOpen
	case Closed:
		return ExitClosed
	}
	return ExitUnproved
}

func overall(ports []PortAnswer) Verdict {
	verdict := ports[0].Verdict
	for _, p := range ports[1:] {
		switch {
		case p.Verdict == verdict:
		case p.Verdict == Unproved || verdict == Unproved:
			verdict = Unproved
		default:
			verdict = Partial
		}
	}
	return verdict
}
