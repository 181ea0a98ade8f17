package e2e

import (
	"testing"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func TestExactlyTheNamedSourcesAreAnsweredOnEveryNode(t *testing.T) {
	s := open(t, "expose", "30000-30009")
	policy := s.policy("shop", officeCIDR, officeCIDR6)
	s.create(policy)
	port := s.awaitReady(policy)

	s.answers(s.office, from(officeCIDR, 1), port)
	s.silent(s.street, from(streetCIDR, 1), port)
	s.silent(s.office, from(officeCIDR, 1), port+1)
	if town.IPv6() {
		s.answers(s.office, from(officeCIDR6, 1), port)
	}
	if policy.Status.Nodes == nil || policy.Status.Nodes.Enforced != v1alpha1.EnforcedAll {
		t.Errorf("status.nodes is %+v, want All", policy.Status.Nodes)
	}
}
