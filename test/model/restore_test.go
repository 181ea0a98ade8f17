package model

import (
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// open sets the stage of a life: the teams' Services, two pools and the sets.
func (p *play) open() {
	p.look()
	for _, k := range teams {
		p.must(p.create(teamService(k)))
	}
	for i, name := range []string{"one", "two", "three"} {
		pool := newPool(name, v1alpha1.PortRange(fmt.Sprintf("%d-%d", dynamic+8*i, dynamic+8*i+3)))
		pool.Spec.Category = []string{"web", "web", "db"}[i]
		pool.Spec.AllocateTo.NamespaceSelector = &metav1.LabelSelector{}
		p.must(p.create(pool))
	}
	for i, name := range sets {
		set := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.AddressSetSpec{
			CIDRs: cidrs[1+i : 2+i], AllowedFor: &v1alpha1.NamespaceChoice{},
		}}
		p.must(p.create(set))
	}
}

// close removes all of a life. What only waits for the end of a long rest is taken
// out of the register by hand.
func (p *play) close() {
	p.say("everybody leaves")
	p.must(p.setLockdown(false))
	for _, k := range policies {
		p.must(p.delete(&v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name}}))
	}
	for _, k := range append(append([]key{}, teams...), wilds...) {
		p.must(p.delete(newService(k.Namespace, k.Name)))
	}
	p.rest()
	for n, a := range p.worlds[0].register {
		if a.Spec.State == v1alpha1.AllocationClosed && !p.worlds[0].mayBeFreed(a) || nobodys(a) {
			p.ledger.excuse(n)
			p.must(p.delete(a))
		}
	}
	p.eventually("the register is empty", func() error {
		w, err := look(p.ctx)
		if err == nil && len(w.register) != 1 {
			err = fmt.Errorf("it has %d entries", len(w.register))
		}
		return err
	})
	for _, name := range pools {
		p.must(p.delete(newPool(name)))
	}
	for _, name := range sets {
		p.must(p.delete(&v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	p.vanished = time.Now()
	p.rest()
}

// restore takes all objects of ours away and brings them back from a copy, in random
// order, with the manager running or not.
func (p *play) restore() {
	w := p.last()
	var backup []client.Object
	for _, k := range policies {
		if o := w.policies[k]; o != nil {
			backup = append(backup, o.DeepCopy())
		}
	}
	for _, name := range pools {
		if o := w.pool(name); o != nil {
			backup = append(backup, o.DeepCopy())
		}
	}
	for _, name := range sets {
		if o := w.sets[name]; o != nil {
			backup = append(backup, o.DeepCopy())
		}
	}
	for n := uint16(dynamic); n <= lastPort; n++ {
		if o := w.register[n]; o != nil {
			backup = append(backup, o.DeepCopy())
		}
	}
	running := p.chance(50, "with the manager running")
	if !running {
		town.Manager().Kill()
	}
	p.say("restore %d objects, with the manager running: %t", len(backup), running)
	for _, o := range p.shuffled(backup, "deleted") {
		if n, err := strconv.ParseUint(o.GetName(), 10, 16); err == nil {
			p.ledger.excuse(uint16(n))
			p.disowned(uint16(n), policyOf(o.(*v1alpha1.NodePortAllocation)))
		}
		p.tell(p.delete(o.DeepCopyObject().(client.Object)), "delete %s", nameOf(o))
	}
	for _, o := range p.shuffled(backup, "restored") {
		p.bringBack(o)
	}
	p.vanished = time.Now()
	if !running {
		p.startManager()
	}
	p.tell(nil, "all is restored")
}

func (p *play) shuffled(list []client.Object, what string) []client.Object {
	if len(list) < 2 {
		return list
	}
	return rapid.Permutation(list).Draw(p.T, what)
}

// bringBack creates an object as a restore does: without what the API server gave it,
// and, but for pools, without its status.
func (p *play) bringBack(o client.Object) {
	fresh := o.DeepCopyObject().(client.Object)
	fresh.SetResourceVersion("")
	fresh.SetUID("")
	fresh.SetCreationTimestamp(metav1.Time{})
	fresh.SetManagedFields(nil)
	if policy, is := fresh.(*v1alpha1.NodePortPolicy); is {
		policy.Status = v1alpha1.NodePortPolicyStatus{}
	}
	err := p.create(fresh)
	p.tell(err, "create %s", nameOf(o))
	if pool, is := o.(*v1alpha1.NodePortPool); is && err == nil && p.chance(50, "with its status") {
		restored := fresh.(*v1alpha1.NodePortPool)
		restored.Status = pool.Status
		p.tell(town.Client.Status().Update(p.ctx, restored), "status of pool %s", pool.Name)
	}
}

func nameOf(o client.Object) string {
	kind := "number"
	switch o.(type) {
	case *v1alpha1.NodePortPolicy:
		kind = "policy"
	case *v1alpha1.NodePortPool:
		kind = "pool"
	case *v1alpha1.AddressSet:
		kind = "set"
	}
	return kind + " " + client.ObjectKeyFromObject(o).String()
}
