package nftables_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/datapath/iptables"
	"github.com/portreeve/portreeve/datapath/nftables"
	"github.com/portreeve/portreeve/internal/rule"
)

// Whoever flushes or edits the ruleset does not touch a table that is owned, and
// lists it like any other.
func TestNobodyElseChangesAnOwnedTable(t *testing.T) {
	w := datapathtest.NewWorld(t, open(nftables.New))
	if !w.Datapath.(*nftables.Datapath).Owned() {
		t.Skip("this kernel keeps no table for its owner")
	}
	port := strconv.Itoa(datapathtest.HostPort)
	want := datapathtest.Set(datapathtest.Pool, "tcp/"+port+" alice persecond=50 log=denied,accepted", "udp/"+port+" world expires=4000000000").
		WithAudited(datapathtest.Numbers("30060")).WithDenied(datapathtest.Prefixes("172.16.0.0/12"))
	w.Sync(want)
	for _, argv := range [][]string{
		{"nft", "flush", "ruleset"},
		{"nft", "flush", "chain", "inet", "portreeve", "judge"},
		{"nft", "delete", "table", "inet", "portreeve"},
		{"nft", "add", "element", "inet", "portreeve", "audited", "{ " + port + " }"},
	} {
		refused := w.Node.Do(func() error { return exec.Command(argv[0], argv[1:]...).Run() })
		if (refused == nil) != (argv[1] == "flush" && argv[2] == "ruleset") {
			t.Errorf("%s: %v", strings.Join(argv, " "), refused)
		}
		if have, err := w.Have(); err != nil || !have.Equal(want) {
			t.Errorf("after %s the kernel holds %+v, %v", strings.Join(argv, " "), have, err)
		}
		w.Expect("alice tcp/"+port+" answered", "mallory tcp/"+port+" dropped", "mallory udp/"+port+" answered")
	}
	listed := w.Node.Command(t, "", "nft", "list", "ruleset")
	for _, word := range []string{"table inet portreeve", "flags owner", "pool ports only", "10.8.0.1", "gate.class-", ".limits-0-50-"} {
		if !strings.Contains(listed, word) {
			t.Errorf("the listing lacks %q:\n%s", word, listed)
		}
	}
	w.Restart() // the table outlives its owner, and finds the next one
	if have, err := w.Have(); err != nil || !have.Equal(want) {
		t.Errorf("after a restart the kernel holds %+v, %v", have, err)
	}
	w.Sync(want)
	if w.Datapath.(*nftables.Datapath).Changes() != 1 {
		t.Errorf("taking the table over took %d changes, want 1", w.Datapath.(*nftables.Datapath).Changes())
	}
}

// A Sync that fails, and has to begin anew, leaves no moment in which the table is
// nobody's.
func TestAnErrorLeavesTheTableToItsOwner(t *testing.T) {
	w := datapathtest.NewWorld(t, open(nftables.New))
	d := w.Datapath.(*nftables.Datapath)
	if !d.Owned() {
		t.Skip("this kernel keeps no table for its owner")
	}
	want := datapathtest.Set(datapathtest.Pool, "tcp/30050 alice")
	w.Sync(want)
	socket := d.Socket()
	for range 3 {
		d.Misremember(rule.Port{Protocol: rule.TCP, Number: 30051})
		w.Sync(want)
		if d.Socket() != socket {
			t.Fatal("the owner's socket was closed")
		}
	}
	if have, err := w.Have(); err != nil || !have.Equal(want) {
		t.Errorf("the kernel holds %+v, %v", have, err)
	}
}

// What an agent leaves that ends between two steps of a change is replaced by the
// next one, also where the same port is to lead elsewhere now.
func TestAHalfChangedTableIsReplaced(t *testing.T) {
	w := datapathtest.NewWorld(t, open(nftables.New))
	port := strconv.Itoa(datapathtest.HostPort)
	w.Sync(datapathtest.Set(datapathtest.Pool, "tcp/"+port+" alice persecond=50 log=denied", "udp/"+port+" alice expires=4000000000"))
	w.Restart()
	w.Node.Command(t, "add chain inet portreeve gate.class-0123456789abcdef0123456789abcdef\nadd rule inet portreeve gate.class-0123456789abcdef0123456789abcdef accept", "nft", "-f", "-")
	if _, err := w.Have(); !errors.Is(err, datapath.ErrDamaged) {
		t.Fatalf("a chain that nobody asked for: %v", err)
	}
	want := datapathtest.Set(datapathtest.Pool, "tcp/"+port+" mallory", "udp/"+port+" mallory expires=4000000001 log=denied")
	w.Sync(want)
	if have, err := w.Have(); err != nil || !have.Equal(want) {
		t.Errorf("the kernel holds %+v, %v", have, err)
	}
	w.Expect("mallory tcp/"+port+" answered", "mallory udp/"+port+" answered", "alice tcp/"+port+" dropped")
	if tables := w.Node.Command(t, "", "nft", "list", "tables"); strings.Contains(tables, "portreeve-next") {
		t.Errorf("left behind:\n%s", tables)
	}
}

// A second agent on a node is told so, and changes nothing.
func TestTheTableOfALivingOwnerIsLeftAlone(t *testing.T) {
	w := datapathtest.NewWorld(t, open(nftables.New))
	want := datapathtest.Set(datapathtest.Pool, "tcp/30050 alice")
	w.Sync(want)
	if !w.Datapath.(*nftables.Datapath).Owned() {
		t.Skip("this kernel keeps no table for its owner")
	}
	err := w.Node.Do(func() error {
		second, err := nftables.New()
		if err != nil {
			return err
		}
		defer second.Close()
		for what, got := range map[string]error{
			"Sync":    second.Sync(t.Context(), datapathtest.Set(datapathtest.Pool)),
			"Cleanup": second.Cleanup(t.Context()),
		} {
			if got == nil || !strings.Contains(got.Error(), "belongs to another process") {
				t.Errorf("%s of a second owner: %v", what, got)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if have, err := w.Have(); err != nil || !have.Equal(want) {
		t.Errorf("the kernel holds %+v, %v", have, err)
	}
}

func TestHandoverBetweenDatapaths(t *testing.T) {
	for _, mode := range []iptables.Mode{iptables.NFT, iptables.Legacy} {
		t.Run(string(mode), func(t *testing.T) {
			datapathtest.Handover(t, open(nftables.New), func(t *testing.T) datapath.Datapath {
				d, err := iptables.New(mode)
				if err != nil {
					t.Fatal(err)
				}
				return d
			})
		})
	}
}

// The kernel holds on to the chain of a gate for a moment after its end. That is no
// reason to replace the table: limits would forget their counts.
func TestAnEndLeavesItsChainForAMoment(t *testing.T) {
	w := datapathtest.NewWorld(t, open(nftables.New))
	handle := func() string {
		listing := w.Node.Command(t, "", "nft", "-a", "list", "table", "inet", "portreeve")
		first, _, _ := strings.Cut(listing, "\n")
		return first
	}
	end := time.Now().Add(2 * time.Second).Unix()
	before := datapathtest.Set(datapathtest.Pool, fmt.Sprintf("tcp/30050 alice expires=%d log=denied", end), "tcp/30051 mallory")
	after := datapathtest.Set(datapathtest.Pool, "tcp/30051 mallory")
	w.Sync(before)
	was := handle()
	time.Sleep(time.Until(time.Unix(end, 0)))
	for range 3 {
		w.Sync(after)
		if have, err := w.Have(); err != nil || !have.Equal(after) {
			t.Fatalf("Have reads %+v, %v", have, err)
		}
		if now := handle(); now != was {
			t.Fatalf("the table was replaced: %s, and was %s", now, was)
		}
	}
	w.Sync(before) // ended all the same
	w.Sync(after)
	listing := ""
	for left := 20; left > 0; left-- { // the kernel looks once a second, or when it comes to it
		time.Sleep(time.Second)
		w.Sync(after)
		if listing = w.Node.Command(t, "", "nft", "list", "table", "inet", "portreeve"); !strings.Contains(listing, "log-denied") {
			break
		}
	}
	if strings.Contains(listing, "log-denied") || handle() != was {
		t.Errorf("twenty seconds later there is\n%s", listing)
	}
}
