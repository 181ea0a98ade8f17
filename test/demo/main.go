// Command demo shows Portreeve at work, on a real control plane and with real
// packets, in a lab of network namespaces:
//
//	go run ./test/demo        narrates one exposure from commit to removal, checks
//	                          each claim, and leaves nothing behind
//	go run ./test/demo up     leaves the same running, to explore with kubectl
//	go run ./test/demo down   ends that
//
// It applies config/samples as they are on disk, with an overlay (overlay/) for
// what is different in a lab. Every line that begins with ok is an assertion,
// and every time was measured in this run. With PORTREEVE_LAB_LOGS set, the logs
// of all programs stay in that folder.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

const usage = "usage: go run ./test/demo [up | down]"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) > 1 {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	command := ""
	if len(args) == 1 {
		command = args[0]
	}
	// Whoever is interrupted cleans up as it returns, and so does a lab that is
	// shut down from another process.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	log.SetLogger(logr.Discard()) // what libraries log is no part of the story
	say := newNarrator(ctx, os.Stdout)
	switch command {
	case "":
		return show(ctx, say)
	case "up":
		return up(ctx)
	case keep: // the process that up starts
		return serve(ctx, say)
	case "down":
		return down(ctx, say)
	}
	fmt.Fprintln(os.Stderr, usage)
	return 2
}
