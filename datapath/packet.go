package datapath

import (
	"net/netip"

	"github.com/portreeve/portreeve/internal/rule"
)

// Reason is what befell a packet that a datapath logged.
type Reason string

// The reasons, a closed list.
const (
	// NotAdmitted: dropped, because the port's gate does not hold its source.
	NotAdmitted Reason = "not-admitted"
	// Limited: dropped, because its source is above the port's limits.
	Limited Reason = "limited"
	// Denied: dropped, because its source is denied on every port.
	Denied Reason = "denied"
	// Unclaimed: passed, because its number is audited.
	Unclaimed Reason = "unclaimed"
	// Audited: passed, because its port is audited.
	Audited Reason = "audited"
	// Accepted: passed, because the port's gate holds its source.
	Accepted Reason = "accepted"
)

// LogGroup is the netfilter log group in which a datapath logs packets, under a
// prefix made of LogPrefix and the reason.
const (
	LogGroup  = 9465
	LogPrefix = "portreeve "
)

// Packet is one packet that began a connection, as the kernel logged it before
// DNAT: Port is the node port.
type Packet struct {
	Reason              Reason
	Protocol            rule.Protocol
	Source, Destination netip.Addr
	SourcePort, Port    uint16
	// Interface it came in by.
	Interface string
}
