// Package firewalls sets each datapath beside other programs that write rules, the
// real ones where they can be had, and holds both sides to what they owe each other:
//
//	somebody else acts ──► with owner: ours are untouched, at once
//	                       else: the fingerprint shows it, and one Sync repairs
//	                  ──► packets are judged as before
//	our Sync, Cleanup  ──► what others keep is byte-identical, and still works
//
// ufw and firewalld run in a network, mount and process namespace of their own, with
// their own /etc, /run and /var, and with modprobe out of reach. Nothing of the
// machine changes, and nothing is left when a test dies.
package firewalls

import (
	"flag"
	"os"
	"os/exec"
	"testing"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/datapath/iptables"
	"github.com/portreeve/portreeve/datapath/nftables"
)

// Most of a scene is waiting: for a silence, for Python. So more of them run at a time
// than there are processors, unless -parallel says otherwise.
func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// subject is a datapath, and the variant of iptables that the rest of the node uses.
type subject struct {
	name    string
	open    datapathtest.Open
	variant string
}

var subjects = []subject{
	{"nftables", openNFTables, "nft"},
	{"iptables-nft", openIPTables(iptables.NFT), "nft"},
	{"iptables-legacy", openIPTables(iptables.Legacy), "legacy"},
}

func openNFTables(t *testing.T) datapath.Datapath {
	d, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func openIPTables(mode iptables.Mode) datapathtest.Open {
	return func(t *testing.T) datapath.Datapath {
		d, err := iptables.New(mode)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

// beside runs a scene for each datapath. Without the programs it needs it is skipped,
// and the counts at the end of `make test` say so.
func beside(t *testing.T, scene func(t *testing.T, s subject), programs ...string) {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed, so nobody tried Portreeve beside it here: see hack/preflight", p)
		}
	}
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
		t.Skip("this kernel has no IPv6")
	}
	t.Parallel()
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			scene(t, s)
		})
	}
}
