// Package controllers is the manager: it turns policies into allocations,
// allocations into companion Services and cloud rules, and what was seen to be
// in force into status.
//
// One file per queue key, and every controller has one shape: read a snapshot,
// decide with a pure function of internal/compile, write one thing (skipped when
// equal), say when to look again.
//
//	file              queue key         writes
//	allocator.go      category          creates NodePortAllocations
//	allocation.go     port number       updates and deletes one NodePortAllocation
//	exposure.go       policy            its companion Service
//	pool.go           NodePortPool      Foreign allocations; the pool's status
//	gatewayset.go     GatewaySet        which nodes are gateways
//	nodeaddresses.go  one for all       AddressSets with the addresses of Nodes
//	cloudfirewall.go  CloudFirewall     security group rules; the firewall's status
//	front.go          policy            the ConfigMaps and the DNSEndpoint of its fronts
//	policy.go         policy            the policy's status, nothing else
//
// What controllers must tell each other and is no API object stands in Verdicts
// (allocator to policy), Fronts (front to policy) and Clouds (cloudfirewall to policy and allocation). Both
// are rebuilt from API objects and clouds at start; until then nothing is
// concluded from their absence.
package controllers
