package iptables

// A gate that ends stands in ENDS for as long as it is known, and in ALIVE until it
// ends. What stands in ENDS alone is dropped ahead of everything that could let it
// pass: so it ends by itself, and an end never makes of a port one that nobody
// claims. ipset counts whole seconds from when it is told, so a gate ends within the
// second before its own.

// aliveUntil is until when a gate is to be in ALIVE, as far as ipset can count; 0
// for not at all. A gate with no more than a second left is over: ipset can't count
// less.
func aliveUntil(end, now int64) int64 {
	if end <= now+1 {
		return 0
	}
	return min(end, now+maxTimeout)
}

// slack is what is put down to rounding, on both sides, in seconds.
const slack = 2

// armed says whether a gate that ends then may stay in ALIVE until until, 0 for not
// being there. One beyond what ipset can count need only be there for long enough
// to be armed again.
func armed(end, until, now int64) bool {
	switch left := end - now; {
	case until == 0:
		return left <= slack
	case until > max(end, now)+1:
		return false
	case left > maxTimeout/2:
		return until >= now+maxTimeout/2-slack
	default:
		return until >= end-slack
	}
}
