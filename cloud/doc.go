// Package cloud makes the security groups of a cloud admit exactly what a
// CloudFirewall wants, and touches no rule that is not signed by this cluster.
//
//	atoms ──Merge──► Want ─┐
//	                       ├─ Plan (pure) ─► Authorize ─► Revoke ─► List ─► Report
//	Provider.List ► have ──┘                    what is proved, group by group
//
// Invariants:
//
//   - A rule is ours when it carries our owner id and is of a shape we write.
//     Anything else is foreign: counted, reported, never changed, never revoked.
//   - Two rules are equal when they admit the same packets; id, owner and
//     description play no part. An equal foreign rule satisfies a grant.
//   - A rule in force stays in the group it stands in. When the budget is
//     short, what is new overflows; what is in force is not displaced by it.
//   - Grants come before revocations, so replacing a rule by its better cuts
//     nobody; only a group that the cloud calls full is emptied first.
//   - Nothing is called in force that was not seen in a listing made after the
//     last write. A nil error from Sync means: all of it, and nothing of ours
//     besides.
//
// Plan, Merge and Covered are pure: no client, context, clock or logger.
// Provider is implemented by cloud/aws, by cloud/alibaba and, in memory, by
// cloud/cloudtest; all pass the one conformance suite.
package cloud
