package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseName is the Lease that the leading manager holds.
const leaseName = "portreeve-manager"

// election is this manager's part in the leader election. It is kept by hand,
// not by name, so that the lease can be asked for before a cloud is changed: a
// manager that was paused for longer than its lease must not write on waking.
type election struct {
	// lock is the elector's. A lock remembers what it read last, so the check has
	// one of its own.
	lock, reader resourcelock.Interface
}

func newElection(config *rest.Config, o options) (*election, error) {
	if !o.elect {
		return &election{}, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	identity := resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())}
	var e election
	for _, lock := range []*resourcelock.Interface{&e.lock, &e.reader} {
		*lock, err = resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, o.namespace, leaseName, identity, config, o.lease*2/3)
		if err != nil {
			return nil, err
		}
	}
	return &e, nil
}

var errNotLeading = errors.New("this manager does not hold the lease")

// check reads the Lease and says whether it is ours and not run out.
func (e *election) check(ctx context.Context) error {
	if e.reader == nil {
		return nil
	}
	record, _, err := e.reader.Get(ctx)
	if err != nil {
		return fmt.Errorf("read the lease: %w", err)
	}
	expires := record.RenewTime.Add(time.Duration(record.LeaseDurationSeconds) * time.Second)
	if record.HolderIdentity != e.reader.Identity() || time.Now().After(expires) {
		return fmt.Errorf("%w: %s has it until %s", errNotLeading, record.HolderIdentity, expires.Format(time.RFC3339))
	}
	return nil
}
