// Package bench measures the goals in numbers, in the lab, each beside a peer in
// the same run: what an exposure costs beside a bare NodePort Service with the
// same API server, EndpointSlice controller and kube-proxy; and, without a lab,
// what a datapath costs a packet and a change beside bare DNAT, naive rules and
// kube-proxy's rules, which have a road of namespaces each and take turns. A goal
// that is missed is printed as MISSED with its figure.
//
// The figures are those of a small shared machine: quote ratios and shares.
package bench
