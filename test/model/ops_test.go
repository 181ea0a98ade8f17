package model

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// poolPorts is how many numbers from dynamic on pools may have.
const poolPorts = 24

var (
	policies = []key{{Namespace: red, Name: "p"}, {Namespace: red, Name: "q"}, {Namespace: red, Name: "r"}, {Namespace: blue, Name: "p"}, {Namespace: blue, Name: "q"}}
	teams    = []key{{Namespace: red, Name: "a"}, {Namespace: red, Name: "b"}, {Namespace: blue, Name: "c"}}
	wilds    = []key{{Namespace: wild, Name: "w1"}, {Namespace: wild, Name: "w2"}, {Namespace: wild, Name: "w3"}}
	pools    = []string{"one", "three", "two"}
	sets     = []string{"s1", "s2"}
)

// actions are the steps that a life is made of, all as likely as each other.
func (p *play) actions() map[string]func(*rapid.T) {
	out := map[string]func(*rapid.T){"": func(*rapid.T) { p.rest() }}
	for name, do := range map[string]func(){
		"expose": p.expose, "expose another": p.expose, "edit": p.edit, "pin or move": p.move, "withdraw": p.withdraw, "re-create": p.recreate,
		"service": p.service, "pool": p.pool, "pool options": p.poolOptions, "set": p.set, "squat": p.squat, "random port": p.random,
		"manager": p.restartManager, "agent": p.restartAgent, "lockdown": p.lockdown, "restore": p.restore,
		"burst": p.burst, "without manager": p.withoutManager, "without agent": p.withoutAgent,
	} {
		out[name] = func(*rapid.T) { do() }
	}
	return out
}

// change makes one random change of the API's objects.
func (p *play) change() {
	one(p, "change", []func(){p.expose, p.edit, p.move, p.withdraw, p.recreate, p.service, p.pool, p.poolOptions, p.set, p.squat, p.random})()
}

// one draws one of the list.
func one[T any](p *play, what string, list []T) T {
	return list[rapid.IntRange(0, len(list)-1).Draw(p.T, what)]
}

// chance is true in so many of a hundred cases.
func (p *play) chance(percent int, what string) bool {
	return rapid.IntRange(0, 99).Draw(p.T, what) >= 100-percent
}

// tell says what was done and what the API server said to it.
func (p *play) tell(err error, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if err != nil {
		text += ": refused: " + err.Error()
	}
	p.say("%s", text)
}

// put creates the object, or makes what take does of the one that is there.
func put[T client.Object](p *play, want T, take func(have T)) error {
	if err := p.create(want); client.IgnoreAlreadyExists(err) != nil || err == nil {
		return err
	}
	return edit(p, want, take)
}

func (p *play) create(o client.Object) error {
	err := town.Client.Create(p.ctx, o)
	if err == nil {
		p.wished(o)
	}
	return err
}

// edit changes an object as a person would, however often others write it meanwhile.
func edit[T client.Object](p *play, object T, take func(have T)) error {
	for {
		have := object.DeepCopyObject().(T)
		err := town.Client.Get(p.ctx, client.ObjectKeyFromObject(object), have)
		if err != nil {
			return err
		}
		take(have)
		if err = town.Client.Update(p.ctx, have); err == nil {
			p.wished(have)
		}
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}

func (p *play) delete(o client.Object) error {
	err := client.IgnoreNotFound(town.Client.Delete(p.ctx, o))
	if err == nil {
		p.unwished(o)
	}
	return err
}

// expose puts a policy in force.
func (p *play) expose() { p.put(p.drawPolicy(one(p, "policy", policies))) }

func (p *play) put(policy *v1alpha1.NodePortPolicy) {
	err := put(p, policy.DeepCopy(), func(have *v1alpha1.NodePortPolicy) { have.Spec = policy.Spec })
	p.tell(err, "policy %s", describe(policy))
}

// edit changes the sources of a policy that is there.
func (p *play) edit() {
	p.editPolicy(func(policy *v1alpha1.NodePortPolicy) { policy.Spec.Sources = p.drawSources(policy.Spec.Ports) })
}

// move changes one thing, which may cost the policy its number.
func (p *play) move() {
	fresh := p.drawPolicy(one(p, "policy", policies)).Spec
	how := rapid.IntRange(0, 5).Draw(p.T, "how")
	p.editPolicy(func(policy *v1alpha1.NodePortPolicy) {
		s := &policy.Spec
		switch how {
		case 0:
			for i := range s.Ports {
				s.Ports[i].NodePort = 0
			}
			if len(s.Ports) > 0 && p.chance(80, "pinned") {
				s.Ports[0].NodePort = p.drawNumber()
			}
		case 1:
			s.Category, s.PoolRef = fresh.Category, fresh.PoolRef
		case 2:
			s.Service = fresh.Service
		case 3:
			s.Mode = fresh.Mode
		case 4:
			s.ExpiresAt = p.drawEnd()
		default:
			s.Ports = fresh.Ports
			s.Sources = p.drawSources(s.Ports)
		}
	})
}

func (p *play) editPolicy(change func(*v1alpha1.NodePortPolicy)) {
	w := p.last()
	var there []key
	for _, k := range policies {
		if w.policies[k] != nil {
			there = append(there, k)
		}
	}
	if len(there) == 0 {
		p.expose()
		return
	}
	policy := w.policies[one(p, "policy", there)].DeepCopy()
	change(policy)
	p.put(&v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: policy.Namespace, Name: policy.Name}, Spec: policy.Spec})
}

func (p *play) withdraw() {
	k := one(p, "policy", policies)
	p.tell(p.delete(&v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name}}), "delete policy %v", k)
}

// recreate deletes a policy and makes another of its name at once.
func (p *play) recreate() {
	k := one(p, "policy", policies)
	again := p.drawPolicy(k)
	if was := p.last().policies[k]; was != nil && p.chance(60, "the same again") {
		again.Spec = *was.Spec.DeepCopy()
	}
	p.tell(p.delete(again.DeepCopy()), "delete policy %v", k)
	p.put(again)
}

func (p *play) drawNumber() int32 {
	return int32(dynamic + rapid.IntRange(0, poolPorts-1).Draw(p.T, "number"))
}

func (p *play) drawEnd() *metav1.Time {
	if !p.chance(70, "an end") {
		return nil
	}
	end := metav1.NewTime(time.Now().Add(time.Duration(rapid.IntRange(-1, 6).Draw(p.T, "ends in")) * time.Second).Truncate(time.Second))
	return &end
}

func (p *play) drawPolicy(k key) *v1alpha1.NodePortPolicy {
	policy := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name}}
	s := &policy.Spec
	services := slices.DeleteFunc(slices.Clone(teams), func(t key) bool { return t.Namespace != k.Namespace })
	s.ServiceRef.Name = one(p, "service", services).Name
	s.Ports = slices.Clone(one(p, "ports", [][]v1alpha1.PolicyPort{
		{{Name: "https"}}, {{Name: "https"}}, {{Name: "http"}}, {{Name: "https"}, {Name: "http"}}, {{Port: 443}}, {{Port: 80}},
	}))
	if p.chance(25, "pinned") {
		s.Ports[0].NodePort = p.drawNumber()
	}
	s.Category = one(p, "category", []string{"web", "web", "web", "db"})
	if p.chance(20, "by name") {
		s.Category, s.PoolRef = "", &v1alpha1.PoolReference{Name: v1alpha1.ObjectName(one(p, "pool", pools))}
	}
	s.Sources = p.drawSources(s.Ports)
	s.Mode, s.Service = v1alpha1.ModeEnforce, v1alpha1.ServiceCompanion
	if p.chance(10, "planned") {
		s.Mode = v1alpha1.ModePlan
	}
	if p.chance(30, "in place") {
		s.Service = v1alpha1.ServiceInPlace
	}
	if p.chance(10, "ends") {
		s.ExpiresAt = p.drawEnd()
	}
	return policy
}

var cidrs = []v1alpha1.CIDR{"203.0.113.0/28", "203.0.113.0/28", "198.51.100.0/28", "192.0.2.0/28", "192.0.2.16/28", "192.0.2.0/27"}

func (p *play) drawSources(ports []v1alpha1.PolicyPort) []v1alpha1.Source {
	if p.chance(12, "the pool's defaults") {
		return nil
	}
	sources := []v1alpha1.Source{}
	for range rapid.IntRange(0, 3).Draw(p.T, "sources") {
		var s v1alpha1.Source
		switch kind := rapid.IntRange(0, 9).Draw(p.T, "kind"); {
		case kind < 6:
			s.CIDR = one(p, "cidr", cidrs)
			if s.CIDR == "192.0.2.0/27" && p.chance(40, "less one half") {
				s.Except = []v1alpha1.CIDR{one(p, "half", []v1alpha1.CIDR{"192.0.2.0/28", "192.0.2.16/28"})}
			}
		case kind < 9:
			s.AddressSet = v1alpha1.ObjectName(one(p, "set", append([]string{"nowhere"}, sets...)))
		default:
			s.Entity = v1alpha1.EntityWorld
		}
		if len(ports) > 0 && ports[0].Name != "" && p.chance(20, "for one port") {
			s.Ports = []string{ports[0].Name}
		}
		sources = append(sources, s)
	}
	return sources
}

// service changes a team's Service behind its policies.
func (p *play) service() {
	k := one(p, "service", teams)
	object := teamService(k)
	how := rapid.IntRange(0, 5).Draw(p.T, "how")
	err := edit(p, object, func(s *corev1.Service) {
		for i := range s.Spec.Ports {
			port := &s.Spec.Ports[i]
			switch {
			case how == 1 && port.Port == 443:
				port.Port = 444
			case how == 1 && port.Port == 444:
				port.Port = 443
			case how == 2 && port.Name == "https":
				port.Name = "web"
			case how == 2 && port.Name == "web":
				port.Name = "https"
			}
		}
		if how == 3 && len(s.Spec.Ports) > 1 {
			s.Spec.Ports = slices.DeleteFunc(s.Spec.Ports, func(port corev1.ServicePort) bool { return port.Name == "http" })
		} else if how == 3 {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "http", Protocol: "TCP", Port: 80, TargetPort: intstr.FromInt32(lab.EchoPort)})
		}
	})
	switch {
	case err != nil || how == 5:
		p.tell(p.delete(object.DeepCopy()), "delete service %v", k)
		p.tell(p.create(object), "create service %v", k)
	case how == 4:
		p.tell(p.delete(object), "delete service %v", k)
	default:
		p.tell(err, "service %v: %s", k, []string{"nothing", "renumber https", "rename https", "add or remove http"}[how])
	}
}

func teamService(k key) *corev1.Service {
	return newService(k.Namespace, k.Name, corev1.ServicePort{Name: "https", Port: 443}, corev1.ServicePort{Name: "http", Port: 80})
}

// describe spells a policy in one line.
func describe(policy *v1alpha1.NodePortPolicy) string {
	s := policy.Spec
	var ports, sources []string
	for _, port := range s.Ports {
		text := port.Name
		if port.Port != 0 {
			text = fmt.Sprint(port.Port)
		}
		if port.NodePort != 0 {
			text += fmt.Sprintf("=%d", port.NodePort)
		}
		ports = append(ports, text)
	}
	for _, source := range s.Sources {
		sources = append(sources, strings.TrimSuffix(fmt.Sprintf("%s%v%s%s for %s", source.CIDR, source.Except, source.AddressSet, source.Entity, strings.Join(source.Ports, ",")), " for "))
	}
	text := fmt.Sprintf("%s/%s: service %s %v from %v (absent: %t)", policy.Namespace, policy.Name, s.ServiceRef.Name, ports, sources, s.Sources == nil)
	if s.PoolRef != nil {
		text += " pool " + string(s.PoolRef.Name)
	}
	text += " " + s.Category + " " + string(s.Mode) + " " + string(s.Service)
	if s.ExpiresAt != nil {
		text += " until " + s.ExpiresAt.Format("05")
	}
	return text
}
