// Package arrival is how traffic arrives, seen from outside, with kube-proxy in both of
// its modes: which nodes answer and which refuse, whose address a pod sees, how clients
// are spread over pods and led back to theirs, and what of it fails while nodes die and
// return, endpoints come and go, policies switch and gateways move.
//
//	exposure ─► its place in the covering array: gateways, externalTrafficPolicy,
//	            affinity, family, protocol, companion or in place
//	         ─► what each node is to do with it (expect_test.go, in one place)
//	         ─► real packets from outside, all exposures at once
//
//	actor ───► windows: what was taken away, since when, until when, of whom ┐
//	clients ─► failures: who asked whom, from when to when                   ┴► judge
//
// Three nodes: the first has two pods, the second one, the third none.
package arrival

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// bin is the folder of the programs.
var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrllog.SetLogger(logr.Discard()) // the programs log for themselves
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	bin, err = stage.Build(ctx)
	defer func() { _ = os.RemoveAll(bin) }()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// soak is full scale: every combination instead of every pair, each firewall beside each
// mode of kube-proxy, and five minutes of change.
func soak() bool { return os.Getenv("PORTREEVE_SCALE") == "soak" }

func TestArrivalWithKubeProxyNFTables(t *testing.T) {
	w := raise(t, lab.NFTables)
	t.Run("each", func(t *testing.T) { w.each(t, v1alpha1.FirewallNFTables) })
	t.Run("change", w.change)
	if soak() {
		t.Run("each beside iptables", func(t *testing.T) { w.each(t, v1alpha1.FirewallIPTables) })
	}
}

func TestArrivalWithKubeProxyIPTables(t *testing.T) {
	w := raise(t, lab.IPTables)
	t.Run("each", func(t *testing.T) { w.each(t, v1alpha1.FirewallIPTables) })
	if soak() {
		t.Run("each beside nftables", func(t *testing.T) { w.each(t, v1alpha1.FirewallNFTables) })
	}
}
