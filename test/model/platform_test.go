package model

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// pool makes or replaces a pool, or deletes it.
func (p *play) pool() {
	name := one(p, "pool", pools)
	pool := newPool(name)
	if p.chance(20, "delete") {
		err := p.delete(pool)
		p.vanished = time.Now()
		p.tell(err, "delete pool %s", name)
		return
	}
	p.drawRanges(pool)
	p.drawOptions(pool)
	p.putPool(pool)
}

// poolOptions changes what a pool that is there allows, or its ranges alone.
func (p *play) poolOptions() {
	w := p.last()
	have := w.pool(one(p, "pool", pools))
	if have == nil {
		p.pool()
		return
	}
	pool := newPool(have.Name)
	pool.Spec = *have.Spec.DeepCopy()
	if p.chance(50, "ranges") {
		pool.Spec.Reserved = nil
		p.drawRanges(pool)
	} else {
		p.drawOptions(pool)
	}
	p.putPool(pool)
}

func (p *play) putPool(pool *v1alpha1.NodePortPool) {
	err := put(p, pool.DeepCopy(), func(have *v1alpha1.NodePortPool) { have.Spec = pool.Spec })
	s := pool.Spec
	p.tell(err, "pool %s: %s %v reserved %v quota %d hold %t defaults %v to %v selector %t priority %d grandfather %t %s rails %s",
		pool.Name, s.Category, s.Ranges, s.Reserved, s.Quota.PerNamespace, *s.Hold, s.DefaultSources, s.AllocateTo.Namespaces,
		s.AllocateTo.NamespaceSelector != nil, *s.AllocateTo.Priority, *s.Grandfather, s.Placement, spellRails(s.Guardrails))
}

func spellRails(g v1alpha1.Guardrails) string {
	return fmt.Sprintf("{widest %d, CIDRs %d, addresses %d, world %s, expiry %t, within %v, sets %v}", ptr.Deref(g.WidestIPv4, 0), ptr.Deref(g.MaxCIDRs, 0),
		ptr.Deref(g.MaxAddresses, 0), g.World, g.RequireExpiry, g.AllowedSources, g.AddressSets)
}

// drawRanges takes one or two of the blocks of four numbers; two pools may overlap.
func (p *play) drawRanges(pool *v1alpha1.NodePortPool) {
	pool.Spec.Ranges = nil
	for range rapid.IntRange(1, 2).Draw(p.T, "ranges") {
		first := dynamic + 4*rapid.IntRange(0, poolPorts/4-1).Draw(p.T, "block")
		r := v1alpha1.PortRange(fmt.Sprintf("%d-%d", first, first+3))
		if p.chance(20, "one number") {
			r = v1alpha1.PortRange(fmt.Sprint(first))
		}
		if !slices.ContainsFunc(pool.Spec.Ranges, func(o v1alpha1.PortRange) bool { return spans(string(o), uint16(first)) }) {
			pool.Spec.Ranges = append(pool.Spec.Ranges, r)
		}
	}
}

func (p *play) drawOptions(pool *v1alpha1.NodePortPool) {
	s := &pool.Spec
	s.Category = map[string]string{"one": "web", "two": "web", "three": "db"}[pool.Name]
	if p.chance(15, "of the other category") {
		s.Category = one(p, "category", []string{"web", "db"})
	}
	s.Reserved, s.Quota, s.DefaultSources = nil, v1alpha1.Quota{}, nil
	if first := s.Ranges[0]; p.chance(15, "reserved") {
		s.Reserved = []v1alpha1.ReservedPorts{{Ports: first[:5], Reason: "somebody else's"}}
	}
	if p.chance(15, "quota") {
		s.Quota.PerNamespace = int32(rapid.IntRange(1, 2).Draw(p.T, "per namespace"))
	}
	s.Hold = ptr.To(!p.chance(40, "not held"))
	s.Grandfather = ptr.To(!p.chance(15, "nobody is passed"))
	s.Placement = one(p, "placement", []v1alpha1.Placement{v1alpha1.PlacementSpread, v1alpha1.PlacementSpread, v1alpha1.PlacementBySource})
	s.AllocateTo = one(p, "to", []v1alpha1.AllocateTo{
		{NamespaceSelector: &metav1.LabelSelector{}},
		{Namespaces: []v1alpha1.NamespaceName{red, blue}},
		{Namespaces: []v1alpha1.NamespaceName{red, blue}},
		{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: red}}},
		{Namespaces: []v1alpha1.NamespaceName{blue}},
	})
	s.AllocateTo.Priority = ptr.To(one(p, "priority", []int32{40, 50, 60}))
	s.Guardrails = p.drawRails()
	for range rapid.IntRange(0, 2).Draw(p.T, "defaults") {
		d := v1alpha1.DefaultSource{CIDR: one(p, "cidr", cidrs)}
		if p.chance(30, "a set") {
			d = v1alpha1.DefaultSource{AddressSet: v1alpha1.ObjectName(one(p, "set", sets))}
		}
		if !slices.Contains(s.DefaultSources, d) {
			s.DefaultSources = append(s.DefaultSources, d)
		}
	}
}

func (p *play) drawRails() v1alpha1.Guardrails {
	g := v1alpha1.Guardrails{World: v1alpha1.Deny}
	if p.chance(20, "not too wide") {
		g.WidestIPv4 = ptr.To[int32](28)
	}
	if p.chance(10, "few networks") {
		g.MaxCIDRs = ptr.To(int32(rapid.IntRange(1, 2).Draw(p.T, "networks")))
	}
	if p.chance(10, "few addresses") {
		g.MaxAddresses = ptr.To(int64(16 * rapid.IntRange(1, 2).Draw(p.T, "addresses")))
	}
	if p.chance(15, "bounded") {
		g.AllowedSources = []v1alpha1.CIDR{"203.0.113.0/28", "192.0.2.0/27"}
	}
	if p.chance(30, "world") {
		g.World = v1alpha1.Allow
	}
	if p.chance(10, "some sets") {
		g.AddressSets = []v1alpha1.ObjectName{"s1"}
	}
	g.RequireExpiry = p.chance(5, "an end is required")
	return g
}

// set makes, changes or deletes an AddressSet.
func (p *play) set() {
	set := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: one(p, "set", sets)}}
	if p.chance(20, "delete") {
		err := p.delete(set)
		p.vanished = time.Now()
		p.tell(err, "delete set %s", set.Name)
		return
	}
	for range rapid.IntRange(0, 3).Draw(p.T, "networks") {
		if c := one(p, "cidr", cidrs); !slices.Contains(set.Spec.CIDRs, c) {
			set.Spec.CIDRs = append(set.Spec.CIDRs, c)
		}
	}
	choice := one(p, "for", []string{"all", "all", "all", red, "pools"})
	switch choice {
	case "all":
		set.Spec.AllowedFor = &v1alpha1.NamespaceChoice{}
	case red:
		set.Spec.AllowedFor = &v1alpha1.NamespaceChoice{NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: red}}}
	}
	err := put(p, set.DeepCopy(), func(have *v1alpha1.AddressSet) { have.Spec = set.Spec })
	p.tell(err, "set %s: %v for %s", set.Name, set.Spec.CIDRs, choice)
}

// squat exposes a Service on a number of a pool behind the pool's back, or lets go of
// one.
func (p *play) squat() {
	k := one(p, "squatter", wilds)
	if p.last().services[k] != nil {
		p.release(k)
		return
	}
	p.exposeWild(k, p.drawNumber(), 1)
}

// random lets the API server choose.
func (p *play) random() {
	k := one(p, "squatter", wilds)
	if p.last().services[k] != nil {
		p.release(k)
	}
	p.exposeWild(k, 0, rapid.IntRange(1, 3).Draw(p.T, "ports"))
}

func (p *play) release(k key) {
	p.tell(p.delete(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name}}), "delete service %v", k)
}

func (p *play) exposeWild(k key, number int32, ports int) {
	service := newService(k.Namespace, k.Name)
	service.Spec.Selector, service.Spec.Type = map[string]string{"app": wild}, corev1.ServiceTypeNodePort
	for i := range ports {
		port := newService("", "", corev1.ServicePort{Name: fmt.Sprint("port-", i), Port: int32(443 + i), NodePort: number}).Spec.Ports[0]
		service.Spec.Ports = append(service.Spec.Ports, port)
	}
	switch rapid.IntRange(0, 3).Draw(p.T, "type") {
	case 0:
		service.Spec.Type = corev1.ServiceTypeLoadBalancer
	case 1: // with a number for health checks
		service.Spec.Type, service.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
	}
	err := p.create(service)
	p.tell(err, "%s service %v wants %d and has %v", service.Spec.Type, k, number, numbersOf(service))
}

// lockdown is taken back in the same step, lest most of a life goes by in it.
func (p *play) lockdown() {
	p.tell(p.setLockdown(true), "lockdown")
	p.rest()
	for range rapid.IntRange(0, 2).Draw(p.T, "changes") {
		p.change()
	}
	p.rest()
	p.tell(p.setLockdown(false), "the lockdown is over")
}

func (p *play) setLockdown(on bool) error {
	object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}
	return edit(p, object, func(have *v1alpha1.Portreeve) { have.Spec.Lockdown = on })
}

func (p *play) restartManager() {
	town.Manager().Kill()
	p.startManager()
	p.tell(nil, "kill the manager and start it again")
}

func (p *play) restartAgent() {
	node := one(p, "node", town.Nodes())
	p.killAgent(node)
	p.must(town.RestartAgent(p.ctx, node))
	p.tell(nil, "kill the agent of %s and start it again", node.Name)
}

func (p *play) killAgent(node *lab.Node) {
	p.away = true
	agent := town.Agent(node)
	agent.Kill()
	<-agent.Done()
}

// burst makes several changes in one go.
func (p *play) burst() {
	for range rapid.IntRange(2, 4).Draw(p.T, "changes") {
		p.change()
	}
}

// withoutManager makes changes while no manager runs.
func (p *play) withoutManager() {
	town.Manager().Kill()
	p.say("kill the manager")
	p.burst()
	p.startManager()
	p.tell(nil, "start the manager")
}

// withoutAgent makes changes while a node's agent is dead.
func (p *play) withoutAgent() {
	node := one(p, "node", town.Nodes())
	p.killAgent(node)
	p.say("kill the agent of %s", node.Name)
	p.burst()
	p.must(town.RestartAgent(p.ctx, node))
	p.tell(nil, "start the agent of %s", node.Name)
}
