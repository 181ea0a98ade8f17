package stage

import (
	"context"
	"fmt"
	"time"
)

// pause is between two tries of Eventually.
const pause = 20 * time.Millisecond

// Eventually tries until there is no error, for a bounded time, and returns the last error.
func Eventually(ctx context.Context, within time.Duration, try func() error) error {
	for deadline := time.Now().Add(within); ; {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", within, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}
