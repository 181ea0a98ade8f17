package crash

import (
	"context"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/lab"
)

// lease is the leader's.
var lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "portreeve-system", Name: "portreeve-manager"}}

// A keeper runs one manager behind a trap, and starts the next when it was killed.
type keeper struct {
	ctx     context.Context
	access  *rest.Config
	manager *lab.Process
	// failed is set when the next manager could not be started. It is written with
	// the trap held, and read when nothing is under way.
	failed error
}

// keep starts a manager behind the trap, which ends with the test.
func keep(ctx context.Context, t *testing.T, trap *trap) *keeper {
	t.Helper()
	access, closeProxy, err := trap.access(ctx)
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{ctx: ctx, access: access}
	trap.crash = func() {
		k.manager.Kill()
		k.failed = k.start()
	}
	if err := k.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.manager.Kill()
		closeProxy()
	})
	return k
}

// start starts a manager. The lease of the dead one would only be waited for;
// TestASecondManagerTakesOver does wait. Since nobody does here, it may be long
// enough not to run out on a machine under load.
func (k *keeper) start() error {
	if err := town.Client.Delete(k.ctx, lease.DeepCopy()); client.IgnoreNotFound(err) != nil {
		return err
	}
	next, err := runManager(k.ctx, "manager", k.access, "--lease-duration", "15s")
	if err == nil {
		k.manager = next
	}
	return err
}

// runManager runs a manager that listens nowhere, so that several fit beside each
// other.
func runManager(ctx context.Context, name string, access *rest.Config, flags ...string) (*lab.Process, error) {
	return town.RunManager(ctx, name, access, append(flags, "--metrics-bind-address", "0", "--health-probe-bind-address", "0")...)
}
