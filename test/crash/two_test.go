package crash

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/lab"
)

// tenure is how long a silent leader stays one. A leader that the machine keeps from
// renewing for two thirds of it ends by itself, which is not what is tried here.
const tenure = "9s"

// member is one of several managers, behind a trap of its own.
type member struct {
	*trap
	*lab.Process
}

// pair starts a leader and, when it leads, a second manager that stands by.
func pair(ctx context.Context, t *testing.T) (leader, heir *member) {
	t.Helper()
	if err := town.Client.Delete(ctx, lease.DeepCopy()); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	leader = join(ctx, t, "manager-1")
	eventually(ctx, t, "the first manager leads", func() error {
		var l coordinationv1.Lease
		err := town.Client.Get(ctx, client.ObjectKeyFromObject(lease), &l)
		if err == nil && (l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "") {
			err = errors.New("nobody holds the lease")
		}
		return err
	})
	heir = join(ctx, t, "manager-2")
	eventually(ctx, t, "the second manager stands by", func() error {
		if !strings.Contains(heir.Tail(100), "Attempting to acquire leader lease") {
			return errors.New(heir.Tail(3))
		}
		return nil
	})
	return leader, heir
}

func join(ctx context.Context, t *testing.T, name string) *member {
	t.Helper()
	m := &member{trap: &trap{}}
	access, closeProxy, err := m.access(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if m.Process, err = runManager(ctx, name, access, "--lease-duration", tenure); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Kill()
		closeProxy()
	})
	return m
}

// crowd is eight policies of two teams.
func crowd() wish {
	w := wish{stood: true, served: map[claimant][]string{}}
	for i := range 4 {
		w.served[claimant{shop, fmt.Sprintf("web-%d", i)}] = []string{office}
		w.served[claimant{vault, fmt.Sprintf("web-%d", i)}] = []string{partner}
	}
	return w
}

func TestASecondManagerTakesOver(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	leader, heir := pair(ctx, t)
	p := open(ctx, t, &keeper{ctx: ctx, manager: heir.Process}, ground{"heir", 31100, 10})
	p.ledger.rests(0)
	p.create(newPool(p.pool, p.first, p.size, 0))
	p.rest("the pool is armed", wish{stood: true})

	var meddled []string
	leader.crash = func() {
		leader.Kill()
		meddled = heir.passed()
	}
	leader.set(9, after)
	want := crowd()
	p.beat.allow(want.routes())
	for c, sources := range want.served {
		p.create(p.policy(c, sources...))
	}
	p.rest("all are served", want)
	if leader.disarm() == "" {
		t.Errorf("the leader was done before it was killed, with %v", leader.passed())
	}
	if len(meddled) > 0 {
		t.Errorf("the second manager wrote while the first led: %v", meddled)
	}
	if len(heir.passed()) == 0 {
		t.Error("the second manager wrote nothing")
	}
	p.rests(0)
	for c := range want.served {
		p.delete(p.policy(c))
		delete(p.numbers, c)
	}
	p.delete(newService(squatter, p.pool, 0))
	p.rest("everybody leaves", wish{})
}

// TestAPausedLeaderWakesUpToAnother pauses the leader in the middle of claiming a
// number, for a policy that is served by the heir, deleted and forgotten before
// the claim arrives. Nothing of it may stay, and the former leader must go.
func TestAPausedLeaderWakesUpToAnother(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	leader, heir := pair(ctx, t)
	p := open(ctx, t, &keeper{ctx: ctx, manager: heir.Process}, ground{"paused", 31200, 3})
	p.ledger.rests(0)
	p.create(newPool(p.pool, p.first, p.size, 0))
	p.rest("the pool is armed", wish{stood: true})

	wake := make(chan struct{})
	leader.crash = func() {
		leader.Signal(syscall.SIGSTOP)
		<-wake
	}
	defer leader.Signal(syscall.SIGCONT)
	want := wish{stood: true, served: map[claimant][]string{shopPort: {office}}}
	p.beat.allow(want.routes())
	leader.setFor("POST nodeportallocations", late)
	p.create(p.policy(shopPort, office))
	p.rest("the heir serves", want)
	p.delete(p.policy(shopPort))
	p.rest("the heir forgets", wish{stood: true})

	close(wake)
	if leader.disarm() == "" { // it waits until the write has arrived
		t.Error("the leader claimed nothing")
	}
	p.rest("nothing of the late claim stays", wish{stood: true})
	leader.Signal(syscall.SIGCONT)
	select {
	case <-leader.Done():
	case <-time.After(within):
		t.Error("the former leader goes on, although another leads")
	}
	p.rest("nothing of the former leader stays", wish{stood: true})
	p.delete(newService(squatter, p.pool, 0))
	p.rest("everybody leaves", wish{})
}
