package model

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// access is who is answered on a number, and by whose pod.
type access struct {
	// must be answered, at rest.
	must crowd
	// may be answered.
	may crowd
	pod string
}

// access works out who reaches a number at rest.
func (w *world) access(n uint16) access {
	a := w.register[n]
	if a == nil {
		if holder := w.holder(n); !w.pooled(n) && holder != nil {
			return access{must: answering(holder, n), may: everybody, pod: podOf(holder)}
		}
		return access{}
	}
	if w.lockdown {
		return access{}
	}
	switch a.Spec.State {
	case v1alpha1.AllocationOpen:
		return w.accessOpen(a)
	case v1alpha1.AllocationForeign:
		if service := w.services[serviceOf(a)]; a.Spec.Grandfathered && service != nil {
			return access{must: answering(service, n), may: everybody, pod: podOf(service)}
		}
	}
	return access{}
}

// accessOpen goes by the policy; where that can't be honoured as it stands, and what
// was accepted before is in force, by what it still names.
func (w *world) accessOpen(a *v1alpha1.NodePortAllocation) access {
	p, pool := w.policies[policyOf(a)], w.pool(a.Spec.Pool)
	service := w.services[serviceOf(a)]
	if p == nil {
		return access{}
	}
	var out access
	if service != nil {
		out.pod = podOf(service)
	}
	accepted := !planned(p) && len(w.refusals(p)) == 0
	for _, port := range a.Spec.Ports {
		if accepted && service != nil && !slices.ContainsFunc(service.Spec.Ports, func(s corev1.ServicePort) bool { return serves(a, s) && exposes(p, s) != nil }) {
			return access{} // in place, and not named
		}
		out.may |= w.upTo(p, pool, port)
	}
	if accepted && slices.Contains(w.candidates(p), pool) && w.referenced(p) == service {
		out.must = out.may
	}
	return out
}

// upTo is who may be admitted to a port that the policy has. Of a pool that is gone
// the rails are, too, and so are the sets that they bound; what its defaults were only
// the register knows.
func (w *world) upTo(p *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool, port v1alpha1.ClaimedPort) (who crowd) {
	if pool != nil {
		who, _ = w.admitted(p, pool, port.Name)
		return who
	}
	for _, s := range p.Spec.Sources {
		if len(s.Ports) > 0 && !slices.Contains(s.Ports, port.Name) {
			continue
		}
		if s.CIDR != "" {
			who |= within(s.CIDR)
		} else if s.Entity != "" && port.World {
			who = everybody
		}
	}
	if p.Spec.Sources == nil {
		for _, cidr := range port.Sources {
			who |= within(cidr)
		}
		if port.World {
			who = everybody
		}
	}
	return who
}

// answering is everybody, unless the Service's number is one for health checks.
func answering(s *corev1.Service, n uint16) crowd {
	if uint16(s.Spec.HealthCheckNodePort) == n || s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return 0
	}
	return everybody
}

func podOf(s *corev1.Service) string { return s.Spec.Selector["app"] }

func ask(ctx context.Context, client string, node *lab.Node, n uint16, patience time.Duration) lab.Answer {
	return clients[client].Ask(ctx, lab.Flow{
		To: netip.AddrPortFrom(node.Addrs[0], n), From: netip.AddrPortFrom(networks[client].Addr().Next(), 0), Timeout: patience,
	})
}

// probe asks for every number that some Service has, from every client on every
// node. lacking are answers that are owed, and may come; excess is what may not be.
func (w *world) probe(ctx context.Context) (lacking, excess []string) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	slots := make(chan struct{}, 40)
	for n := uint16(anchorPort); n <= lastPort; n++ {
		if w.holder(n) == nil {
			continue
		}
		access := w.access(n)
		for _, client := range names {
			for _, node := range town.Nodes() {
				slots <- struct{}{}
				wait.Go(func() {
					defer func() { <-slots }()
					patience := 300 * time.Millisecond
					if access.must.has(client) {
						patience = time.Second
					}
					answer := ask(ctx, client, node, n, patience)
					answered := answer.Outcome == lab.Answered
					mu.Lock()
					defer mu.Unlock()
					what := fmt.Sprintf("%s on %s:%d: %s, want %+v", client, node.Name, n, answer, access)
					switch {
					case answered && !access.may.has(client):
						excess = append(excess, what)
					case answered && answer.Pod != access.pod: // kube-proxy is behind; whether it may be, the prober knows
						lacking = append(lacking, what)
					case !answered && access.must.has(client):
						lacking = append(lacking, what)
					}
				})
			}
		}
	}
	wait.Wait()
	return lacking, excess
}

// hit is an answer that somebody got.
type hit struct {
	client, node, pod string
	number            uint16
	began, at         time.Time
}

func (h hit) String() string {
	return fmt.Sprintf("%s was answered by %s on %s:%d, asked %s, answered %s", h.client, h.pod, h.node, h.number, h.began.Format("05.000"), h.at.Format("05.000"))
}

// A prober asks for every number, from everywhere, all the time.
type prober struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	hits   []hit
	asked  int
}

const (
	walkers  = 10
	patience = 40 * time.Millisecond // how short a breach may be to be noticed
	pace     = 20 * time.Millisecond // between two questions of a walker
)

func startProber(ctx context.Context) *prober {
	ctx, cancel := context.WithCancel(ctx)
	p := &prober{cancel: cancel}
	for range walkers {
		p.done.Go(func() { p.walk(ctx) })
	}
	return p
}

func (p *prober) stop() {
	p.cancel()
	p.done.Wait()
}

// take returns the answers since the last time.
func (p *prober) take() []hit {
	p.mu.Lock()
	defer p.mu.Unlock()
	hits := p.hits
	p.hits = nil
	return hits
}

func (p *prober) walk(ctx context.Context) {
	nodes := town.Nodes()
	for ctx.Err() == nil {
		h := hit{client: names[rand.IntN(len(names))], number: uint16(dynamic + rand.IntN(poolPorts)), began: time.Now()}
		node := nodes[rand.IntN(len(nodes))]
		answer := ask(ctx, h.client, node, h.number, patience)
		h.node, h.pod, h.at = node.Name, answer.Pod, time.Now()
		p.mu.Lock()
		if p.asked++; answer.Outcome == lab.Answered {
			p.hits = append(p.hits, h)
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pace):
		}
	}
}
