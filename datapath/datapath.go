package datapath

import (
	"context"
	"errors"

	"github.com/portreeve/portreeve/internal/rule"
)

// Datapath is one way to enforce a rule.Set in a node's kernel. It is used by
// one goroutine at a time and changes only what it made itself.
type Datapath interface {
	// Sync makes the kernel enforce want, whatever it enforced before, and
	// returns once it has read that back. On an error the kernel admits at most
	// what it admitted before or what want admits.
	Sync(ctx context.Context, want rule.Set) error
	// Have reads from the kernel what is enforced now. An absent or damaged
	// skeleton is an error that wraps ErrDamaged, never an empty Set.
	Have(ctx context.Context) (rule.Set, error)
	// Cleanup removes every trace of ours and nothing else.
	Cleanup(ctx context.Context) error
}

var (
	// ErrUnsupported: the kernel or its tools lack something we need.
	ErrUnsupported = errors.New("unsupported")
	// ErrDamaged: what the kernel holds is not what we put there.
	ErrDamaged = errors.New("damaged")
)
