// Package compile turns what people wrote into what the gates must do. Every
// function is pure: values in, values out, no client, clock or log; the same
// input gives the same bytes, in whatever order it came.
//
//	pools ──────► Owned ─────► which pool owns which numbers
//	policy,            ┌─────► Wish: numbers wanted, sources for each
//	Service, pools ────┤
//	                   └─────► Refusal: why not, and whether waiting may help
//	Wish, allocations ► Assign ─► which allocation serves which number, what is missing
//	                    Allocation ─► what an allocation must say now
//	allocations ───────► Node ──► rule.Set       (what a node enforces)
//	                     Cloud ─► rule.Rule      (what a cloud admits)
//	everything seen ───► Status ► the conditions of a policy
package compile
