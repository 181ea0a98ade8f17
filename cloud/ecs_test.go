package cloud_test

import (
	"errors"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// ecs is a simulated account of Alibaba Cloud with groups sg-1 and sg-2, whose provider
// writes rules of priority 50.
func ecs(o cloudtest.ECSOptions) *cloudtest.ECS {
	o.Priority = 50
	account := cloudtest.NewECS(o)
	account.AddGroup("sg-1")
	account.AddGroup("sg-2")
	return account
}

func TestNothingIsProvedWhileADropMayStandInAGroupThatWasNotRead(t *testing.T) {
	account := ecs(cloudtest.ECSOptions{})
	account.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	atom := cloudtest.Grant("TCP 30080 10.8.0.0/16").Rule
	want := wanted([]string{"sg-1", "sg-gone"}, "TCP 30080 10.8.0.0/16")
	report, err := cloud.Sync(t.Context(), account.Provider(), want)
	if !errors.Is(err, cloud.ErrInvalid) || report.Covers(atom) {
		t.Errorf("while sg-gone is not read: %v, covers: %v", err, report.Covers(atom))
	}
	account.AddGroup("sg-gone")
	if report, err = cloud.Sync(t.Context(), account.Provider(), want); err != nil || !report.Covers(atom) {
		t.Errorf("once it is: %v, covers: %v", err, report.Covers(atom))
	}
}

func TestNothingIsProvedThatADropHidesWantedOrNot(t *testing.T) {
	account := ecs(cloudtest.ECSOptions{})
	account.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	drop := cloudtest.Foreign("TCP 30080 10.8.9.0/24")
	drop.Drop, drop.Priority = true, 50
	account.Seed("sg-2", drop)
	want := wanted(both)
	want.Observe = true
	report, err := cloud.Sync(t.Context(), account.Provider(), want)
	if !errors.Is(err, cloud.ErrObserving) || report.Covers(cloudtest.Grant("TCP 30080 10.8.0.0/16").Rule) || !report.Covers(cloudtest.Grant("TCP 30080 10.8.8.0/24").Rule) {
		t.Errorf("%v: %+v", err, report)
	}
}
