package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// within bounds every wait. Nothing should take nearly as long.
const within = 20 * time.Second

// An event is what a watch told, and when it did.
type event[T client.Object] struct {
	at      time.Time
	deleted bool
	object  T
}

// A timeline records a watch from its beginning, so that a moment can be asked
// for after it has passed.
type timeline[T client.Object] struct {
	describe func(T) string

	mu     sync.Mutex
	events []event[T]
	more   chan struct{} // closed, and replaced, at each event
	ended  bool
}

// follow begins a timeline, which ends with ctx.
func follow[T client.Object](ctx context.Context, c client.WithWatch, list client.ObjectList, describe func(T) string) (*timeline[T], error) {
	w, err := c.Watch(ctx, list)
	if err != nil {
		return nil, err
	}
	t := &timeline[T]{describe: describe, more: make(chan struct{})}
	go func() {
		defer w.Stop()
		for e := range w.ResultChan() {
			if object, ok := e.Object.(T); ok {
				t.add(event[T]{at: time.Now(), deleted: e.Type == watch.Deleted, object: object})
			}
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.ended = true
		close(t.more)
	}()
	return t, nil
}

func (t *timeline[T]) add(e event[T]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
	close(t.more)
	t.more = make(chan struct{})
}

// await returns the first event that matches, past or to come.
func (t *timeline[T]) await(ctx context.Context, want string, match func(event[T]) bool) (event[T], error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		t.mu.Lock()
		events, more, ended := t.events, t.more, t.ended
		t.mu.Unlock()
		if i := slices.IndexFunc(events, match); i >= 0 {
			return events[i], nil
		}
		if ended {
			return event[T]{}, errors.New("the watch has ended")
		}
		select {
		case <-more:
		case <-ctx.Done():
			return event[T]{}, miss{fmt.Sprintf("%s within %s", want, within), t.latest()}
		}
	}
}

func (t *timeline[T]) latest() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.events) == 0 {
		return "nothing"
	}
	last := t.events[len(t.events)-1]
	if last.deleted {
		return last.object.GetName() + " deleted"
	}
	return t.describe(last.object)
}

// until asks again and again, for what no watch tells, until there is no error.
func until(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	err := errors.New("not tried")
	for {
		again := try(ctx)
		if again == nil {
			return nil
		}
		if ctx.Err() == nil { // else it may have failed for that
			err = again
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within, err)
		}
	}
}
