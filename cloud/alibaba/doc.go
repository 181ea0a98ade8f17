// Package alibaba is the cloud.Provider for security groups of Alibaba Cloud ECS, and
// the cloud.Directory of the region they stand in.
//
//	cloud.Grant ──permissionsOf──► Permissions.N, signed in Description ──► AuthorizeSecurityGroup
//	cloud.Rule  ◄─ruleOf────────── Permission                           ◄── DescribeSecurityGroupAttribute
//
// Invariants:
//
//   - Rules bear no tags here, so the signature is the beginning of the description:
//     who, and a sum of what the rule admits. A description that somebody edited, or
//     copied to another rule, signs nothing, and its rule is foreign.
//   - A rule that is there already makes Authorize succeed without effect, whoever
//     made it. Only a listing says what is in force and whose it is.
//   - Revocation is by rule id, so a rule that somebody re-created with the same content
//     is not hit.
//   - A listing shows each rule once, however the group changes between two pages: a
//     second picture of our only rule would look like a copy to be removed.
//   - What the cloud can't tell apart is not claimed: SCTP is no protocol of security
//     groups, and a rule that is bound to a source port or a destination equals no grant.
//
// The SDK is past its end of support. It speaks HTTP unless told otherwise, takes no
// context, retries no throttling, puts everything into the URL and shares mutable state
// between calls; client.go makes up for that, and so this is the only package that
// imports it.
package alibaba
