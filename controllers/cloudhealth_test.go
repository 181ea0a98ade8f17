package controllers

import (
	"errors"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/test/health"
)

// However a look at the cloud ends, GitOps tools must call the firewall rightly.
func TestGitOpsToolsReadACloudFirewallRightly(t *testing.T) {
	for _, c := range []struct {
		err  error
		want health.Verdict
	}{
		{nil, health.InForce},
		{cloud.ErrInvalid, health.Stuck},
		{cloud.ErrUnsupported, health.Stuck},
		{cloud.ErrDenied, health.Stuck},
		{cloud.ErrQuota, health.Stuck},
		{cloud.ErrContended, health.Stuck},
		{cloud.ErrHidden, health.Stuck},
		{cloud.ErrDrifted, health.Stuck},
		{cloud.ErrCloned, health.Stuck},
		{cloud.ErrObserving, health.Paused},
		{cloud.ErrThrottled, health.Working},
		{cloud.ErrStale, health.Working},
		{errors.New("no route to host"), health.Working},
	} {
		t.Run(fmt.Sprint(c.err), func(t *testing.T) {
			f := firewallOf("aws", time.Hour, "sg-1")
			f.Generation = 3
			f.Status.ObservedGeneration = -1
			health.Check(t, &f, health.Working)
			f.Status.ObservedGeneration = f.Generation
			f.Status.Conditions = cloudConditions(c.err, f.Generation, metav1.Now())
			health.Check(t, &f, c.want)
		})
	}
}
