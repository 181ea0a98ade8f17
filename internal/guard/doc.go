// Package guard holds the ValidatingAdmissionPolicies with which the API server
// itself refuses, or warns of, what would reach around Portreeve. No webhook, no
// pod: they hold with the manager down.
//
//	policies/*.yaml ──► Policies ───┐   what is judged, by which expressions, and why
//	                                ├─► the API server, by the manager's hand
//	mode, undeclared ─► Bindings ───┘   which of them are in force, and how
//
// Each policy has at most one binding, of its own name. A policy without one
// judges nothing, so a mode is a set of bindings, and Off is none.
//
// Pools are parameters: each pool is judged by itself, as the API server sees it,
// without anything of the pool being copied into the policies.
//
// The package is pure. Everything that the API server would default is spelled out,
// so that what is stored is what was written.
package guard
