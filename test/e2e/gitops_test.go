package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/test/health"
)

// repository is the sample of what platform and teams have in Git.
const repository = "../../config/samples/gitops"

// fromGit sets a scene whose namespace, pool and AddressSet the sample repository brings.
func fromGit(t *testing.T) *scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	s := &scene{
		T: t, ctx: ctx, namespace: "storefront", pool: &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "payments-web"}},
		office: sharedClient(t, "office", officeCIDR, officeCIDR6),
		street: sharedClient(t, "street", streetCIDR, streetCIDR6),
	}
	s.applyFolder("platform")
	if _, err := town.AddPod(ctx, town.Nodes()[0], s.namespace, "pod", map[string]string{"app": s.namespace}); err != nil {
		t.Fatal(err)
	}
	s.eventually("the pool is armed", func() error {
		return s.ready(s.pool, func() []metav1.Condition { return s.pool.Status.Conditions })
	})
	return s
}

// applyFolder applies a folder of the sample repository, as told by further arguments.
func (s *scene) applyFolder(folder string, how ...string) {
	s.Helper()
	path, err := filepath.Abs(filepath.Join(repository, folder))
	if err != nil {
		s.Fatal(err)
	}
	if out, err := town.Kubectl(s.ctx, append([]string{"apply", "-k", path}, how...)...); err != nil {
		s.Fatalf("kubectl apply -k %s %v: %v\n%s", folder, how, err, out)
	}
}

// The sample repository, applied by whatever tool and however often: what is in force
// stays as it is, nobody writes what Git did not change, and tools call it healthy.
func TestASampleRepositoryIsAppliedAgainAndAgain(t *testing.T) {
	s := fromGit(t)
	policy := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.namespace}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.namespace}}
	companion := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.namespace + v1alpha1.CompanionSuffix}}
	offices := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "headquarters"}}
	s.applyFolder("teams/storefront")
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	s.silent(s.street, from(streetCIDR, 1), port)
	health.Check(t, policy, health.InForce)
	health.Check(t, s.pool, health.InForce)

	written := func() string {
		allocation := s.allocation(port)
		for _, o := range []client.Object{policy, service, companion, offices, s.pool} {
			if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(o), o); err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprintf("generations %d %d %d, companion %s, allocation %s, in force since %v", policy.Generation, s.pool.Generation, offices.Generation,
			companion.ResourceVersion, allocation.ResourceVersion, policy.Status.Conditions)
	}
	before := written()
	for _, how := range [][]string{
		{},
		{"--server-side", "--force-conflicts", "--field-manager", "argocd-controller"},
		{"--server-side", "--force-conflicts", "--field-manager", "kustomize-controller"},
		{"--server-side", "--field-manager", "kustomize-controller"},
		{"--server-side", "--field-manager", "argocd-controller"},
	} {
		s.applyFolder("platform", how...)
		s.applyFolder("teams/storefront", how...)
		var versions []string
		for range 2 { // the second time nothing is written at all
			s.applyFolder("teams/storefront", how...)
			if after := written(); after != before {
				t.Fatalf("applied by %q:\n%s\nwas\n%s", how, after, before)
			}
			versions = append(versions, s.committed(policy)+" "+service.ResourceVersion)
		}
		if versions[0] != versions[1] {
			t.Errorf("applied by %q, each time something else: %q", how, versions)
		}
	}
	s.answers(s.office, from(officeCIDR, 1), port)

	// What Git takes away is closed, whoever prunes it, and the number comes back.
	s.delete(policy)
	s.eventually("the number is free", func() error {
		if a := s.allocation(port); a != nil {
			return fmt.Errorf("the allocation is %s", a.Spec.State)
		}
		return nil
	})
	s.silent(s.office, from(officeCIDR, 1), port)
	s.delete(service)
	s.delete(s.pool)
	s.eventually("the pool is gone", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), s.pool); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
}

// committed is the policy without its status, of which nodes may tell at any time whether
// its addresses answer.
func (s *scene) committed(p *v1alpha1.NodePortPolicy) string {
	s.Helper()
	p = p.DeepCopy()
	p.Status, p.ResourceVersion = v1alpha1.NodePortPolicyStatus{}, ""
	p.ManagedFields = slices.DeleteFunc(p.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Subresource != "" })
	text, err := json.Marshal(p)
	if err != nil {
		s.Fatal(err)
	}
	return string(text)
}
