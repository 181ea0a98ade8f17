package cloud

import "time"

// How long a run waits for company after one that wrote: the calls of a burst are counted
// by runs, not by rules. A change that nothing went before never waits.
const (
	// openingPause is for wishes that only add: nodes drop before as well as after.
	openingPause = time.Second
	// closingPause is for those that take something away. Five runs a second are what
	// EC2's bucket refills; more would wait there.
	closingPause = 200 * time.Millisecond
)

// Pause is how long the next run waits when the last one that wrote ended so long ago.
// had is what it was for, want what the next is for.
func Pause(since time.Duration, had, want []Grant) time.Duration {
	if since >= openingPause {
		return 0
	}
	pause := openingPause
	if closes(had, want) {
		pause = closingPause
	}
	return max(0, pause-since)
}

// closes says whether something that was wanted is so no more. What is only spelled
// otherwise counts as well: to be early harms nobody.
func closes(had, want []Grant) bool {
	stays := map[match]bool{}
	for _, g := range want {
		stays[match{Rule: masked(g.Rule), peer: g.Peer}] = true
	}
	for _, g := range had {
		if !stays[match{Rule: masked(g.Rule), peer: g.Peer}] {
			return true
		}
	}
	return false
}
