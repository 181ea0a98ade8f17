// Package agent is the loop on each node: it mirrors what the API server says of
// node ports, makes the kernel enforce it, and reports how far the kernel was seen
// to agree.
//
//	API server                                                       kernel
//	  pools ────────► mirror ┐                                         ▲ │
//	  allocations ──► mirror ┤                                         │ │
//	  AddressSets ──► mirror ┼► guard ─► compile.Node ─► Datapath.Sync ┘ │
//	  GatewaySets ──► mirror ┤    │         (pure)      Sweep            │
//	  installation ─► mirror ┤    │                                      │
//	  own Node ─────► mirror ┘    └ has a kind vanished?                 │
//	                  (as of a                                           │
//	                   version)                                          ▼
//	  NodeDatapath ◄─ reporter ◄─ marks on disk ◄─ marks ◄───────── read back
//	  lines, counters ◄─ journal ◄───────────────────── what the kernel logs
//
// What holds at any moment, whatever fails or is killed:
//
//   - A kernel that holds rules of ours is not touched until all kinds have been
//     read from a list that is consistent (never resource version "0", which may be
//     the past). One that holds none gets the last good rules from the disk at once,
//     or has the fallback range closed if those are lost: see below.
//   - Nothing older is ever applied over something newer. The versions that were
//     applied are kept on disk, and a list older than those is refused: the
//     condition says Stale, and the rules stay.
//   - Absent data is never read as empty rules: see below.
//   - A lockdown is lifted by the object that orders it and by nothing else; the
//     disk remembers it. So it does whom the installation denies, also when an
//     AddressSet that it denies is gone.
//   - Marks move only after the kernel was read back, swept of connections that
//     lost their source, and the disk has them: marks are never ahead of the
//     kernel. They are withdrawn while the kernel is known to differ.
//   - What listened on a number before a pool dropped there is exempt; what comes
//     later never is. The disk knows which numbers have dropped before they do.
//   - Nothing but Cleanup removes rules: not SIGTERM, not a crash, not an API
//     server that does not answer, not an error.
//   - The API server can't slow the kernel down: one goroutine owns the kernel,
//     another writes reports, and neither waits for the other.
//
// # When the kernel is empty
//
//	disk: rules ──► newest that was enforced ─┐   less what ended meanwhile, and
//	      marks ──► what was closed since ────┴─► what was closed since: see keeper
//	      node ───► exempt, reserved, boots
//
// The rules are written at most every few seconds, by a goroutine of their own; the
// marks tell which numbers they may open too widely by now, so nothing that was
// proved to be closed opens again with a reboot. Whatever is not whole, not of this
// version or not of this node is refused, and refused rules are as good as none:
// what is not known is closed until the API server has been read. A node without a
// trace of Portreeve is left alone, unless it has just booted: it is where Portreeve
// is being installed, which must cut nobody off.
//
// # When a kind vanishes
//
// An agent that sees all pools, all allocations of which one was not Closed, or
// all AddressSets of which one is in use go keeps enforcing the last ones it
// applied and says Vanished: this is what a deleted CRD or a wrong cluster look
// like, while the manager closes each allocation before it deletes it. (Closed
// ones may go: they admitted nobody. So may sets that nobody uses.)
// Because a CRD takes its objects away one by one, whatever goes is enforced for
// two seconds more. After a restart the same is judged by what the kernel holds.
// A Node that goes leaves its labels behind, until a restart: then its selectors
// pick no port.
//
// The way out, for a person who meant it: create a pool (or allocation, or set),
// after which the list is believed again; or stop the agent, run "agent cleanup",
// and start it again.
//
// # When a list is refused as Stale
//
// The API server shows a past that this node has left behind: most likely its
// etcd was restored from a backup without raising the revision (etcdutl snapshot
// restore --bump-revision --mark-compacted). The way out, for a person who meant
// it: remove the agent's marks file and restart the agent. The rules stay in
// force meanwhile.
package agent
