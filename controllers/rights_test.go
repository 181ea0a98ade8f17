package controllers

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// granter is an API server that knows who may do what: a Right is there when its verbs
// are. The test is about one manager, so nobody else is asked for.
type granter struct {
	verbs map[Right]string
	asked int
	fails error
	now   time.Time
}

func (g *granter) create(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	review, is := o.(*authorizationv1.SelfSubjectAccessReview)
	if !is {
		return c.Create(ctx, o, opts...)
	}
	g.asked++
	a := review.Spec.ResourceAttributes
	for right, verbs := range g.verbs {
		if right.Group == a.Group && right.Resource == a.Resource && a.Namespace == "" {
			review.Status.Allowed = strings.Contains(" "+verbs+" ", " "+a.Verb+" ")
		}
	}
	return g.fails
}

const allVerbs = "list watch get create update delete"

func (g *granter) rights(t *testing.T) *Rights {
	t.Helper()
	g.now = time.Unix(1_800_000_000, 0)
	c := interceptor.NewClient(store(t).Build(), interceptor.Funcs{Create: g.create})
	return NewRights(c, "reeves", 0, func() time.Time { return g.now })
}

// A right that is missing is told with the line that grants it, asked for once a minute,
// and found when it has come; one that is there is not asked for again.
func TestAMissingRightIsToldAndFound(t *testing.T) {
	g := &granter{}
	r := g.rights(t)
	begun := 0
	if err := r.Begin(ForNetworkPolicies, func() error { begun++; return nil }); err != nil {
		t.Fatal(err)
	}
	lacks := func() string {
		t.Helper()
		why, err := r.Lacks(t.Context(), ForNetworkPolicies)
		if err != nil {
			t.Fatal(err)
		}
		if why == nil {
			return ""
		}
		if why.Reason != v1alpha1.ReasonForbidden {
			t.Fatalf("%+v", why)
		}
		return why.Message
	}
	const line = "kubectl create clusterrolebinding portreeve-manager-networkpolicies --clusterrole=portreeve-manager-networkpolicies --serviceaccount=reeves:portreeve-manager"
	if m := lacks(); !strings.Contains(m, "may not list networkpolicies.networking.k8s.io") || !strings.HasSuffix(m, line) {
		t.Fatalf("%q", m)
	}
	g.verbs = map[Right]string{ForNetworkPolicies: strings.TrimSuffix(allVerbs, " delete")}
	g.now = g.now.Add(askRightsEvery - time.Second)
	if lacks(); g.asked != 1 || begun != 0 || r.Next(ForNetworkPolicies) != time.Second {
		t.Fatalf("asked %d times, begun %d times, again in %s", g.asked, begun, r.Next(ForNetworkPolicies))
	}
	g.now = g.now.Add(time.Second)
	if m := lacks(); !strings.Contains(m, "may not delete networkpolicies") || begun != 0 {
		t.Fatalf("%q, begun %d times", m, begun)
	}
	g.verbs[ForNetworkPolicies], g.now = allVerbs, g.now.Add(askRightsEvery)
	if m := lacks(); m != "" || begun != 1 || len(r.changed) != 1 {
		t.Fatalf("%q, begun %d times, %d woken", m, begun, len(r.changed))
	}
	asked := g.asked
	g.now = g.now.Add(time.Hour)
	if m := lacks(); m != "" || begun != 1 || g.asked != asked || r.Next(ForNetworkPolicies) != retrySoon {
		t.Errorf("%q, begun %d times, asked %d times more", m, begun, g.asked-asked)
	}

	<-r.changed
	g.verbs = nil
	if m := lacks(); m != "" {
		t.Errorf("%q before anything was refused", m)
	}
	r.Doubt(ForNetworkPolicies)
	if m := lacks(); m == "" || len(r.changed) != 1 {
		t.Errorf("a right that is gone is not told: %q, %d woken", m, len(r.changed))
	}
}

// An API server that fails says nothing about rights; one that lets nobody ask is taken
// at its word later.
func TestNobodyKnowsWhatCannotBeAsked(t *testing.T) {
	g := &granter{fails: errors.New("broken")}
	r := g.rights(t)
	if why, err := r.Lacks(t.Context(), ForFronts); err == nil {
		t.Errorf("%+v", why)
	}
	g.fails = apierrors.NewForbidden(schema.GroupResource{}, "", nil)
	if why, err := r.Lacks(t.Context(), ForFronts); why != nil || err != nil {
		t.Errorf("%+v %v", why, err)
	}
}

// Without the right no ConfigMap is read, which would wait for ever, and none written.
func TestAFrontWithoutTheRight(t *testing.T) {
	r, front, writes := facade(t)
	front.Policy.Spec.Front.DNS = &v1alpha1.DNSFront{Hostname: "shop.example.org"}
	g := &granter{verbs: map[Right]string{ForRecords: allVerbs}}
	r.Doors.Rights = g.rights(t)
	read := 0
	r.Doors.Client = interceptor.NewClient(r.Doors.Client.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			read++
			return c.List(ctx, list, opts...)
		},
	})
	policy := types.NamespacedName{Namespace: "shop", Name: "web"}
	serve := func() (string, time.Duration) {
		t.Helper()
		have, err := r.Doors.of(t.Context(), policy)
		if err != nil {
			t.Fatal(err)
		}
		seen, again, err := r.serve(t.Context(), front, have)
		if err != nil {
			t.Fatal(err)
		}
		if seen.Why == nil {
			return "", again
		}
		return seen.Why.Reason, again
	}
	if reason, again := serve(); reason != v1alpha1.ReasonForbidden || again > askRightsEvery || read+*writes > 0 {
		t.Fatalf("%s, again in %s, %d reads, %d writes", reason, again, read, *writes)
	}
	g.verbs[ForFronts] = allVerbs
	g.now = g.now.Add(askRightsEvery)
	if reason, _ := serve(); reason != v1alpha1.ReasonExternalDNSNotFound || read == 0 || *writes != 2 {
		t.Errorf("%s, %d reads, %d writes", reason, read, *writes)
	}
}

// A right that is taken away is told when something is refused, and told apart from
// whatever else refuses.
func TestAFrontWhoseRightIsTakenAway(t *testing.T) {
	r, front, _ := facade(t)
	g := &granter{verbs: map[Right]string{ForFronts: allVerbs, ForRecords: allVerbs}}
	r.Doors.Rights = g.rights(t)
	r.Doors.Client = interceptor.NewClient(r.Doors.Client.(client.WithWatch), interceptor.Funcs{
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			return apierrors.NewForbidden(corev1.Resource("configmaps"), "web-nginx", errors.New("refused"))
		},
	})
	for _, c := range []struct{ verbs, want string }{{allVerbs, v1alpha1.ReasonFrontRefused}, {"list watch get", v1alpha1.ReasonForbidden}} {
		have, err := r.Doors.of(t.Context(), types.NamespacedName{Namespace: "shop", Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		g.verbs[ForFronts] = c.verbs
		if seen, _, err := r.serve(t.Context(), front, have); err != nil || seen.Why == nil || seen.Why.Reason != c.want {
			t.Errorf("%q: %+v %v, want %s", c.verbs, seen.Why, err, c.want)
		}
	}
}

// Without the right no NetworkPolicy is read or written, and the policy is told why.
func TestANetworkPolicyWithoutTheRight(t *testing.T) {
	claim, rest := shop()
	claim.Spec.NetworkPolicy = true
	g := &granter{}
	reads := 0
	c := interceptor.NewClient(store(t, append(rest, claim)...).Build(), interceptor.Funcs{
		Create: g.create,
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if _, is := o.(*networkingv1.NetworkPolicy); is {
				reads++
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
	rights := g.rights(t)
	rights.Client = c
	s := Snapshot{Reader: c, Rights: rights, Now: func() time.Time { return g.now }}
	policy := types.NamespacedName{Namespace: "shop", Name: "web"}
	own, err := s.Allocations(t.Context(), policy)
	if err != nil || len(own) != 1 {
		t.Fatal(own, err)
	}
	in, have, err := s.ingress(t.Context(), policy, own)
	if err != nil || in == nil || in.Forbidden == nil || in.Forbidden.Reason != v1alpha1.ReasonForbidden || have != nil || reads > 0 {
		t.Fatalf("%+v %+v, %d reads, %v", in, have, reads, err)
	}
	r := &NetworkPolicy{Client: c, Snapshot: s}
	if again, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: policy}); err != nil || again.RequeueAfter <= 0 || again.RequeueAfter > askRightsEvery {
		t.Fatalf("%+v %v", again, err)
	}
	g.verbs = map[Right]string{ForNetworkPolicies: allVerbs}
	g.now = g.now.Add(askRightsEvery)
	if again, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: policy}); err != nil || again.RequeueAfter != 0 {
		t.Fatalf("%+v %v", again, err)
	}
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: "shop", Name: "web-nodeport"}, &networkingv1.NetworkPolicy{}); err != nil {
		t.Error(err)
	}
}
