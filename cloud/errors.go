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

// confined says whether the error is about the group or the rules that were
// sent, so that a call about another group may still succeed. Throttling, a
// lost lease and a broken network are about us: the next call fares no better.
func confined(err error) bool {
	return errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnsupported) ||
		errors.Is(err, ErrDenied) || errors.Is(err, ErrQuota)
}
