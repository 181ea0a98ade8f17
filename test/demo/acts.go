package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// Ports that nobody was given.
const (
	freePort     = 30099 // in the sample's pool, claimed by nobody
	backdoorPort = 30050 // in the pool, taken by backdoor.yaml
	outsidePort  = 30200 // in no pool
)

var shop = client.ObjectKey{Namespace: "shop", Name: "shop"}

// expose: the policy is committed, and the port answers.
func (p *play) expose(ctx context.Context) error {
	p.say.act("The team commits a NodePortPolicy")
	for _, a := range p.clouds {
		_, a.foreign = a.group()
	}
	policy, err := os.ReadFile(demoFile("../../config/samples/nodeportpolicy.yaml"))
	if err != nil {
		return err
	}
	p.say.shell("cat config/samples/nodeportpolicy.yaml", string(policy))
	p.say.gap()
	p.say.note("The overlay applies config/samples as they are but for three values: the endpoints of\n" +
		"the lab's clouds, their resync 10s in place of 1m, and coolDown 3s in place of 30s.")
	out, err := p.apply(ctx)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	p.say.shell("kubectl apply -k test/demo/overlay", out)
	p.say.gap()
	p.say.note("Times since the API server had the policy:")

	stored, err := p.policies.await(ctx, "the policy", func(e event[*v1alpha1.NodePortPolicy]) bool { return true })
	if err != nil {
		return err
	}
	assigned, err := p.register.await(ctx, "a port for the policy", func(e event[*v1alpha1.NodePortAllocation]) bool {
		return e.object.Spec.Claim.Policy == shop.Name
	})
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(assigned.object.Name, 10, 16)
	if err != nil {
		return err
	}
	p.port = uint16(port)
	p.say.check(assigned.at.Sub(stored.at), inPool(p.port), "port %d of pool %s is assigned", p.port, assigned.object.Spec.Pool)
	reached4 := p.reach(ctx, visit{p.office, office4, p.port})
	reached6 := p.reach(ctx, visit{p.office, office6, p.port})
	open, err := p.policies.await(ctx, "Ready", func(e event[*v1alpha1.NodePortPolicy]) bool { return ready(e.object) })
	p.say.check(open.at.Sub(stored.at), err, "status says Ready: every node's kernel and both clouds were read back")
	reached4(stored.at)
	reached6(stored.at)
	p.say.note("An answer also takes the EndpointSlice controller's and kube-proxy's own time.")

	var service corev1.Service
	err = p.Client.Get(ctx, shop, &service)
	p.service = service.ResourceVersion
	return err
}

// inPool says whether the port is one of the sample's pool.
func inPool(port uint16) error {
	if port >= 30000 && port <= 30099 || port == 30180 {
		return nil
	}
	return miss{"one of 30000-30099, 30180", strconv.Itoa(int(port))}
}

// reach begins to knock at all nodes; check waits for the first answers and says
// when the last of them came.
func (p *play) reach(ctx context.Context, v visit) (check func(since time.Time)) {
	if p.skips(v) {
		return func(time.Time) {}
	}
	var at time.Time
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		at, err = p.reached(ctx, v)
	}()
	return func(since time.Time) {
		<-done
		p.say.check(at.Sub(since), err, "%s has been answered by all three nodes", v)
	}
}

// skips counts a check as skipped when it needs an IPv6 that is not there.
func (p *play) skips(v visit) bool {
	if v.from.Is4() || p.IPv6() {
		return false
	}
	p.say.skip("%-25s port %d  no IPv6 here", v, v.port)
	return true
}

// knock: exactly the named sources are answered, and only on the port given.
func (p *play) knock(ctx context.Context) error {
	p.say.act("Who gets in")
	p.say.note("Each knocks at all three nodes. The policy names the office, and not the street.")
	for _, v := range []visit{{p.office, office4, p.port}, {p.office, office6, p.port}} {
		if !p.skips(v) {
			took, err := p.answered(ctx, v)
			p.say.check(took, err, "%-25s port %d  answered, slowest of three", v, v.port)
		}
	}
	for _, v := range []visit{
		{p.street, street4, p.port}, {p.street, street6, p.port},
		{p.office, office4, freePort}, {p.office, office6, freePort},
	} {
		if p.skips(v) {
			continue
		}
		why := "a source that the policy does not name"
		if v.port == freePort {
			why = "a port that nobody has claimed"
		}
		p.say.check(0, p.quiet(ctx, v), "%-25s port %d  dropped: %s", v, v.port, why)
	}
	v := visit{p.office, office4, outsidePort}
	p.say.check(0, p.refused(ctx, v), "%-25s port %d  refused: in no pool, so the kernel answers, not Portreeve", v, v.port)
	return p.backdoor(ctx)
}

// backdoor: a Service made behind Portreeve's back gets no number of the pool; and
// where it does, it works, but for nobody outside.
func (p *play) backdoor(ctx context.Context) error {
	p.say.gap()
	p.say.note("Somebody makes a Service of type NodePort on the pool's port %d. Free numbers are held:", backdoorPort)
	p.say.shell("kubectl apply -f test/demo/backdoor.yaml", "")
	_, err := p.Kubectl(ctx, "apply", "-f", demoFile("backdoor.yaml"))
	if err == nil || !strings.Contains(err.Error(), "already allocated") {
		err = miss{"provided port is already allocated", fmt.Sprint(err)}
	} else {
		err = nil
	}
	p.say.check(0, err, "the API server refuses it: provided port is already allocated")
	p.say.note("In a pool with hold: false it is taken, and the nodes drop what comes for it:")
	if err := p.kubectl(ctx, "patch", "nppool", "web", "--type", "merge", "-p", `{"spec":{"hold":false}}`); err != nil {
		return err
	}
	var out string
	err = until(ctx, func(ctx context.Context) (err error) {
		out, err = p.Kubectl(ctx, "apply", "-f", demoFile("backdoor.yaml"))
		return err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	p.say.shell("kubectl apply -f test/demo/backdoor.yaml", out)
	node := p.Nodes()[0]
	err = until(ctx, func(ctx context.Context) error {
		self := lab.Flow{To: netip.AddrPortFrom(node.Addrs[0], backdoorPort), Timeout: 100 * time.Millisecond}
		return outcome(node.Ask(ctx, self), lab.Answered)
	})
	p.say.check(0, err, "kube-proxy serves it: %s reaches it from inside", node.Name)
	for _, v := range []visit{{p.office, office4, backdoorPort}, {p.street, street4, backdoorPort}, {p.office, office6, backdoorPort}} {
		if !p.skips(v) {
			p.say.check(0, p.quiet(ctx, v), "%-25s port %d  dropped", v, v.port)
		}
	}
	return nil
}

// prove: status, register and clouds say the same.
func (p *play) prove(ctx context.Context) error {
	p.say.act("What status, register and clouds say")
	taken, errForeign := p.state(ctx, backdoorPort, v1alpha1.AllocationForeign)
	if errForeign == nil && taken.object.Spec.Grandfathered {
		errForeign = miss{"a port that came after the pool", "grandfathered: true"}
	}
	open, errOpen := p.state(ctx, p.port, v1alpha1.AllocationOpen)
	if claim := (v1alpha1.Claim{Namespace: shop.Namespace, Policy: shop.Name, Service: shop.Name}); errOpen == nil && open.object.Spec.Claim != claim {
		errOpen = miss{fmt.Sprint(claim), fmt.Sprint(open.object.Spec.Claim)}
	}
	if err := p.kubectl(ctx, "get", "npp", "-n", "shop"); err != nil {
		return err
	}
	var policy v1alpha1.NodePortPolicy
	if err := p.Client.Get(ctx, shop, &policy); err != nil {
		return err
	}
	p.say.gap()
	p.say.text(gates(policy.Status.Conditions))
	p.say.check(0, p.proved(&policy), "port %d; all five gates and Ready are True for generation %d, on all nodes", p.port, policy.Generation)

	p.say.gap()
	if err := p.kubectl(ctx, "get", "npa"); err != nil {
		return err
	}
	p.say.check(0, errOpen, "port %d is Open, for the policy shop/shop", p.port)
	p.say.check(0, errForeign, "port %d is Foreign: known, and not let in", backdoorPort)

	p.say.gap()
	if err := p.kubectl(ctx, "get", "cfw"); err != nil {
		return err
	}
	for _, a := range p.clouds {
		p.say.gap()
		p.say.note("The security group of %s, as the %s account itself has it; signed are the rules of this cluster:", a.firewall, a.api)
		p.say.text(a.table())
		p.say.check(0, a.admits(p.port, policy.Spec.Sources), "the signed rules admit exactly the policy's sources to port %d", p.port)
		p.say.check(0, a.untouched(), "the %d rules of others are untouched", len(a.foreign))
	}
	return nil
}

func (p *play) kubectl(ctx context.Context, args ...string) error {
	out, err := p.Kubectl(ctx, args...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	p.say.shell("kubectl "+strings.Join(args, " "), out)
	return nil
}

var gateNames = []string{v1alpha1.Accepted, v1alpha1.Allocated, v1alpha1.Exposed, v1alpha1.HostEnforced, v1alpha1.CloudEnforced, v1alpha1.Ready}

// gates is a table of the conditions in their natural order.
func gates(conditions []metav1.Condition) string {
	rows := []string{"CONDITION\tSTATUS\tREASON\tMESSAGE"}
	for _, name := range gateNames {
		if c := meta.FindStatusCondition(conditions, name); c != nil {
			rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s", c.Type, c.Status, c.Reason, c.Message))
		}
	}
	return columns(rows)
}

// proved wants the port in status and every gate to be True in the present
// generation.
func (p *play) proved(o *v1alpha1.NodePortPolicy) error {
	for _, name := range gateNames {
		c := meta.FindStatusCondition(o.Status.Conditions, name)
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != o.Generation {
			return miss{fmt.Sprintf("%s True in generation %d", name, o.Generation), describe(o.Status.Conditions)}
		}
	}
	if want := strconv.Itoa(int(p.port)); o.Status.NodePorts != want {
		return miss{"status.nodePorts: " + want, o.Status.NodePorts}
	}
	if o.Status.Nodes == nil || o.Status.Nodes.Enforced != v1alpha1.EnforcedAll {
		return miss{"status.nodes.enforced: All", fmt.Sprintf("%+v", o.Status.Nodes)}
	}
	return nil
}
