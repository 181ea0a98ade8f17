package cloud

import "errors"

// The kinds of error a Provider returns, wrapped with %w around what the cloud
// said. Anything else is a fault of the network or a bug: retried with backoff.
var (
	// ErrInvalid: the cloud understood and refused (no such group, a malformed
	// rule); no retry helps before somebody edits something.
	ErrInvalid = errors.New("invalid")
	// ErrUnsupported: the cloud cannot admit this without admitting more.
	ErrUnsupported = errors.New("unsupported by the cloud")
	// ErrDenied: the credentials do not allow it.
	ErrDenied = errors.New("access denied")
	// ErrQuota: the group is full.
	ErrQuota = errors.New("quota exceeded")
	// ErrThrottled: too many calls; come back later.
	ErrThrottled = errors.New("throttled")
	// ErrStale: the group is not what we last read; list again.
	ErrStale = errors.New("stale")
)

// The kinds of error a Sync returns besides.
var (
	// ErrContended: others remove our rules again and again.
	ErrContended = errors.New("contended")
	// ErrDrifted: others changed our rules, and that is only to be reported.
	ErrDrifted = errors.New("drifted")
	// ErrHidden: a foreign rule drops what ours admits, or keeps ours out although it may
	// itself be dropped.
	ErrHidden = errors.New("hidden")
	// ErrObserving: there is something to do, and only observed.
	ErrObserving = errors.New("observing")
	// ErrCloned: another cluster of the same name has rules in the groups.
	ErrCloned = errors.New("cloned")
	// errNotSent: the call was not made.
	errNotSent = errors.New("not sent")
)

// confined says whether the error is about the group or the rules that were
// sent, so that a call about another group may still succeed. Throttling, a
// lost lease and a broken network are about us: the next call fares no better.
func confined(err error) bool {
	return errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnsupported) ||
		errors.Is(err, ErrDenied) || errors.Is(err, ErrQuota)
}

// refused says whether the cloud, or the lease, has answered that it did nothing.
func refused(err error) bool {
	return confined(err) || errors.Is(err, ErrThrottled) || errors.Is(err, ErrStale) || errors.Is(err, errNotSent)
}
