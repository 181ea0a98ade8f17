// Package carrier tells from what an agent found on its node who carries node ports
// there, whether our rules stand on the way of their packets, and whose address the
// pods see.
//
//	packet ─► XDP, tc ─► Open vSwitch ─► netfilter: our rules ─► kube-proxy's DNAT ─► pod
//	            │             │                    │                    │
//	  Cilium, Calico's eBPF,  OVN-Kubernetes'      └─ a Gate that is    masquerades, with
//	  any other program       shared gateway          OnPath            externalTrafficPolicy
//	            └─────────────┴─► the Gate is gone Around               Cluster
//
// It is pure: facts in, a Carrier out. Each datapath it knows has a fixture in testdata
// which cites the source by which it is known; docs/datapaths.md is their table. What is
// in doubt counts as Around, and the client's address as Depends: neither is promised.
package carrier
