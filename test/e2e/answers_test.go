package e2e

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// looking bounds how long it takes until a policy says whether its new or changed ports
// answer: agents leave them alone for some seconds, ask twice where nothing answers, and
// report at most twice a minute; the manager waits ten seconds more.
const looking = 75 * time.Second

// eventuallyAnswered waits until a policy says of its addresses, and of Unanswered, what
// is expected; it is Ready all the time.
func (s *scene) eventuallyAnswered(p *v1alpha1.NodePortPolicy, all, none bool) {
	s.Helper()
	start := time.Now()
	for {
		err := s.ready(p, func() []metav1.Condition { return p.Status.Conditions })
		answered, unanswered := len(p.Status.Answered), meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.Unanswered)
		if err == nil && (answered == len(p.Status.Addresses)) == all && (all || answered == 0) && unanswered == none {
			s.Logf("%s says so after %s: %v", p.Name, time.Since(start).Round(time.Second), p.Status.Answered)
			return
		}
		if time.Since(start) > looking {
			s.Fatalf("policy %s: %v answered of %v, Unanswered %t (%v)", p.Name, p.Status.Answered, p.Status.Addresses, unanswered, err)
		}
		select {
		case <-s.ctx.Done():
			s.Fatal(s.ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Each node asks itself whether anything answers. That opens nothing, is judged by
// nothing, and changes no gate.
func TestAddressesAreAskedFromTheirOwnNode(t *testing.T) {
	s := open(t, "answers", "30780-30789")
	empty := s.service("empty")
	empty.Spec.Selector["app"] = "answers-empty"
	s.create(empty)
	web, shut, void := s.policy("web", officeCIDR, officeCIDR6), s.policy("shut"), s.policy("void", officeCIDR, officeCIDR6)
	web.Spec.Limits = v1alpha1.Limits{ConnectionsPerSource: 1}
	shut.Spec.Ports, shut.Spec.Sources = []v1alpha1.PolicyPort{{Name: "http"}}, []v1alpha1.Source{}
	void.Spec.ServiceRef.Name = "empty"
	for _, p := range []*v1alpha1.NodePortPolicy{web, shut, void} {
		s.create(p)
	}
	admitted, closed, silent := s.awaitReady(web), s.awaitReady(shut), s.awaitReady(void)
	s.eventuallyAnswered(web, true, false)
	s.eventuallyAnswered(shut, true, false) // nobody is admitted, and the node's own processes never are judged
	s.eventuallyAnswered(void, false, true)
	s.answers(s.office, from(officeCIDR, 1), admitted)
	for _, number := range []uint16{admitted, closed, silent} {
		s.silent(s.street, from(streetCIDR, 1), number)
	}
	s.silent(s.office, from(officeCIDR, 2), closed)

	// What changes is asked soon.
	if _, err := town.AddPod(s.ctx, town.Nodes()[1], "answers", "late", map[string]string{"app": "answers-empty"}); err != nil {
		t.Fatal(err)
	}
	s.eventually("the late pod answers", func() error {
		if a := s.office.Ask(s.ctx, flow(town.Nodes()[0], from(officeCIDR, 3), silent)); a.Outcome != lab.Answered {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	edit(s, void, func(p *v1alpha1.NodePortPolicy) { p.Spec.Sources = p.Spec.Sources[:1] })
	s.awaitReady(void)
	s.eventuallyAnswered(void, true, false)

	var reports v1alpha1.NodeDatapathList
	if err := town.Client.List(s.ctx, &reports); err != nil {
		t.Fatal(err)
	}
	for _, r := range reports.Items {
		if a := r.Status.Answers; a == nil || len(a.Addresses) == 0 {
			t.Errorf("node %s reports %+v", r.Name, a)
		}
	}
}
