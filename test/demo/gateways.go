package main

import (
	"context"
	"fmt"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// gateways: one node answers, the others refuse; it dies, and the next takes over.
func (p *play) gateways(ctx context.Context) error {
	p.say.act("One node answers, and another when that dies")
	p.say.note("The team asks for one gateway of all nodes. The others refuse whom the policy admits.")
	if err := p.patch(ctx, `{"spec":{"gateways":{"mode":"Centralized","active":1}}}`); err != nil {
		return err
	}
	nodes := p.Nodes()
	_, err := p.answersAt(ctx, nodes[0])
	p.say.check(0, err, "%s answers the office, %s and %s refuse it at once", nodes[0].Name, nodes[1].Name, nodes[2].Name)
	v := visit{p.street, street4, p.port}
	p.say.check(0, p.quiet(ctx, v), "%-25s dropped by all: only who is admitted learns of the port", v)
	if err := p.kubectl(ctx, "get", "gwset"); err != nil {
		return err
	}

	p.say.gap()
	p.say.note("%s is no longer Ready. Times since the API server was told:", nodes[0].Name)
	began := time.Now()
	if err := nodes[0].Fail(ctx); err != nil {
		return err
	}
	at, err := p.answersAt(ctx, nodes[1])
	p.say.check(after(at, began), err, "%s answers, %s and %s refuse: one write, whatever the number of policies", nodes[1].Name, nodes[0].Name, nodes[2].Name)
	if err := nodes[0].Recover(ctx); err != nil {
		return err
	}
	p.say.check(0, p.staysAt(ctx, nodes[1]), "%s is Ready again, and %s goes on for a second: who is active stays so", nodes[0].Name, nodes[1].Name)

	p.say.gap()
	p.say.note("The team takes that back:")
	if err := p.patch(ctx, `{"spec":{"gateways":null}}`); err != nil {
		return err
	}
	began = time.Now()
	at, err = p.reached(ctx, visit{p.office, office4, p.port})
	p.say.check(after(at, began), err, "every node answers again, on the same port")
	return p.settled(ctx)
}

// patch edits the policy as a team would.
func (p *play) patch(ctx context.Context, edit string) error {
	return p.kubectl(ctx, "patch", "npp", "-n", shop.Namespace, shop.Name, "--type", "merge", "-p", edit)
}

// answersAt waits until the gateway alone answers the office and the others refuse it, and
// returns when that was.
func (p *play) answersAt(ctx context.Context, gateway *lab.Node) (at time.Time, err error) {
	err = until(ctx, func(ctx context.Context) error { return p.only(ctx, gateway) })
	return time.Now(), err
}

// staysAt wants that to be so for a second.
func (p *play) staysAt(ctx context.Context, gateway *lab.Node) error {
	for began := time.Now(); time.Since(began) < time.Second; {
		if err := p.only(ctx, gateway); err != nil {
			return err
		}
	}
	return nil
}

// only wants the gateway alone to answer the office, and the others to refuse it.
func (p *play) only(ctx context.Context, gateway *lab.Node) error {
	v := visit{p.office, office4, p.port}
	return each(p.Nodes(), fmt.Sprintf("an answer of %s, and the others to refuse", gateway.Name), func(_ int, n *lab.Node) error {
		want := lab.Refused
		if n == gateway {
			want = lab.Answered
		}
		return outcome(v.client.Ask(ctx, v.flow(n, 100*time.Millisecond)), want)
	})
}

// settled waits until the policy is Ready as it stands now.
func (p *play) settled(ctx context.Context) error {
	var policy v1alpha1.NodePortPolicy
	if err := p.Client.Get(ctx, shop, &policy); err != nil {
		return err
	}
	_, err := p.policies.await(ctx, "Ready", func(e event[*v1alpha1.NodePortPolicy]) bool {
		return e.object.Generation >= policy.Generation && ready(e.object)
	})
	return err
}
