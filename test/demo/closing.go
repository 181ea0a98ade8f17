package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// revoke: a source leaves the policy while its connections are open.
func (p *play) revoke(ctx context.Context) error {
	p.say.act("A source is removed while its connections are open")
	doomed, err := p.hold(ctx, visit{p.office, office4, p.port})
	if err != nil {
		return err
	}
	defer doomed.close()
	if p.IPv6() {
		if p.kept, err = p.hold(ctx, visit{p.office, office6, p.port}); err != nil {
			return err
		}
	}
	p.say.note("The office holds connections through all three nodes and uses them every 2 ms.\n"+
		"The team removes %s from the policy. Times since that edit was sent:", office4Net)
	if err := doomed.alive(); err != nil {
		return err
	}
	began := time.Now()
	var policy v1alpha1.NodePortPolicy
	policy.Namespace, policy.Name = shop.Namespace, shop.Name
	edit := fmt.Sprintf(`[{"op":"test","path":"/spec/sources/0/cidr","value":%q},{"op":"remove","path":"/spec/sources/0"}]`, office4Net)
	if err := p.Client.Patch(ctx, &policy, client.RawPatch(types.JSONPatchType, []byte(edit))); err != nil {
		return err
	}
	err = p.admitsSoon(ctx, p.port, policy.Spec.Sources)
	revoked := time.Since(began)

	last, cutErr := doomed.cut(ctx)
	p.say.check(after(last, began), cutErr, "%-25s all three connections are cut: the time of the last answer", doomed)
	p.say.check(revoked, err, "the rule for %s is gone from both clouds", office4Net)
	again, err := p.policies.await(ctx, "Ready", func(e event[*v1alpha1.NodePortPolicy]) bool {
		return e.object.Generation >= policy.Generation && ready(e.object)
	})
	p.say.check(after(again.at, began), err, "status is Ready again, for generation %d: proved everywhere", policy.Generation)
	v := visit{p.office, office4, p.port}
	p.say.check(0, p.quiet(ctx, v), "%-25s a new connection is dropped by every node", v)
	if v := (visit{p.office, office6, p.port}); !p.skips(v) {
		p.say.check(0, p.kept.alive(), "%-25s not revoked: all three connections live on", v)
	}
	return nil
}

// remove: the policy is deleted; its port closes, rests and is free.
func (p *play) remove(ctx context.Context) error {
	p.say.act("The policy is deleted")
	var pool v1alpha1.NodePortPool
	if err := p.Client.Get(ctx, client.ObjectKey{Name: "web"}, &pool); err != nil {
		return err
	}
	p.say.note("Times since the deletion was sent:")
	began := time.Now()
	policy := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: shop.Namespace, Name: shop.Name}}
	if err := p.Client.Delete(ctx, policy); err != nil {
		return err
	}
	revokeErr := p.admitsSoon(ctx, p.port, nil)
	revoked := time.Since(began)
	closed, err := p.state(ctx, p.port, v1alpha1.AllocationClosed)
	if !p.say.check(after(closed.at, began), err, "the register says Closed") {
		return nil
	}
	// The API server refuses the number for as long as it rests.
	resting := p.grantable(ctx)
	p.checkKept(ctx, began)
	p.say.check(revoked, revokeErr, "neither cloud has a rule of ours left")
	p.say.check(0, p.inEach((*account).untouched), "the %d rules of others are untouched", p.foreignRules())
	if !apierrors.IsInvalid(resting) {
		p.say.check(0, miss{"refused: the provided port is already allocated", fmt.Sprint(resting)}, "port %d rests", p.port)
	} else {
		p.say.check(0, nil, "port %d rests: the API server gives it to no other Service", p.port)
	}
	p.checkFree(ctx, began, closed.object, pool.Spec.CoolDown.Duration)
	return nil
}

// checkKept wants the last connections to be cut and new ones to be dropped.
func (p *play) checkKept(ctx context.Context, began time.Time) {
	v := visit{p.office, office6, p.port}
	if !p.skips(v) {
		last, err := p.kept.cut(ctx)
		p.say.check(after(last, began), err, "%-25s all three connections are cut: the time of the last answer", v)
		p.say.check(0, p.quiet(ctx, v), "%-25s a new connection is dropped by every node", v)
	}
	v.from = office4
	p.say.check(0, p.quiet(ctx, v), "%-25s dropped as well", v)
}

// checkFree waits until the number may be given out again, which must not be
// before its cool-down has passed.
func (p *play) checkFree(ctx context.Context, began time.Time, closed *v1alpha1.NodePortAllocation, coolDown time.Duration) {
	gone, err := p.register.await(ctx, "the register to forget the port", func(e event[*v1alpha1.NodePortAllocation]) bool {
		return e.deleted && e.object.Name == strconv.Itoa(int(p.port))
	})
	if rested := gone.at.Sub(closed.Spec.ClosedAt.Time); err == nil && rested < coolDown {
		err = miss{"a rest of " + coolDown.String(), rested.String()}
	}
	p.say.check(after(gone.at, began), err, "port %d has rested for its %s and left the register", p.port, coolDown)
	err = until(ctx, p.grantable)
	p.say.check(time.Since(began), err, "port %d is free: the API server would give it to another Service", p.port)
	var service corev1.Service
	if err = p.Client.Get(ctx, shop, &service); err == nil && service.ResourceVersion != p.service {
		err = miss{"resource version " + p.service, service.ResourceVersion}
	}
	p.say.check(0, err, "the team's own Service was never written to (resource version %s throughout)", p.service)
}

// grantable asks the API server, without any effect, for another Service on the
// port.
func (p *play) grantable(ctx context.Context) error {
	rival := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "rival"},
		Spec: corev1.ServiceSpec{
			Type:  corev1.ServiceTypeNodePort,
			Ports: []corev1.ServicePort{{Port: 443, NodePort: int32(p.port)}},
		},
	}
	return p.Client.Create(ctx, rival, client.DryRunAll)
}

// state waits for a port's state in the register.
func (p *play) state(ctx context.Context, port uint16, want v1alpha1.AllocationState) (event[*v1alpha1.NodePortAllocation], error) {
	return p.register.await(ctx, fmt.Sprintf("port %d %s", port, want), func(e event[*v1alpha1.NodePortAllocation]) bool {
		return e.object.Name == strconv.Itoa(int(port)) && e.object.Spec.State == want
	})
}

// after is how long after began something happened, and never nothing: a
// connection that ends at once has had its last answer just before.
func after(at, began time.Time) time.Duration { return max(at.Sub(began), 100*time.Microsecond) }
