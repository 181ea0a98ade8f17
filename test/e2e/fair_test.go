package e2e

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// More claims than ports come at once: the oldest win, then the names decide; the
// others know how many are ahead, and the first of them gets what is freed.
func TestTheOldestClaimsWin(t *testing.T) {
	ports, claims := 12, 20
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		ports, claims = 500, 560
	}
	s := open(t, "fair", v1alpha1.PortRange(fmt.Sprintf("32100-%d", 32099+ports)))
	s.settle()
	town.Manager().Kill()
	var all []*v1alpha1.NodePortPolicy
	for i := range claims {
		policy := s.policy(fmt.Sprintf("claim-%03d", (i*7)%claims), officeCIDR) // not in the order of their names
		s.create(policy)
		all = append(all, policy)
	}
	if err := town.StartManager(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b *v1alpha1.NodePortPolicy) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	s.eventually("the oldest have a port and the others know their place", func() error {
		for i, policy := range all {
			if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
				return err
			}
			c := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.Allocated)
			switch {
			case c == nil, (c.Status == metav1.ConditionTrue) != (i < ports):
				return fmt.Errorf("claim %d of %d: %s", i, claims, describe(policy.Status.Conditions))
			case i >= ports && !strings.Contains(c.Message, fmt.Sprintf("; %d claims are ahead", i-ports)):
				return fmt.Errorf("claim %d: %s", i, c.Message)
			}
		}
		return nil
	})
	s.delete(all[3])
	if got := s.awaitReady(all[ports]); got != uint16(all[3].Status.Allocations[0].NodePort) {
		t.Errorf("the first that waited got %d, want the freed one", got)
	}
	s.awaitReason(all[ports+1], v1alpha1.Allocated, v1alpha1.ReasonExhausted)
}

// Two managers that both believe to lead: the name of an allocation is the lock.
func TestTwoManagersGiveNoPortTwice(t *testing.T) {
	s := open(t, "rivals", "31570-31589")
	rival, err := town.RunRival(s.ctx, "rival", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rival.Kill()
	var all []*v1alpha1.NodePortPolicy
	for i := range 15 {
		policy := s.policy(fmt.Sprintf("claim-%02d", i), officeCIDR)
		s.create(policy)
		all = append(all, policy)
	}
	for _, policy := range all {
		s.awaitReady(policy)
	}
	s.eventually("each policy has one number", func() error {
		var register v1alpha1.NodePortAllocationList
		if err := town.Client.List(s.ctx, &register); err != nil {
			return err
		}
		open := map[string][]string{}
		for _, a := range register.Items {
			if a.Spec.Pool == s.pool.Name && a.Spec.State == v1alpha1.AllocationOpen {
				open[a.Spec.Claim.Policy] = append(open[a.Spec.Claim.Policy], a.Name)
			}
		}
		for name, numbers := range open {
			if len(numbers) != 1 {
				return fmt.Errorf("policy %s has %v", name, numbers)
			}
		}
		return nil
	})
	holders := map[uint16]string{}
	for _, policy := range all { // one that got two may have told of the other before
		port := s.awaitReady(policy)
		if other := holders[port]; other != "" {
			t.Errorf("%d was given to %s and to %s", port, other, policy.Name)
		}
		holders[port] = policy.Name
	}
	for port := range holders {
		s.answers(s.office, from(officeCIDR, 1), port)
		s.silent(s.street, from(streetCIDR, 1), port)
		break
	}
}
