package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// A play is one showing of the demo.
type play struct {
	*town
	say *narrator

	policies *timeline[*v1alpha1.NodePortPolicy]
	register *timeline[*v1alpha1.NodePortAllocation]

	port    uint16 // what the policy was given
	service string // the resource version of the team's own Service
	kept    *held  // connections that live until the policy is deleted
}

// show narrates the demo, and returns the exit status.
func show(ctx context.Context, say *narrator) int {
	say.title("Portreeve: a team asks for a node port, gets it, and loses it again")
	say.note("3 nodes on %s; a real control plane, real packets, an EC2 and an ECS of ours", cores())
	t, err := raise(ctx, say, "")
	switch {
	case ctx.Err() != nil:
		return interrupted()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p := &play{town: t, say: say}
	p.perform(ctx)
	if ctx.Err() != nil {
		if err := p.leave(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return interrupted()
	}
	if say.failed > 0 && os.Getenv("PORTREEVE_LAB_LOGS") == "" {
		say.gap()
		say.note("to keep the logs of such a run: PORTREEVE_LAB_LOGS=<folder> go run ./test/demo")
	}
	say.act("The end")
	began := time.Now()
	err = p.leave()
	say.check(time.Since(began), err, "the lab is gone: no namespace, process or file of it is left")
	return say.score()
}

func interrupted() int {
	fmt.Fprintln(os.Stderr, "interrupted")
	return 130
}

// perform plays all acts, or as many as make sense.
func (p *play) perform(ctx context.Context) {
	defer func() {
		if p.kept != nil {
			p.kept.close()
		}
	}()
	for _, act := range []func(context.Context) error{p.watch, p.expose, p.knock, p.prove, p.explain, p.gateways, p.byHand, p.revoke, p.remove} {
		err := act(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.say.check(0, err, "the demo has to stop here")
			return
		}
	}
}

// watch begins to write down what happens in the API server.
func (p *play) watch(ctx context.Context) (err error) {
	p.policies, err = follow(ctx, p.Client, &v1alpha1.NodePortPolicyList{}, func(o *v1alpha1.NodePortPolicy) string {
		return fmt.Sprintf("generation %d with%s", o.Generation, describe(o.Status.Conditions))
	})
	if err != nil {
		return err
	}
	p.register, err = follow(ctx, p.Client, &v1alpha1.NodePortAllocationList{}, func(o *v1alpha1.NodePortAllocation) string {
		return fmt.Sprintf("port %s %s", o.Name, o.Spec.State)
	})
	return err
}

// leave removes the lab, and looks whether anything stayed.
func (p *play) leave() error {
	name, dir := p.Name(), p.Dir()
	if err := p.Close(); err != nil {
		return err
	}
	return leftovers(name, dir)
}

// leftovers looks for namespaces and files of the lab, and for processes that
// were given a path in its folder, as all of them are.
func leftovers(name, dir string) error {
	left, err := filepath.Glob("/run/netns/" + name + "-*")
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		left = append(left, dir)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range processes {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), dir) {
			left = append(left, filepath.Dir(file))
		}
	}
	if len(left) > 0 {
		return miss{"nothing left", strings.Join(left, ", ")}
	}
	return nil
}

// ready says whether the policy is Ready in its present generation.
func ready(o *v1alpha1.NodePortPolicy) bool {
	c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.Ready)
	return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == o.Generation
}

func describe(conditions []metav1.Condition) string {
	if len(conditions) == 0 {
		return " no conditions"
	}
	text := ""
	for _, c := range conditions {
		text += fmt.Sprintf("\n%s=%s %s (generation %d): %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
	}
	return text
}
