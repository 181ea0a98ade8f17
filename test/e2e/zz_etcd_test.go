package e2e

import (
	"testing"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// The last test of the package: it takes the whole cluster back in time, as a restore
// of etcd does, with its revision raised as the documentation of etcd demands.
func TestPortsComeBackFromABackupOfEtcd(t *testing.T) {
	s := open(t, "etcd", "31550-31559")
	kept := s.policy("kept", officeCIDR)
	s.create(kept)
	port := s.awaitReady(kept)
	s.answers(s.office, from(officeCIDR, 1), port)
	backup, err := town.Backup(s.ctx)
	if err != nil {
		t.Fatal(err)
	}

	edit(s, kept, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{CIDR: streetCIDR})
	})
	s.awaitReady(kept)
	s.answers(s.street, from(streetCIDR, 1), port)
	lost := s.policy("lost", officeCIDR)
	s.create(lost)
	second := s.awaitReady(lost)
	s.answers(s.office, from(officeCIDR, 1), second)

	if err := town.Restore(s.ctx, backup, lab.RestoreOptions{BumpRevision: 1_000_000_000}); err != nil {
		t.Fatal(err)
	}
	town.Manager().Kill() // it may have lost its lease and ended by itself
	if err := town.StartManager(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	if again := s.awaitReady(kept); again != port {
		t.Errorf("the policy has %d, want the %d it had", again, port)
	}
	s.answers(s.office, from(officeCIDR, 1), port)
	s.silentSoon(s.street, from(streetCIDR, 1), port)
	s.silentSoon(s.office, from(officeCIDR, 1), second) // nobody asks for it any more
	back := s.policy("lost", officeCIDR)
	s.create(back)
	s.answers(s.office, from(officeCIDR, 1), s.awaitReady(back))
}
