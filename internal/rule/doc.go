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
//	(UDP,30080) ──► class a1b2… ┘
//	(TCP,30443) ──► class 77c0… ──────► (nothing: closed)
//
// A number that is audited passes everybody, and what no class admits is logged.
//
// A class is one distinct set of sources, interned by content: ten thousand
// ports rarely have more than a few hundred.
package rule
