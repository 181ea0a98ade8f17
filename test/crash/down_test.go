package crash

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// TestAPolicyDeletedWhileTheManagerIsDown lets another team reach for the number
// of a policy that was deleted while nobody could close it: not before every node
// has closed it does the number come free, so the old sources never reach what
// the other team puts there. Nor does anybody else, for it is a pool's number.
func TestAPolicyDeletedWhileTheManagerIsDown(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	k := keep(ctx, t, way)
	p := open(ctx, t, k, ground{"down", 31000, 3})
	p.create(newPool(p.pool, p.first, p.size, 0))
	p.ledger.rests(0)
	p.create(p.policy(shopPort, office))
	served := wish{stood: true, served: map[claimant][]string{shopPort: {office}}}
	p.beat.allow(served.routes())
	p.rest("the policy is served", served)
	number := p.numbers[shopPort]

	k.manager.Kill()
	p.delete(p.policy(shopPort))
	p.delete(newService(shop, shop, 0))
	defer p.create(newService(shop, shop, 0))
	grab := newService(vault, "grab", number)
	if err := town.Client.Create(ctx, grab.DeepCopy()); !apierrors.IsInvalid(err) {
		t.Fatalf("another team's Service on port %d, which nobody has closed yet: %v, want it refused", number, err)
	}
	if err := k.start(); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the pool leaves its free numbers to whoever comes", func() error {
		var pool v1alpha1.NodePortPool
		if err := town.Client.Get(ctx, client.ObjectKey{Name: p.pool}, &pool); err != nil {
			return err
		}
		pool.Spec.Hold = ptr.To(false)
		return town.Client.Update(ctx, &pool)
	})
	eventually(ctx, t, "the number comes free", func() error { return town.Client.Create(ctx, grab) })

	eventually(ctx, t, "the register knows the intruder", func() error {
		s, err := p.look(ctx)
		if a := s.register[number]; err == nil && (a == nil || a.Spec.State != v1alpha1.AllocationForeign || a.Spec.Grandfathered || a.Spec.Claim.Service != grab.Name) {
			err = fmt.Errorf("the register says %v", a)
		}
		return err
	})
	for _, node := range town.Nodes() {
		eventually(ctx, t, "kube-proxy serves the intruder on "+node.Name, func() error {
			// A node's traffic to itself is not judged.
			a := node.Ask(ctx, lab.Flow{To: netip.AddrPortFrom(node.Addrs[0], number)})
			if a.Pod != vault {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
	}
	p.beat.allow(wish{stood: true}.routes())
	eventually(ctx, t, "who is wanted is answered", func() error {
		again, wrong := p.inKernel(ctx, wish{stood: true}, nil)
		if wrong != nil {
			t.Fatal(wrong)
		}
		return again
	})
	p.breaches()
	p.delete(grab)
	p.delete(newService(squatter, p.pool, 0))
	delete(p.numbers, shopPort)
	p.rest("everybody leaves", wish{})
}
