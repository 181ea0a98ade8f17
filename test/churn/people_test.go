package churn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
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

// settling bounds the time from an edit until it is in force: agents are dead for a
// part of it, and kube-proxy has to hear of new numbers.
const settling = 60 * time.Second

// The kernel ends access by its own clock, whose second began up to one earlier.
const (
	endsEarly = 1500 * time.Millisecond
	endsLate  = time.Second
)

// person edits one policy, all the time.
type person struct {
	*life
	name    string
	random  *rand.Rand
	history *history
	// The numbers that are this policy's alone: two for each protocol.
	tcp, udp [2]uint16
	policy   *v1alpha1.NodePortPolicy
	state    state
}

// numbers are all that the policy ever has.
func (p *person) numbers() []uint16 { return slices.Concat(p.tcp[:], p.udp[:]) }

// create makes the policy and returns when it is in force.
func (p *person) create(ctx context.Context) error {
	p.state = state{tcp: p.tcp[0], udp: p.udp[0], named: [never]bool{always: true}}
	p.policy = &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name},
		Spec:       v1alpha1.NodePortPolicySpec{Category: p.namespace, ServiceRef: v1alpha1.ServiceReference{Name: "shop"}},
	}
	p.spell(p.state)
	p.history.enter([]state{closed, p.state}, []state{closed, p.state})
	if err := town.Client.Create(ctx, p.policy); err != nil {
		return err
	}
	return p.settle(ctx, []state{closed, p.state})
}

// spell writes the state into the spec; how, is random where there are several ways.
func (p *person) spell(s state) {
	spec := &p.policy.Spec
	spec.Ports = []v1alpha1.PolicyPort{{Name: "tcp", NodePort: int32(s.tcp)}}
	if s.udp != 0 {
		spec.Ports = append(spec.Ports, v1alpha1.PolicyPort{Name: "udp", NodePort: int32(s.udp)})
	}
	spec.ExpiresAt = nil
	if !s.ends.IsZero() {
		spec.ExpiresAt = &metav1.Time{Time: s.ends}
	}
	spec.Sources = nil
	cidr := func(p netip.Prefix) v1alpha1.CIDR { return v1alpha1.CIDR(p.String()) }
	except := p.random.IntN(2) == 0 && slices.Contains(s.named[1:], true)
	whole4, whole6 := v1alpha1.Source{CIDR: sometimes4}, v1alpha1.Source{CIDR: sometimes6}
	for group, named := range s.named {
		four, six := cidr(network(group, false)), cidr(network(group, true))
		switch {
		case !except && named || group == always:
			spec.Sources = append(spec.Sources, v1alpha1.Source{CIDR: four}, v1alpha1.Source{CIDR: six})
		case except && !named:
			whole4.Except, whole6.Except = append(whole4.Except, four), append(whole6.Except, six)
		}
	}
	if except {
		spec.Sources = append(spec.Sources, whole4, whole6)
	}
	p.random.Shuffle(len(spec.Sources), func(i, j int) { spec.Sources[i], spec.Sources[j] = spec.Sources[j], spec.Sources[i] })
}

// vary is the next wish, and what else of the spec changes with it.
func (p *person) vary(s state) (state, func(*v1alpha1.NodePortPolicySpec)) {
	r := p.random
	other := func(pair [2]uint16, n uint16) uint16 { return pair[0] + pair[1] - n }
	if !s.ends.IsZero() { // it ended, or is to be spared
		s.ends = time.Time{}
		return s, nil
	}
	switch r.IntN(8) {
	case 0, 1, 2:
		for group := 1; group <= sometimes; group++ {
			s.named[group] = r.IntN(2) == 0
		}
	case 3: // above what the traffic here comes to: values that are felt are tested elsewhere
		limits := v1alpha1.Limits{}
		if r.IntN(3) > 0 {
			limits = v1alpha1.Limits{ConnectionsPerSource: int32(20000 + r.IntN(9)), NewConnectionsPerSecond: int32(5000 + r.IntN(9)), Burst: 9000}
		}
		return s, func(spec *v1alpha1.NodePortPolicySpec) { spec.Limits = limits }
	case 4:
		log := v1alpha1.Log{Denied: r.IntN(2) == 0, Accepted: r.IntN(4) == 0, PerSecond: int32(1 + r.IntN(3))}
		return s, func(spec *v1alpha1.NodePortPolicySpec) { spec.Log = log }
	case 5:
		s.tcp = other(p.tcp, s.tcp)
	case 6:
		s.udp = []uint16{0, p.udp[0], p.udp[1]}[r.IntN(3)]
	case 7:
		s.ends = time.Now().Add(time.Duration(3+r.IntN(4)) * time.Second).Truncate(time.Second)
	}
	return s, nil
}

// live edits until ctx ends, and leaves the last edit in force.
func (p *person) live(ctx context.Context) {
	var unsettled []state // of an edit that could not come into force
	for pause(ctx, time.Duration(p.random.IntN(300))*time.Millisecond) {
		may := append(unsettled, p.history.newest())
		unsettled = nil
		for range 1 + p.random.IntN(3)/2*(1+p.random.IntN(2)) { // now and then a few without waiting
			var err error
			if may, err = p.edit(may); err != nil {
				p.judge.breach(time.Now(), "", "edit of %s: %v", p.name, err)
				return
			}
			if !p.state.ends.IsZero() {
				break
			}
		}
		err := p.settle(p.ctx, may)
		if lost := p.lost(p.ctx); err != nil && len(lost) > 0 {
			p.judge.note("lost", "%s: numbers %v", p.name, lost)
			unsettled = may
			continue
		}
		if err != nil {
			p.judge.breach(time.Now(), "", "%s: %v", p.name, err)
			return
		}
	}
}

// edit makes one edit, and returns what may be in force from now on.
func (p *person) edit(may []state) ([]state, error) {
	next, change := p.vary(p.state)
	p.spell(next)
	if change != nil {
		change(&p.policy.Spec)
	}
	may = append(may, next)
	if !next.ends.IsZero() {
		may = append(may, closed) // the end may come first
	}
	for _, number := range []uint16{p.state.tcp, p.state.udp} {
		if number != next.tcp && number != next.udp {
			p.history.giveUp(number, time.Now())
		}
	}
	p.state = next
	p.history.enter(may, may)
	wish := p.policy.Spec
	err := await(p.ctx, settling, func() error {
		err := town.Client.Update(p.ctx, p.policy)
		if err == nil {
			return nil
		}
		if getErr := town.Client.Get(p.ctx, client.ObjectKeyFromObject(p.policy), p.policy); getErr != nil {
			err = errors.Join(err, getErr)
		}
		p.policy.Spec = wish
		return err
	})
	p.judge.note("edits", "%s, generation %d: tcp/%d udp/%d named %v ends %s", p.name, p.policy.Generation, next.tcp, next.udp, next.named, next.ends.Format("05"))
	return may, err
}

// settle returns when the last edit is in force, and has come to its end if it has one.
func (p *person) settle(ctx context.Context, may []state) error {
	reason, err := p.awaitReady(ctx, "")
	if err != nil {
		return err
	}
	s := p.state
	in := []state{s}
	if s.ends.IsZero() {
		p.history.enter(in, may)
		p.judge.note("in force", "%s", p.name)
		if err := p.awaitCarried(ctx); err != nil {
			return err
		}
		p.history.enter(in, in)
		return nil
	}
	if ends := s.ends.Add(-endsEarly); reason != v1alpha1.ReasonExpired && time.Now().Before(ends) {
		p.history.enter(in, may)
		p.judge.note("in force", "%s", p.name)
		pause(ctx, time.Until(ends))
		both := []state{s, closed}
		p.history.enter(both, both)
		pause(ctx, time.Until(s.ends.Add(endsLate)))
		p.history.enter([]state{closed}, []state{closed}) // whatever agents and manager do
		p.judge.note("ends", "%s", p.name)
	}
	if _, err := p.awaitReady(ctx, v1alpha1.ReasonExpired); err != nil {
		return err
	}
	p.history.enter([]state{closed}, []state{closed})
	for _, number := range []uint16{s.tcp, s.udp} { // they are, and the next edit asks for them again
		p.history.giveUp(number, time.Now())
	}
	return nil
}

// awaitReady waits until the policy is Ready in its present generation, for the
// reason if there is one.
func (p *person) awaitReady(ctx context.Context, reason string) (string, error) {
	var c *metav1.Condition
	err := await(ctx, settling, func() error {
		have := &v1alpha1.NodePortPolicy{}
		if err := town.Client.Get(ctx, client.ObjectKeyFromObject(p.policy), have); err != nil {
			return err
		}
		generation := p.policy.Generation
		p.policy = have
		if have.Generation != generation {
			return fmt.Errorf("somebody else edited it")
		}
		c = meta.FindStatusCondition(have.Status.Conditions, v1alpha1.Ready)
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != generation || reason != "" && c.Reason != reason {
			return fmt.Errorf("generation %d is not in force: %+v", generation, have.Status.Conditions)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("%w%s", err, p.register(ctx))
	}
	return c.Reason, nil
}

// lost are the policy's numbers that the API server refuses although nobody has them:
// where an update of a Service loses a race, it forgets for some ten minutes what it had
// taken for it. Nobody is let in by that, and nobody can be.
func (p *person) lost(ctx context.Context) (out []uint16) {
	var services corev1.ServiceList
	if err := town.Client.List(ctx, &services); err != nil {
		return nil
	}
	for _, number := range []uint16{p.state.tcp, p.state.udp} {
		a := &v1alpha1.NodePortAllocation{}
		err := town.Client.Get(ctx, client.ObjectKey{Name: strconv.Itoa(int(number))}, a)
		held := slices.ContainsFunc(services.Items, func(s corev1.Service) bool {
			return slices.ContainsFunc(s.Spec.Ports, func(port corev1.ServicePort) bool { return port.NodePort == int32(number) })
		})
		if number != 0 && err == nil && a.Spec.State == v1alpha1.AllocationForeign && !held {
			out = append(out, number)
		}
	}
	return out
}

// register is what is known of the policy's numbers, to be told when it stalls.
func (p *person) register(ctx context.Context) (text string) {
	for _, number := range p.numbers() {
		a := &v1alpha1.NodePortAllocation{}
		err := town.Client.Get(ctx, client.ObjectKey{Name: strconv.Itoa(int(number))}, a)
		text += fmt.Sprintf("\n    register: %d made %s, %+v, %v", number, a.CreationTimestamp.Format(time.TimeOnly), a.Spec, err)
	}
	var services corev1.ServiceList
	if err := town.Client.List(ctx, &services); err != nil {
		return text + err.Error()
	}
	for _, s := range services.Items {
		for _, port := range s.Spec.Ports {
			if slices.Contains(p.numbers(), uint16(port.NodePort)) {
				text += fmt.Sprintf("\n    %d/%s is of Service %s/%s", port.NodePort, port.Protocol, s.Namespace, s.Name)
			}
		}
	}
	p.judge.mu.Lock()
	defer p.judge.mu.Unlock()
	for _, e := range p.judge.events {
		if strings.Contains(e.what, p.name) {
			text += fmt.Sprintf("\n    %s %s", clock(e.at), e.what)
		}
	}
	return text
}

// awaitCarried waits until kube-proxy carries the numbers, on each node and in each
// family: what a status can't promise.
func (p *person) awaitCarried(ctx context.Context) error {
	for protocol, number := range map[string]uint16{"tcp": p.state.tcp, "udp": p.state.udp} {
		if number == 0 {
			continue
		}
		for _, node := range town.Nodes() {
			for _, six := range families() {
				ask := lab.Flow{Network: protocol, To: to(node, six, number), From: netip.AddrPortFrom(address(always, six, 9), 0), Timeout: time.Second}
				if err := await(ctx, settling, func() error {
					if a := street.Ask(ctx, ask); a.Outcome != lab.Answered {
						return fmt.Errorf("%s on %s is not carried: %s", protocol, ask.To, a)
					}
					return nil
				}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// service is what all policies expose.
func service(namespace string) *corev1.Service {
	s := lab.EchoService(namespace, "shop", 0, map[string]string{"app": "shop"})
	s.Spec.Type = corev1.ServiceTypeClusterIP
	return s
}

// await tries until there is no error, for a bounded time.
func await(ctx context.Context, limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || !pause(ctx, 40*time.Millisecond) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}

// pause says whether the time has passed and ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}
