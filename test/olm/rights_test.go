package olm

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// confined sees that what runs has the rights that the bundle gives to its ServiceAccount,
// no others, and needs none that it has not.
func (s *scene) confined(r release) {
	s.Helper()
	// OLM adds a variable to the Deployment when it has Succeeded: the pods come anew.
	s.eventually("two managers and three agents run as their ServiceAccounts", s.accounts)
	s.eventually("they are bound to the bundle's roles", func() error { return s.bound(r) })
	s.secrets()
	s.unrefused()
}

func (s *scene) accounts() error {
	var pods corev1.PodList
	if err := s.client.List(s.ctx, &pods, client.InNamespace(namespace)); err != nil {
		return err
	}
	seen := map[string]int{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		component := pod.Labels["app.kubernetes.io/component"]
		kubeconfig := filepath.Join(s.town.Dir(), pod.Namespace+"_"+pod.Name+".kubeconfig")
		who, err := s.town.KubectlWith(s.ctx, kubeconfig, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
		if err != nil || strings.TrimSpace(who) != "system:serviceaccount:"+namespace+":portreeve-"+component {
			return fmt.Errorf("pod %s is %q: %v", pod.Name, who, err)
		}
		seen[component]++
	}
	if seen["manager"] != 2 || seen["agent"] != 3 || len(seen) != 2 {
		return fmt.Errorf("there are pods of %v", seen)
	}
	return nil
}

// bound sees that our ServiceAccounts are bound to nothing else than this release says: of
// a permission for one namespace OLM makes one for all, where it is left to it. What OLM
// gives to every operator is its own OperatorCondition, by a role of the release's name.
func (s *scene) bound(r release) error {
	return s.bindings(r,
		fmt.Sprintf("ClusterRoleBinding of %q for portreeve-agent", r.name),
		fmt.Sprintf("ClusterRoleBinding of %q for portreeve-manager", r.name),
		leftBinding,
	)
}

// leftBinding is the one that OLM does not remove with the release: nobody has its
// ServiceAccount then.
const leftBinding = `RoleBinding of "" for portreeve-manager`

func (s *scene) bindings(r release, want ...string) error {
	var cluster rbacv1.ClusterRoleBindingList
	var local rbacv1.RoleBindingList
	if err := errors.Join(s.client.List(s.ctx, &cluster), s.client.List(s.ctx, &local)); err != nil {
		return err
	}
	var have []string
	note := func(kind string, b metav1.ObjectMeta, subjects []rbacv1.Subject) {
		for _, subject := range subjects {
			if cmp.Or(subject.Namespace, b.Namespace) == namespace && strings.HasPrefix(subject.Name, "portreeve-") && b.Name != r.name {
				have = append(have, fmt.Sprintf("%s of %q for %s", kind, b.Labels["olm.owner"], subject.Name))
			}
		}
	}
	for i := range cluster.Items {
		note("ClusterRoleBinding", cluster.Items[i].ObjectMeta, cluster.Items[i].Subjects)
	}
	for i := range local.Items {
		note("RoleBinding", local.Items[i].ObjectMeta, local.Items[i].Subjects)
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		return fmt.Errorf("there are %q", have)
	}
	return nil
}

// secrets sees whose Secrets the manager may read.
func (s *scene) secrets() {
	s.Helper()
	for in, want := range map[string]bool{namespace: true, "shop": false, "": false} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + namespace + ":portreeve-manager",
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: in, Verb: "get", Resource: "secrets"},
		}}
		if err := s.client.Create(s.ctx, review); err != nil {
			s.Fatal(err)
		}
		if review.Status.Allowed != want {
			s.Errorf("the manager may read Secrets in %q: %t", in, review.Status.Allowed)
		}
	}
}

// unrefused reads in the logs that nothing was forbidden to our programs.
func (s *scene) unrefused() {
	s.Helper()
	logs, err := filepath.Glob(filepath.Join(s.town.LogDir(), namespace+"_*.log"))
	if err != nil || len(logs) < 5 {
		s.Fatalf("only the logs %q: %v", logs, err)
	}
	for _, log := range logs {
		file, err := os.Open(log)
		if err != nil {
			s.Fatal(err)
		}
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if strings.Contains(strings.ToLower(lines.Text()), "forbidden") {
				s.Errorf("%s: %s", filepath.Base(log), lines.Text())
			}
		}
		file.Close()
	}
}
