package e2e

import (
	"testing"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// The manager's own keys take on a role of which the trust policy asks an external id;
// with another one it is nobody there, and says so.
func TestAFirewallTakesOnARoleWithAnExternalID(t *testing.T) {
	s := openCloud(t, "assumed", "30820-30829")
	role := cloudtest.Role{ARN: "arn:aws:iam::123456789012:role/portreeve", ExternalID: "5f0c8a52-9d0e-4c39-8f0f-0c0a5d3c7a11"}
	account.AddRole(role)
	assume := func(externalID string) {
		s.firewall(func(f *v1alpha1.CloudFirewallSpec) {
			f.Credentials = &v1alpha1.CloudCredentials{AssumeRole: &v1alpha1.AssumeRole{ARN: role.ARN, ExternalID: externalID}}
		})
	}
	assume("somebody-elses")
	s.firewallSays(v1alpha1.ReasonDenied)
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonDenied)
	s.awaitRules()
	assume(role.ExternalID)
	s.firewallSays(v1alpha1.ReasonOK)
	s.awaitReady(policy)
	s.awaitRules("TCP 30820 " + officeCIDR)
	s.delete(policy)
	s.awaitRules()
}
