package guard

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
)

// superuser is system:masters, whom RBAC does not judge.
func superuser(t *testing.T) *person {
	t.Helper()
	p, err := newPerson(cluster.RESTConfig(), admin)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// agent speaks with the agents' ServiceAccount, from a node, or with a token that
// is not from any.
func agent(t *testing.T, node *corev1.Node) *person {
	t.Helper()
	var boundTo metav1.Object
	if node != nil {
		boundTo = node
	}
	config, err := cluster.ServiceAccountConfig(t.Context(), "portreeve-system", "portreeve-agent", boundTo)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPerson(config, admin)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newAllocation(number string) *v1alpha1.NodePortAllocation {
	return &v1alpha1.NodePortAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: number},
		Spec: v1alpha1.NodePortAllocationSpec{
			State: v1alpha1.AllocationOpen, Protocols: []v1alpha1.Protocol{"TCP"}, Pool: "web", Team: "payments",
			Claim: v1alpha1.Claim{Namespace: "shop", Policy: "shop", Service: "shop"},
			Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443, Sources: []v1alpha1.CIDR{"203.0.113.0/24"}}},
		},
	}
}

func newDatapath(node string) *v1alpha1.NodeDatapath {
	return &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: node}}
}

func TestTheRegisterIsTheManagers(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	held := newAllocation("30300")
	held.Labels, held.Finalizers = map[string]string{"a": "b"}, []string{"example.com/held"}
	create(t, manager, held)
	t.Cleanup(func() {
		held.Finalizers = nil
		if err := manager.Update(context.Background(), held); err != nil {
			t.Error(err)
		}
	})

	type allocation = *v1alpha1.NodePortAllocation
	widen := func(a allocation) { a.Spec.Ports[0].Sources = []v1alpha1.CIDR{"198.51.100.0/24"} }
	release := func(a allocation) {
		a.Annotations = map[string]string{v1alpha1.AnnotationRelease: "node n3 was scrapped"}
	}
	owned := func(a allocation) {
		a.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "a", UID: "b"}}
	}
	all := func(ctx context.Context, c client.Client) error {
		return c.DeleteAllOf(ctx, &v1alpha1.NodePortAllocation{}, client.DryRunAll)
	}
	annotate := func(ctx context.Context, c client.Client) error { // as kubectl annotate does
		return c.Patch(ctx, newAllocation("30300"), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"portreeve.dev/release":"gone"}}}`)), client.DryRunAll)
	}
	apply := func(ctx context.Context, c client.Client) error {
		return c.Patch(ctx, newAllocation("30301"), client.RawPatch(types.ApplyYAMLPatchType, []byte(
			`{"apiVersion":"portreeve.dev/v1alpha1","kind":"NodePortAllocation","metadata":{"name":"30301"},"spec":{"state":"Foreign","protocols":["TCP"],"pool":"web","team":"payments","claim":{}}}`)),
			client.DryRunAll, client.FieldOwner("somebody"))
	}
	none := []string{}
	try(t, guard.Allocations, map[string]trial{
		"a claim by somebody else":             {admin, dryCreate(newAllocation("30301")), []string{"NodePortAllocation 30301 is created by Portreeve's manager only, not by admin", "write a NodePortPolicy with spec.ports[].nodePort 30301", "impersonate the group portreeve.dev:restorers"}},
		"a claim by server-side apply":         {admin, apply, []string{"NodePortAllocation 30301 is created "}},
		"a wider claim":                        {admin, dryUpdate(held, widen), []string{"NodePortAllocation 30300: spec is written by Portreeve's manager only, not by admin; change the NodePortPolicy", "portreeve.dev/release"}},
		"other labels":                         {admin, dryUpdate(held, func(a allocation) { a.Labels = nil }), []string{"30300: metadata.labels is "}},
		"an owner":                             {admin, dryUpdate(held, owned), []string{"30300: metadata.ownerReferences is "}},
		"a finalizer":                          {admin, dryUpdate(held, func(a allocation) { a.Finalizers = append(a.Finalizers, "example.com/for-ever") }), []string{"30300: metadata.finalizers is "}},
		"several at once":                      {admin, dryUpdate(held, func(a allocation) { widen(a); owned(a) }), []string{"30300: spec, metadata.ownerReferences is "}},
		"a finalizer less":                     {admin, dryUpdate(held, func(a allocation) { a.Finalizers = nil }), none},
		"the release of a held port":           {admin, dryUpdate(held, release), none},
		"the release, as kubectl annotates":    {admin, annotate, none},
		"any other annotation":                 {admin, dryUpdate(held, func(a allocation) { a.Annotations = map[string]string{"example.com/note": "x"} }), none},
		"a release and a wider claim":          {admin, dryUpdate(held, func(a allocation) { release(a); widen(a) }), []string{"30300: spec is "}},
		"nothing":                              {admin, dryUpdate(held, func(allocation) {}), none},
		"a deletion":                           {admin, dryDelete(held), []string{"NodePortAllocation 30300 is deleted by Portreeve's manager only, once the port is proved closed, not by admin; delete the NodePortPolicy", "portreeve.dev/release", "impersonate the group portreeve.dev:restorers"}},
		"the deletion of all":                  {admin, all, []string{"NodePortAllocation 30300 is deleted "}},
		"the superuser is nobody else":         {superuser(t), dryUpdate(held, widen), []string{"30300: spec is ", "not by lab"}},
		"the manager claims":                   {manager, dryCreate(newAllocation("30301")), none},
		"the manager changes":                  {manager, dryUpdate(held, widen), none},
		"the manager deletes":                  {manager, dryDelete(held), none},
		"a restore creates":                    {restorer, dryCreate(newAllocation("30301")), none},
		"a restore changes":                    {restorer, dryUpdate(held, widen), none},
		"a restore deletes":                    {restorer, dryDelete(held), none},
		"a restore clears the register before": {restorer, all, none},
	})
}

func TestAnAgentReportsForItsOwnNodeOnly(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	n1, n2 := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}
	create(t, admin, n1)
	create(t, admin, n2)
	first, nowhere := agent(t, n1), agent(t, nil)
	create(t, admin, newDatapath("n1")) // admission leaves others to RBAC
	create(t, admin, newDatapath("n2"))
	// Agents may not delete, and must not begin to delete those of others.
	create(t, superuser(t), deleters())
	create(t, superuser(t), clusterRoleBinding("deleters", "deleters", agentAccount))
	eventually(t, "right to delete", func() error {
		_, err := first.try(t.Context(), dryDelete(newDatapath("n1")))
		return err
	})

	report := func(d *v1alpha1.NodeDatapath) { d.Status.BootID = "boot" }
	none := []string{}
	other := []string{"NodeDatapath n2 is written by the agent on that node only, and this token is from authentication.kubernetes.io/node-name n1", "give the agent its own node's name (--node, $NODE_NAME)"}
	unknown := []string{"NodeDatapath n1 cannot be written with a token of system:serviceaccount:portreeve-system:portreeve-agent that has no authentication.kubernetes.io/node-name", "use the token that is projected into the agent's pod"}
	try(t, guard.Datapaths, map[string]trial{
		"a name that begins like its own": {first, dryCreate(generated("n1")), []string{"is written by the agent on that node only"}},
		"a report of its own":             {first, dryStatus(newDatapath("n1"), report), none},
		"a report of another node":        {first, dryStatus(newDatapath("n2"), report), other},
		"a first report of another node":  {first, dryCreate(newDatapath("n3")), []string{"NodeDatapath n3 is written by the agent on that node only"}},
		"the deletion of its own":         {first, dryDelete(newDatapath("n1")), none},
		"the deletion of another's":       {first, dryDelete(newDatapath("n2")), other},
		"the deletion of all": {first, func(ctx context.Context, c client.Client) error {
			return c.DeleteAllOf(ctx, newDatapath(""), client.DryRunAll)
		}, other},
		"a token without a node":              {nowhere, dryStatus(newDatapath("n1"), report), unknown},
		"a first report without a node":       {nowhere, dryCreate(newDatapath("n3")), []string{"NodeDatapath n3 cannot be written with a token"}},
		"garbage collection deletes":          {superuser(t), dryDelete(newDatapath("n2")), none},
		"who else may write is RBAC's matter": {admin, dryStatus(newDatapath("n2"), report), none},
	})

	// The first report of a node, on which there is none.
	create(t, admin, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n4"}})
	n4 := &corev1.Node{}
	if err := admin.Get(t.Context(), client.ObjectKey{Name: "n4"}, n4); err != nil {
		t.Fatal(err)
	}
	if err := passed(agent(t, n4).try(t.Context(), dryCreate(newDatapath("n4")))); err != nil {
		t.Error(err)
	}
}

// deleters may delete reports, which config/rbac lets no agent do.
func deleters() *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "deleters"},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"nodedatapaths"}, Verbs: []string{"list", "delete", "deletecollection"},
		}},
	}
}

// agentAccount is the ServiceAccount of all agents.
var agentAccount = rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "portreeve-system", Name: "portreeve-agent"}

// generated is a report with a name that begins with the node's.
func generated(node string) *v1alpha1.NodeDatapath {
	return &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{GenerateName: node}}
}
