package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/portreeve/portreeve/internal/agent"
)

// cleanUp cleans the node and, if it is to stay, says so until it is told to end: in a
// DaemonSet all nodes are clean when all of its pods are Ready.
func cleanUp(ctx context.Context, o options, log *slog.Logger) error {
	if err := withdraw(ctx, o, log); err != nil {
		return err
	}
	if err := clean(ctx, o, log); err != nil || !o.stay {
		return err
	}
	log.Info("the node is clean; waiting to be stopped")
	if o.listen != "" {
		go serve(ctx, o.listen, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("clean\n")) }), log)
	}
	<-ctx.Done()
	return nil
}

// withdraw takes back what the node's agent reported, before anything is removed: a
// status must never claim rules that are gone. Who stays tries until it succeeds; a
// person who can't wait is told of the way without.
func withdraw(ctx context.Context, o options, log *slog.Logger) error {
	if o.offline {
		log.Warn("the node's report is left as it is: policies go on saying that this node enforces them, until an agent starts here or its NodeDatapath is deleted", "node", o.node)
		return nil
	}
	client, err := connect(o)
	if err != nil {
		return fmt.Errorf("the rules are left in force: %w; run it with the agent's kubeconfig or ServiceAccount, or with --offline", err)
	}
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 10, Cap: 10 * time.Second}
	for {
		err := agent.Withdraw(ctx, client)
		if err == nil {
			log.Info("the node's report is taken back", "node", o.node)
			return nil
		}
		if !o.stay {
			return fmt.Errorf("the rules are left in force, since the node's report can't be taken back: %w; with --offline they go all the same, and status goes on claiming them", err)
		}
		log.Warn("the rules are left in force until the node's report can be taken back; trying again", "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("told to end before the node's report could be taken back; the rules are left in force: %w", err)
		case <-time.After(backoff.Step()):
		}
	}
}

// clean removes what any earlier agent left on the node, by whatever datapath. Stop
// the node's agent before, else it repairs what it finds missing.
func clean(ctx context.Context, o options, log *slog.Logger) error {
	var failed, missing []error
	for _, b := range backends(o, log) {
		d, name, err := b.Open()
		if err != nil { // what the node can't have has left nothing
			missing = append(missing, err)
			continue
		}
		if err := d.Cleanup(ctx); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		log.Info("every trace of ours is gone from the kernel", "datapath", name)
	}
	if len(missing) == len(backends(o, log)) {
		failed = append(failed, missing...)
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	c, err := offline(o, log)
	if err != nil {
		return err
	}
	return agent.New(c).Forget()
}
