package model

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// lost are the numbers that the API server gives to nobody although no Service has them.
// It loses a number when it gives it by an update that another write overtakes, as when
// a Service is deleted meanwhile: it takes the number before it writes, and does not give
// it back. Only its repair finds the number again, after ten minutes or so; until then
// neither a hold nor a companion can have it.
var lost = map[uint16]bool{}

// refusedSince is since when the API server refuses a number that nobody has.
var refusedSince = map[uint16]time.Time{}

// lostAfter is long after a number that a Service gave up can be had again.
const lostAfter = 3 * time.Second

// findLost asks for the numbers that ought to be held, and for those that the manager
// was refused.
func (w *world) findLost(ctx context.Context) error {
	for n := uint16(dynamic); n <= lastPort; n++ {
		pool, a := w.owner(n), w.register[n]
		asked := a == nil && pool != nil && *pool.Spec.Hold || a != nil && nobodys(a)
		if lost[n] || !asked || w.anyHolder(n) != nil {
			delete(refusedSince, n)
			continue
		}
		try := newService(wild, "try", corev1.ServicePort{Port: 443, NodePort: int32(n)})
		try.Spec.Type = corev1.ServiceTypeNodePort
		err := town.Client.Create(ctx, try, client.DryRunAll)
		since, known := refusedSince[n]
		switch {
		case err == nil:
			delete(refusedSince, n)
		case !apierrors.IsInvalid(err):
			return err
		case !known:
			refusedSince[n] = w.at
		default:
			lost[n] = w.at.Sub(since) > lostAfter
		}
	}
	return nil
}

// nobodys says whether the register has the number as somebody's whom no Service shows:
// the API server has refused it.
func nobodys(a *v1alpha1.NodePortAllocation) bool {
	return a.Spec.State == v1alpha1.AllocationForeign && a.Spec.Claim.Service == ""
}
