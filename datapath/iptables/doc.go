// Package iptables enforces a rule.Set with a fixed handful of iptables rules
// and the contents of ipsets.
//
//	mangle PREROUTING ─► PORTREEVE-A (or -B), the same twelve rules whatever want is:
//
//	  1  on lo                                      RETURN
//	  2  TCP, UDP, ...: number not in JUDGED        RETURN   most packets end here
//	  3  SCTP: number not in SCTP4/6                RETURN
//	  4  reply direction                            RETURN   the masquerade trap
//	  5  no connection, TCP, not a SYN              RETURN
//	  6  destination not an address of the node     RETURN
//	  7  destination in EXEMPT4/6 (kube-ipvs0)      RETURN
//	  8  (source, protocol, number) in ADMIT4/6     RETURN
//	  9  number in AUDIT, of a new connection       LOG      a few a second
//	  10 number in AUDIT                            RETURN
//	  11 number in JUDGED                           DROP
//	  12 SCTP: number in SCTP4/6                    DROP
//
// The rules go through coreos/go-iptables, one process each, only when the
// skeleton is made or mended. The contents go over netlink, one message per
// changed entry. bitmap:port never matches SCTP, so its judged numbers stand in
// a set of (half of all addresses, number) pairs, two per number and family. One
// that is audited does not stand there: SCTP to it passes, and is never logged.
//
// Invariants:
//
//   - ipset changes one entry at a time; the order of the steps (plan.go) is such
//     that every state in between admits at least what old and new both admit,
//     first narrowing from old to exactly that, then widening to new.
//   - On a node without a skeleton the jump comes last, so want comes into force
//     at once. A damaged chain, or that of another version, is replaced by a whole
//     one, never edited in place.
//   - A kernel that refuses rule 9 gets the other eleven, and Sync says so while
//     something is audited (datapath.ErrUnlogged).
//   - What is remembered is checked at each Sync (rules by listing, sets by their
//     number of entries) and what was changed is read back; Have reads everything.
//   - Somebody's ACCEPT ahead of our jump is reported (datapath.ErrPreempted), not
//     fought over: two agents that each insist on the first place never rest.
//
// Limits: an UNTRACKED connection (someone's NOTRACK) is judged only at its TCP
// SYN, so it outlives a revocation. UDP-Lite and DCCP are not judged; no
// Service can have them, kube-proxy never forwards them.
package iptables
