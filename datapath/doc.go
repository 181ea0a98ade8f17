// Package datapath makes a node's kernel enforce a rule.Set.
//
//	packet ─► conntrack ─► ┌─ judge ─────────────────────────┐ ─► DNAT (kube-proxy) ─► pod
//	           (-200)      │ prerouting, priority -150       │     (-110, -100)
//	                       │ original direction, not on lo,  │
//	                       │ to a judged address of the      │
//	                       │ node, judged port number?       │
//	                       │   source denied:   drop         │
//	                       │   gate has ended:  drop         │
//	                       │   source admitted: go on, or    │
//	                       │     drop what is over its limit │
//	                       │   source audited:  log, go on   │
//	                       │   number audited:  log, go on   │
//	                       │   else:            drop         │
//	                       └─────────────────────────────────┘
//
// Every datapath keeps these promises, and package datapathtest holds it to
// them with real packets:
//
//   - Before DNAT, so that the packet still shows the client and the node port.
//   - Every packet of the original direction is judged, also of a connection
//     that is already established: a revocation bites at once.
//   - Replies are never judged: the source port of a masqueraded connection may
//     lie inside a pool, and its replies come back to it.
//   - Limits drop what begins a connection above them, and cut none that goes on.
//   - A gate ends by itself, never late and at most a second early, cuts who is
//     connected, and drops from then on, also on an audited number.
//   - A packet to any other port, to an address that is not the node's, or on
//     lo is none of our business; nor are addresses held only by kube-ipvs0,
//     which are Service addresses.
//   - What others own stays byte-identical; no packet or connection is marked.
//
// A datapath drops packets; package conntrack then removes what the kernel
// remembers of connections that no longer may be.
package datapath
