// Package explain says why a node port answers, or does not: it walks the gates in
// the order in which a person would look, and names the one that stops the packet.
//
//	Allocation ─ Policy ─ Sources     why nodes decide as they do
//	CloudFirewall ─ Node… ─ Service ─ Endpoints    the way of the packet
//
// Invariants:
//
//   - Everything here is a function of plain objects: no client, clock or log.
//   - Who is admitted is decided by compile.Node, as on each node, and what a node has
//     proved by compile.Proof, as in the manager. So explain can't say something else
//     than what is enforced.
//   - What nobody has seen is called Unproved, never Open or Closed.
//
// Audit lists, by the same decisions, everything that is reachable in the node-port
// range, and by whom.
package explain
