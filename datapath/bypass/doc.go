// Package bypass looks for what may carry packets to a node's ports around the hook
// in which a datapath judges them.
//
//	packet ─► XDP ─► tc, tcx ─► (Open vSwitch) ─► conntrack ─► judge ─► DNAT
//	           │        │             │
//	           └────────┴─────────────┴─► a program here may redirect the packet to a
//	                                      pod, and netfilter never sees it
//
// Only the links by which packets to the node's own addresses come are looked at:
// those that hold such an address, what they are enslaved to and lie upon, and their
// slaves. What a program does can't be told from outside, so each of them counts,
// unless the operator says that he knows it.
package bypass
