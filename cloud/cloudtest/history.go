package cloudtest

import "slices"

// history is what readings of a group may show beside its rules as they are.
type history[R any] struct {
	before []R          // what a stale reading still shows; nil: nothing was written yet
	unseen []picture[R] // what readings show until a write has come through
}

// picture is the group before a write that the next readings don't show.
type picture[R any] struct {
	rules []R
	left  int // readings
}

// read is what a listing shows: the rules, or an older picture of them.
func (h *history[R]) read(rules []R, stale bool) []R {
	if stale && h.before != nil {
		return slices.Clone(h.before)
	}
	shown := rules
	if len(h.unseen) > 0 {
		shown = h.unseen[0].rules
	}
	for i := range h.unseen {
		h.unseen[i].left--
	}
	h.unseen = slices.DeleteFunc(h.unseen, func(p picture[R]) bool { return p.left <= 0 })
	return slices.Clone(shown)
}

// remember keeps a picture of the rules as they are before a write, which the next
// readings still show as often as unseen says. "The result of an API command [...]
// might not be immediately visible to all subsequent commands":
// https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
func (h *history[R]) remember(rules []R, unseen int) {
	h.before = append([]R{}, rules...) // not nil: a picture of nothing is one
	if unseen > 0 {
		h.unseen = append(h.unseen, picture[R]{h.before, unseen})
	}
}
