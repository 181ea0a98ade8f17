// Package cloudtest is two clouds in memory, EC2's security groups and those of Alibaba
// Cloud ECS: each a cloud.Provider for unit tests, the same state behind the vendor's
// protocol over HTTP for the real SDK, and the conformance suite that every provider
// passes.
//
//	 cloud.Sync                     aws.Provider, alibaba.Provider (real SDKs), the
//	     │                          vendors' own clients
//	     │                               │ HTTP: EC2's Query protocol, SigV4, XML out;
//	     │                               │ the RPC API, HMAC-SHA1, JSON out
//	EC2.Provider()                  EC2.ServeHTTP ─ sigv4.go, form.go, answer.go
//	ECS.Provider()                  ECS.ServeHTTP ─ ecs_sign.go, form.go, ecs_front.go
//	     └──────────────┬────────────────┘
//	               EC2 (ec2.go), ECS (ecs.go): groups, rules, quotas, tags, prefix
//	               lists, rates, injected faults; sessions of roles ◄── EC2.STS()
//
// It validates like the vendor rather than pleasing its caller: duplicates,
// unmasked prefixes, quotas with the families apart, ports that EC2 ignores,
// unknown parameters, sources that don't exist and wrong signatures all have the
// vendor's answer. The vendor's page that says so stands beside each; parameters are
// those of botocore's service model (cloud/aws/botocore_test.go); where moto differs,
// the difference is explained in cloud/aws/moto_test.go. Of ECS there is no emulator to
// compare with; the vendor's clients for Node.js speak to it (cloud/alibaba/node_test.go).
// Its rules of behaviour are quoted from the pages of the operations they stand beside.
//
// Invariants:
//
//   - Time comes from Options.Clock and nowhere else.
//   - A fault is used up by the call it hits; without faults the state is
//     strongly consistent. A write that the fault Unseen has hit shows late.
//   - Rules, inspection and seeding bypass signatures, buckets and faults.
package cloudtest
