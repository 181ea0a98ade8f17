// Command kubectl-portreeve is the plugin `kubectl portreeve`, which only reads:
//
//	kubectl portreeve explain PORT|POLICY   which gate stops a packet, and what to do
//	kubectl portreeve audit                 what is reachable, and by whom
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/portreeve/portreeve/internal/version"
)

// exitFailed: a wrong use, or an API server that does not answer.
const exitFailed = 2

// exitStatus is no failure: it is what a command has to say to a script.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// plugin is what its commands share.
type plugin struct {
	genericiooptions.IOStreams
	flags  *genericclioptions.ConfigFlags
	system string // Portreeve's own namespace
	output string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, streams genericiooptions.IOStreams) int {
	p := &plugin{IOStreams: streams, flags: genericclioptions.NewConfigFlags(true)}
	root := &cobra.Command{
		Use: "kubectl portreeve", Short: "Say what is reachable on node ports, by whom, and why",
		SilenceUsage: true, SilenceErrors: true, Version: version.Number,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl portreeve"},
	}
	root.SetVersionTemplate(version.Line("kubectl-portreeve") + "\n")
	root.SetArgs(args)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	p.flags.AddFlags(root.PersistentFlags())
	root.PersistentFlags().StringVar(&p.system, "portreeve-namespace", "portreeve-system", "the namespace that Portreeve itself is in")
	root.AddCommand(p.explainCommand(), p.auditCommand())
	err := root.ExecuteContext(ctx)
	var status exitStatus
	switch {
	case errors.As(err, &status):
		return int(status)
	case err != nil:
		fmt.Fprintln(streams.ErrOut, "error:", err)
		return exitFailed
	}
	return 0
}
