package agent

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// older says whether version a is older than b; "" is older than everything.
// Both must be of one resource type. A version that is no number is an error: it
// can't be shown to be new enough.
func older(a, b string) (bool, error) {
	if b == "" {
		_, err := resourceversion.CompareResourceVersion(a, a)
		return false, err
	}
	order, err := resourceversion.CompareResourceVersion(a, b)
	return order < 0, err
}

// newer returns the newer of two well-formed versions.
func newer(a, b string) string {
	if a == "" {
		return b
	}
	if before, err := older(b, a); err != nil || before {
		return a
	}
	return b
}

// staleError: the API server showed something older than what was applied.
type staleError struct {
	kind           kind
	shown, applied string
}

func (e *staleError) Error() string {
	return fmt.Sprintf("the API server lists %s at resource version %s, but this node has already enforced %s; "+
		"the rules stay as they are; if the cluster was restored from a backup, remove the agent's marks file on this node and restart the agent",
		e.kind, e.shown, e.applied)
}
