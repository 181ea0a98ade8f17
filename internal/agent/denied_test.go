package agent

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// denying is an installation that denies AddressSets.
func denying(sets ...v1alpha1.ObjectName) v1alpha1.Portreeve {
	p := installation(false)
	p.Spec.DenyAddressSets = sets
	return p
}

// openToEntity is an open port that admits an entity.
func openToEntity(number uint16, e v1alpha1.Entity) v1alpha1.NodePortAllocation {
	a := openTo(number)
	a.Spec.Ports[0].Entities = []v1alpha1.Entity{e}
	return a
}

func nodeSet(cidrs ...v1alpha1.CIDR) v1alpha1.AddressSet {
	s := set("portreeve-nodes-0", cidrs...)
	s.Labels = map[string]string{v1alpha1.LabelEntity: string(v1alpha1.EntityNodes)}
	return s
}

// openToList is an open port that admits a prefix list, and listSet a set of its entries.
func openToList(number uint16, id v1alpha1.PrefixListID) v1alpha1.NodePortAllocation {
	a := openTo(number)
	a.Spec.Ports[0].PrefixLists = []v1alpha1.PrefixListID{id}
	return a
}

func listSet(id v1alpha1.PrefixListID) v1alpha1.AddressSet {
	return compile.List{Firewall: "aws-prod", ID: id}.Sets(nil, nil)[0]
}

func clusterOf(cidrs ...v1alpha1.CIDR) v1alpha1.Portreeve {
	p := installation(false)
	p.Spec.ClusterCIDRs = cidrs
	return p
}

func TestGuardOfWhatDeniesAndOfEntities(t *testing.T) {
	a, nodes := poolNamed("a"), []string{"30080", "a", "portreeve-nodes-0"}
	for _, test := range []struct {
		name       string
		kept, read inputs
		use        []string
		stayed     int
		vanished   []kind
		again      time.Duration
	}{
		{"a denied set that is gone stays", of(a, set("s"), set("t"), denying("s")), of(a, set("t"), denying("s")), []string{"a", "cluster", "s", "t"}, 1, nil, 0},
		{"also the last one", of(a, set("s"), denying("s")), of(a, denying("s")), []string{"a", "cluster", "s"}, 1, nil, 0},
		{"until nobody denies it", of(a, set("s"), denying("s")), of(a, denying("t")), []string{"a", "cluster"}, 0, nil, 0},
		{"or until it is there again", of(a, set("s"), denying("s")), of(a, set("s"), denying("s")), []string{"a", "cluster", "s"}, 0, nil, 0},
		{"who denies may not go", of(a, denying("s")), of(a), []string{"a", "cluster"}, 0, []kind{kindInstallation}, 0},
		{"nor with the set", of(a, set("s"), denying("s")), of(a), []string{"a", "cluster", "s"}, 1, []kind{kindInstallation}, 0},
		{"a set that is denied and in use", of(a, openTo(30080, "s"), set("s"), denying("s")), of(a, openTo(30080, "s"), denying("s")), []string{"30080", "a", "cluster", "s"}, 1, nil, 0},
		{"addresses of nodes that are in use", of(a, openToEntity(30080, "Nodes"), nodeSet(), set("t")), of(a, openToEntity(30080, "Nodes"), set("t")), append(slices.Clone(nodes), "t"), 0, nil, 2 * time.Second},
		{"the last of them", of(a, openToEntity(30080, "Cluster"), nodeSet()), of(a, openToEntity(30080, "Cluster")), nodes, 0, []kind{kindAddressSets}, 0},
		{"addresses of nodes that nobody uses", of(a, open(30080), nodeSet()), of(a, open(30080)), []string{"30080", "a"}, 0, nil, 0},
		{"entries of a prefix list that are in use", of(a, openToList(30080, "pl-1"), listSet("pl-1"), set("t")), of(a, openToList(30080, "pl-1"), set("t")), []string{"30080", "a", listSet("pl-1").Name, "t"}, 0, nil, 2 * time.Second},
		{"the last entries", of(a, openToList(30080, "pl-1"), listSet("pl-1")), of(a, openToList(30080, "pl-1")), []string{"30080", "a", listSet("pl-1").Name}, 0, []kind{kindAddressSets}, 0},
		{"those of another list", of(a, openToList(30080, "pl-2"), listSet("pl-1")), of(a, openToList(30080, "pl-2")), []string{"30080", "a"}, 0, nil, 0},
		{"the cluster that is in use", of(a, openToEntity(30080, "Cluster"), clusterOf("10.0.0.0/8")), of(a, openToEntity(30080, "Cluster")), []string{"30080", "a", "cluster"}, 0, []kind{kindInstallation}, 0},
		{"the cluster that is used no more", of(a, openToEntity(30080, "Cluster"), clusterOf("10.0.0.0/8")), of(a, openToEntity(30080, "Nodes")), []string{"30080", "a"}, 0, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, j := guard{}.judge(test.kept, test.read, time.Unix(1e9, 0))
			if got := spelled(j.use); !slices.Equal(got, test.use) || len(j.stayed) != test.stayed || !slices.Equal(j.vanished, test.vanished) || j.again != test.again {
				t.Errorf("enforces %v, %d stayed, vanished %v, again in %s; want %v, %d, %v, %s", got, len(j.stayed), j.vanished, j.again, test.use, test.stayed, test.vanished, test.again)
			}
		})
	}
}

func TestWhomTheKernelDeniedIsNotLetInByAnEmptyList(t *testing.T) {
	judged := rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30099})
	closedPool := rule.NewSet(judged, nil)
	denies := closedPool.WithDenied([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")})
	web := pool("30000-30099")
	for _, test := range []struct {
		name     string
		want     rule.Set
		read     inputs
		vanished []kind
	}{
		{"the installation is gone", closedPool, of(web), []kind{kindInstallation}},
		{"it denies nobody any more", closedPool, of(web, denying()), nil},
		{"its sets are gone", closedPool, of(web, denying("s")), []kind{kindAddressSets}},
		{"its set holds others now", closedPool, of(web, denying("s"), set("s")), nil},
		{"the same are denied", denies, of(web, denying("s"), set("s")), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := vanishedSince(denies, test.want, test.read); !slices.Equal(got, test.vanished) {
				t.Errorf("vanished %v, want %v", got, test.vanished)
			}
		})
	}
}

func TestDeniedSetsCutAndStay(t *testing.T) {
	inLab(t, func(l *lab) {
		l.sets.put(set("bad", "203.0.113.0/28"))
		l.start()
		l.wantAdmits(30080, "203.0.113.7", true)
		l.kernel.take()

		l.installation.put(denying("bad"))
		l.pass(roundPause)
		l.wantAdmits(30080, "203.0.113.7", false)
		l.wantAdmits(30080, "203.0.113.77", true)
		l.wantCalls("sync", "sweep")
		if got := l.kernel.lastSweep().Strings(); !slices.Equal(got, []string{"30000-30099"}) {
			t.Errorf("swept %v, want all that is judged", got)
		}

		// Who deletes the set has not taken it off the list.
		l.sets.remove("bad")
		s := l.wantReason(v1alpha1.ReasonOK)
		if len(s.Exceptions) != 1 || s.Exceptions[0].Port != 0 || !strings.Contains(s.Exceptions[0].Reason, "AddressSet bad is gone") {
			t.Errorf("exceptions %+v", s.Exceptions)
		}
		l.pass(time.Hour)
		l.wantAdmits(30080, "203.0.113.7", false)
		l.restart()
		l.wantAdmits(30080, "203.0.113.7", false)
		l.kernel.loaded = nil // the node was rebooted
		l.restart()
		l.wantAdmits(30080, "203.0.113.7", false)

		l.sets.put(set("bad", "203.0.113.64/28"))
		l.pass(roundPause)
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantAdmits(30080, "203.0.113.77", false)
		l.sets.remove("bad")
		l.installation.put(denying())
		l.pass(roundPause)
		l.wantAdmits(30080, "203.0.113.77", true)
		if s := l.wantReason(v1alpha1.ReasonOK); len(s.Exceptions) > 0 {
			t.Errorf("exceptions %+v", s.Exceptions)
		}
		l.restart()
		l.wantAdmits(30080, "203.0.113.77", true)
	})
}

func TestADenialOutlivesItsObjectAndTheAgent(t *testing.T) {
	inLab(t, func(l *lab) {
		l.sets.put(set("bad", "203.0.113.0/28"))
		l.installation.put(denying("bad", "unknown"))
		l.start()
		if s := l.wantReason(v1alpha1.ReasonOK); len(s.Exceptions) != 1 || !strings.Contains(s.Exceptions[0].Reason, `AddressSet "unknown", which does not exist`) {
			t.Errorf("exceptions %+v", s.Exceptions)
		}
		l.installation.remove(v1alpha1.InstallationName)
		l.sets.remove("bad")
		l.wantReason(v1alpha1.ReasonVanished)
		l.restart()
		l.pass(time.Hour)
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantAdmits(30080, "203.0.113.7", false)
		l.wantAdmits(30080, "203.0.113.77", true)
		l.installation.put(installation(false))
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", true)
	})
}

func TestDeniedSetsOnDiskThatCannotBeReadCountAsNone(t *testing.T) {
	inLab(t, func(l *lab) {
		l.sets.put(set("bad", "203.0.113.0/28"))
		l.installation.put(denying("bad"))
		if err := os.WriteFile(newDeniedFile(l.stateDir).path, []byte("{{{"), 0o600); err != nil {
			t.Fatal(err)
		}
		l.start()
		l.wantAdmits(30080, "203.0.113.7", false)
		if sets, err := l.agent.deniedFile.load(); err != nil || len(sets["bad"]) != 1 {
			t.Errorf("on disk: %v, %v", sets, err)
		}
	})
}

func TestPrefixListsFollowTheirAddressSets(t *testing.T) {
	inLab(t, func(l *lab) {
		p := pool("30000-30099")
		p.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws-prod"}
		l.pools.put(p)
		entries := listSet("pl-1")
		entries.Spec.CIDRs = []v1alpha1.CIDR{"192.0.2.1/32"}
		l.sets.put(entries)
		a := openToList(30082, "pl-1")
		a.Spec.Pool = p.Name
		l.allocations.put(a)
		l.start()
		l.wantAdmits(30082, "192.0.2.1", true)
		entries.Spec.CIDRs = []v1alpha1.CIDR{"192.0.2.2/32"}
		l.sets.put(entries)
		l.pass(roundPause)
		l.wantAdmits(30082, "192.0.2.1", false)
		l.wantAdmits(30082, "192.0.2.2", true)
	})
}

func TestEntitiesFollowTheirAddressSetsAndTheInstallation(t *testing.T) {
	inLab(t, func(l *lab) {
		l.sets.put(nodeSet("192.0.2.1/32"))
		l.allocations.put(openToEntity(30082, v1alpha1.EntityNodes))
		l.allocations.put(openToEntity(30083, v1alpha1.EntityCluster))
		l.start()
		l.wantAdmits(30082, "192.0.2.1", true)
		l.wantAdmits(30083, "192.0.2.1", false) // what the cluster is, nobody has said yet
		l.installation.put(clusterOf("10.244.0.0/16"))
		l.sets.put(nodeSet("192.0.2.2/32"))
		l.pass(roundPause)
		l.wantAdmits(30082, "192.0.2.1", false)
		l.wantAdmits(30082, "192.0.2.2", true)
		l.wantAdmits(30082, "10.244.1.7", false)
		l.wantAdmits(30083, "192.0.2.2", true)
		l.wantAdmits(30083, "10.244.1.7", true)
		l.installation.remove(v1alpha1.InstallationName)
		l.wantReason(v1alpha1.ReasonVanished)
		l.restart()
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantAdmits(30083, "10.244.1.7", true)
		l.allocations.put(open(30083)) // the manager took the entity out of it
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30083, "10.244.1.7", false)
	})
}
