package e2e

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// fresh is an object as a backup holds it: without what a cluster adds, and without
// its status.
func fresh[T client.Object](o T) T {
	o = o.DeepCopyObject().(T)
	o.SetResourceVersion("")
	o.SetUID("")
	o.SetCreationTimestamp(metav1.Time{})
	o.SetGeneration(0)
	o.SetManagedFields(nil)
	o.SetOwnerReferences(nil)
	switch o := any(o).(type) {
	case *v1alpha1.NodePortPolicy:
		o.Status = v1alpha1.NodePortPolicyStatus{}
	case *v1alpha1.NodePortPool:
		o.Status = v1alpha1.NodePortPoolStatus{}
	}
	return o
}

// Whatever the order in which a backup comes back, policies have their ports again.
func TestPortsComeBackFromABackup(t *testing.T) {
	for i, c := range []struct {
		name  string
		order []string
	}{
		{"allocations first", []string{"allocations", "pool", "policies"}},
		{"allocations last", []string{"pool", "policies", "allocations"}},
		{"pool last", []string{"policies", "allocations", "pool"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := 31500 + 10*i
			s := open(t, fmt.Sprintf("restore-%d", i), v1alpha1.PortRange(fmt.Sprintf("%d-%d", first, first+9)))
			before, backup := s.twoPolicies()
			s.loseEverything(backup)
			for _, kind := range c.order {
				for _, o := range backup[kind] {
					s.create(fresh(o))
				}
			}
			s.haveAgain(before)
		})
	}
}

// The register is lost while everything else runs on.
func TestTheRegisterIsRebuiltFromWhatRuns(t *testing.T) {
	s := open(t, "rebuilt", "31540-31549")
	before, backup := s.twoPolicies()
	for _, a := range backup["allocations"] {
		s.delete(a)
	}
	s.haveAgain(before)
}

// twoPolicies returns the numbers of two policies, and a backup of all that is theirs. The
// two lowest of the pool are others: who is given a number before the backup has come back
// whole must not get one that is on its way.
func (s *scene) twoPolicies() (numbers map[string]uint16, backup map[string][]client.Object) {
	s.Helper()
	gone := []*v1alpha1.NodePortPolicy{s.policy("gone", officeCIDR), s.policy("also-gone", officeCIDR)}
	for _, policy := range gone {
		s.create(policy)
		s.awaitReady(policy)
	}
	numbers, backup = map[string]uint16{}, map[string][]client.Object{}
	for _, name := range []string{"first", "second"} {
		policy := s.policy(name, officeCIDR)
		s.create(policy)
		numbers[name] = s.awaitReady(policy)
		backup["policies"] = append(backup["policies"], policy)
		backup["allocations"] = append(backup["allocations"], s.allocation(numbers[name]))
	}
	slices.Reverse(backup["policies"]) // not in the order in which they were made
	for _, policy := range gone {
		s.delete(policy)
	}
	for _, policy := range gone {
		s.awaitFree(uint16(policy.Status.Allocations[0].NodePort))
	}
	if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), s.pool); err != nil {
		s.Fatal(err)
	}
	backup["pool"] = []client.Object{s.pool}
	return numbers, backup
}

// loseEverything deletes it, allocations by hand.
func (s *scene) loseEverything(backup map[string][]client.Object) {
	s.Helper()
	for _, kind := range []string{"policies", "pool", "allocations"} {
		for _, o := range backup[kind] {
			s.delete(o)
		}
	}
	s.eventually("nothing is left", func() error {
		var list v1alpha1.NodePortAllocationList
		if err := town.Client.List(s.ctx, &list); err != nil {
			return err
		}
		for i := range list.Items {
			if a := &list.Items[i]; a.Spec.Pool == s.pool.Name {
				_ = town.Client.Delete(s.ctx, a)
				return fmt.Errorf("%s is there", a.Name)
			}
		}
		return nil
	})
}

func (s *scene) haveAgain(numbers map[string]uint16) {
	s.Helper()
	for name, number := range numbers {
		policy := s.policy(name)
		s.eventually(fmt.Sprintf("policy %s has %d again", name, number), func() error {
			if err := s.ready(policy, func() []metav1.Condition { return policy.Status.Conditions }); err != nil {
				return err
			}
			if len(policy.Status.Allocations) != 1 || policy.Status.Allocations[0].NodePort != int32(number) {
				return fmt.Errorf("it has %v", policy.Status.Allocations)
			}
			return nil
		})
		s.answers(s.office, from(officeCIDR, 1), number)
		s.silent(s.street, from(streetCIDR, 1), number)
	}
}
