// Package nftables enforces a rule.Set with one table of nf_tables.
//
//	table inet portreeve, flags owner, persist
//
//	prerouting (hook, -150)  not on lo, TCP, UDP or SCTP,
//	                         number in @judged             goto judge
//	judge      reply direction                             accept   the masquerade trap
//	           no connection, TCP, not a SYN               accept
//	           destination not an address of the node      accept
//	           destination not in @addresses               accept   if there are any
//	           destination in @virtual                     accept   kube-ipvs0
//	           source in @denied                           goto denied
//	           protocol . number in @ports                 jump gate
//	           protocol . number in @ends                  jump ended
//	           number in @audited                          goto audited
//	                                                       drop
//	gate       source in @class                            accept, or goto refused
//	           (nothing else: back to judge, which drops)
//	refused    TCP                                         reset
//	                                                       ICMP port unreachable
//	input (hook, -150; while a gate is Local)
//	           not on lo, protocol . number in @local      goto unserved
//	unserved   begins nothing                              accept
//	           rewritten by who carries node ports         accept
//	           destination that judge accepts              accept
//	           a socket of the node                        accept
//	                                                       goto refused
//
// Accept ends this chain only: other hooks still see the packet. To fall off the
// end of a gate's chain is to be dropped, so an empty chain is a closed one.
//
// There is one chain for each distinct gate, and one set in each family for each
// class; both are named by what they hold and never edited. A port is one element
// of @ports. One whose gate ends is an element with a timeout there, and one in @ends
// that stays: an ended port is dropped, never taken for one that nobody claims. A
// change touches the elements that it is about, in up to four transactions (plan.go
// says why it is not one).
//
// Where the kernel has the flags owner and persist (6.9), nobody else can change
// or flush the table while the agent lives, and it stays when the agent ends.
// Without them the number of the ruleset's generation tells whether anybody changed
// anything since; then all is read again, and no change is built on another state
// than that which was read.
//
// A table that is not as it was left, or that another version made, is replaced
// as a whole, behind a second table that does the same meanwhile.
//
// The expressions are those of google/nftables. The messages around them are our
// own: that library can't set the flags of a table, and asks for an answer to every
// message and an echo of every rule.
package nftables
