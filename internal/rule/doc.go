// Package rule is the vocabulary that every gate shares: ports, port ranges,
// source prefixes, the rule atoms a cloud understands, and Set, the small tables
// a node enforces.
//
// All values are plain and immutable by convention: a function that needs a
// changed value returns a new one. Everything that leaves this package is in
// one canonical order, so equal meaning is equal bytes.
//
//	                 port table              source table
//	(TCP,30080) ──► class a1b2… ──────► 10.8.0.0/16, 2001:db8::/48
//	(UDP,30080) ──► class a1b2… ┘       limits, log and expiry stand in the port table
//	(TCP,30443) ──► (no gate: closed)
//
// A class is one distinct set of sources, interned by content: ten thousand
// ports rarely have more than a few hundred. A gate is one port's line: its class,
// who else passes and is logged, its limits, its end. A number that is audited
// passes everybody, and what no gate admits is logged.
package rule
