// Package datapathtest is the suite that every datapath passes: real packets
// between network namespaces, through the kernel that the datapath programmed.
//
//	client                       node                         pod
//	10.8.0.1  "alice"    10.0.0.1                   10.244.0.2
//	10.9.0.1  "mallory" ─────────── judge ─ DNAT ───────────── echo on 8080
//	10.0.0.2  "remote"              29990-31999 ─► pod:8080
//	(and the same in IPv6)          masquerade, both ways, from ports 30000-32767
//
// The masquerade uses the very numbers of the pool, always: every reply that
// comes back to the node looks, but for its direction, like a packet to be
// judged. A datapath that forgets the direction fails nearly every case.
//
// The namespaces have no names and die with the test process, so a crash leaves
// nothing behind. They have no uplink; nothing of the machine matters but its
// kernel and its tools. A datapath is opened and called on a thread inside the
// node's namespace; the processes it starts inherit that.
//
// An expected answer may take seconds on a busy machine, a drop is believed
// after a short silence: so load makes the suite slow, not red.
package datapathtest
