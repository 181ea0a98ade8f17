// Package cloudtest is EC2's security groups in memory: a cloud.Provider for
// unit tests, the same state behind EC2's Query protocol over HTTP for the real
// SDK, and the conformance suite that every provider passes.
//
//	 cloud.Sync                     aws.Provider (real SDK), AWS CLI
//	     │                               │ HTTP, SigV4, form in, XML out
//	EC2.Provider()                  EC2.ServeHTTP ─ sigv4.go, form.go, answer.go
//	     └──────────────┬────────────────┘
//	               EC2 (ec2.go): groups, rules, quotas, tags, prefix lists,
//	               token buckets, injected faults; sessions of roles ◄── EC2.STS()
//
// It validates like the vendor rather than pleasing its caller: duplicates,
// unmasked prefixes, quotas with the families apart, ports that EC2 ignores,
// unknown parameters, sources that don't exist and wrong signatures all have the
// vendor's answer. The vendor's page that says so stands beside each; parameters are
// those of botocore's service model (cloud/aws/botocore_test.go); where moto differs,
// the difference is explained in cloud/aws/moto_test.go.
//
// Invariants:
//
//   - Time comes from Options.Clock and nowhere else.
//   - A fault is used up by the call it hits; without faults the state is
//     strongly consistent. A write that the fault Unseen has hit shows late.
//   - Rules, inspection and seeding bypass signatures, buckets and faults.
package cloudtest
