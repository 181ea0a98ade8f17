package datapath

import (
	"net/netip"

	"github.com/portreeve/portreeve/internal/rule"
)

// Reason says why a packet was logged.
type Reason string

// The reasons.
const (
	NotAdmitted Reason = "not-admitted" // dropped: its source is not in the port's gate, or there is no gate, or it has ended
	Limited     Reason = "limited"      // dropped: its source is above the port's limits
	Denied      Reason = "denied"       // dropped: its source is denied everywhere
	Unclaimed   Reason = "unclaimed"    // passed: its number is audited
	Audited     Reason = "audited"      // passed: its source is in the port's audited class
	Accepted    Reason = "accepted"     // passed: its source is in the port's class
)

// Packet is one packet that a datapath logged.
type Packet struct {
	Reason              Reason
	Protocol            rule.Protocol
	Source, Destination netip.Addr
	SourcePort, Port    uint16
	Interface           string // on which it came
}
