// Package aws is the cloud.Provider for EC2 security groups.
//
//	cloud.Grant ──permissions──► IpPermissions + one tag ──► AuthorizeSecurityGroupIngress
//	cloud.Rule  ◄─ruleOf──────── SecurityGroupRule       ◄── DescribeSecurityGroupRules
//	Tagged, Exists, PrefixList   (cloud.Directory)       ◄── DescribeSecurityGroups, GetManagedPrefixListEntries
//
//	each attempt of a call: credentials ─► pace ─► signature ─► EC2 ─► kind of error
//
// Invariants:
//
//   - The signature is a tag, written in the call that creates the rule: there
//     is no moment at which a rule of ours is unsigned. The description is for
//     people and decides nothing.
//   - Revocation is by rule id, so a rule that somebody re-created with the same
//     content is not hit.
//   - EC2 ignores the ports of every protocol but TCP, UDP and ICMP. SCTP is
//     therefore not among the capabilities: a rule for one SCTP port would open
//     them all.
//   - Retries of the transport and short throttling belong to the SDK, with few
//     attempts; what is left surfaces as a kind of package cloud.
//   - No attempt is made faster than EC2 documents for the call, counted over all
//     providers that share their Paces.
//   - Credentials are the SDK's to find, unless keys are given; a role is assumed
//     with either. What kind an error has, and which permission is missing, is told
//     by its code and the call, never by its text.
//
// This is the only package that imports the EC2 SDK, which is long to compile.
package aws
