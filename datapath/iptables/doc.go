// Package iptables enforces a rule.Set with a handful of iptables rules and the
// contents of ipsets.
//
//	mangle PREROUTING ─► PORTREEVE, the same rules whatever want is:
//
//	  1  on lo                                      RETURN
//	  2  TCP, UDP, ...: number not in JUDGED        RETURN   most packets end here
//	  3  SCTP: number not in SCTP4/6                RETURN
//	  4  reply direction                            RETURN   the masquerade trap
//	  5  no connection, TCP, not a SYN              RETURN
//	  6  destination not an address of the node     RETURN
//	  7  destination in EXEMPT4/6 (kube-ipvs0)      RETURN
//	  8  destination not in PLACES4/6               RETURN
//	  9  source in DENIED4/6                        ─► DENY   logs a few a second, drops
//	  10 port in ENDS4/6 and not in ALIVE4/6        ─► SHUT
//	  11 (source, port) in ADMIT4/6                 ─► PASS   or RETURN if no port has
//	                                                          limits or logs what it accepts
//	  12 (source, port) in ASIDE4/6, new            NFLOG    "audited", then RETURN
//	  14 number in AUDIT, new                       NFLOG    "unclaimed", then RETURN
//	  16 SCTP: number in SCTPAUDIT4/6               the same
//	  18 number in JUDGED, or SCTP4/6               ─► SHUT
//
//	filter INPUT ─► PORTREEVE-LOCAL, ahead of kube-proxy's, while a gate is Local (door.go)
//
//	PORTREEVE-PASS    what goes on: RETURN; above a rate ─► OVER; COUNT; log; RETURN
//	PORTREEVE-COUNT   a rule for each port with a bound of connections ─► OVER
//	PORTREEVE-OVER    logs for the ports that say so, drops
//	PORTREEVE-SHUT    logs for the ports that say so, drops
//
// What gates have beyond who passes is a set of the ports that have it, and a few
// rules for each distinct value: PORTREEVE-R4-32-64 are the ports with 50 new
// connections a second and 100 at once (in hexadecimal), LD and LA those that log.
// Only connlimit, which knows no ports, needs a rule for each.
//
// The rules come in one transaction of iptables-restore, only when those values
// change or somebody damaged them; one process lists them all. The contents go over
// netlink, one message per set and phase. bitmap:port never matches SCTP, so its
// numbers stand in sets of (half of all addresses, number) pairs.
//
// Invariants:
//
//   - ipset changes one entry at a time; the order of the steps (plan.go) is such
//     that every state in between admits at least what old and new both admit,
//     first narrowing from old to exactly that, then widening to new. New limits
//     come into force between the two.
//   - On a node without a skeleton the jump comes last, so want comes into force
//     at once. Damaged chains, and those of another version, are replaced whole.
//   - A gate ends by the kernel's clock alone (expiry.go), within the second before
//     its own.
//   - A kernel that refuses to log gets the other rules, and Sync says so while
//     something is to be logged (datapath.ErrUnlogged).
//   - What is remembered is checked at each Sync (rules by listing, sets by their
//     number of entries) and what was changed is read back; Have reads everything.
//   - Somebody's ACCEPT ahead of our jump is reported (datapath.ErrPreempted), not
//     fought over: two agents that each insist on the first place never rest.
//
// Limits: an UNTRACKED connection (someone's NOTRACK) is judged only at its TCP
// SYN, so it outlives a revocation; nothing limits it, and what it is let through is
// not logged. Connections are counted from when the rule that counts them was made:
// in nft mode when the port's bound was set, in legacy mode when anybody last changed
// the mangle table. Rates are counted on, and go up to a million a second. UDP-Lite
// and DCCP are not judged; no Service can have them, kube-proxy never forwards them.
package iptables
