package least

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/test/stage"
)

// attempt is one thing that somebody with an agent's token tries.
type attempt struct {
	// what, in the words of docs/security.md.
	what         string
	method, path string
	body         string
	// status that the API server answers with; 403 unless it stands here.
	status int
	// why it may, where it does.
	why string
}

const (
	ours  = "/apis/portreeve.dev/v1alpha1"
	core  = "/api/v1"
	admit = "/apis/admissionregistration.k8s.io/v1"
	rbac  = "/apis/rbac.authorization.k8s.io/v1"
)

const (
	itsWork = "what an agent is for"
	anybody = "every ServiceAccount may, by Kubernetes' own roles"
)

// report is a NodeDatapath's status that claims to have enforced everything.
func report(node string) string {
	return fmt.Sprintf(`{"apiVersion":"portreeve.dev/v1alpha1","kind":"NodeDatapath","metadata":{"name":%q},"status":{"marks":{"allocations":"1"}}}`, node)
}

// attempts are those of a token bound to node n1.
var attempts = []attempt{
	{what: "read what is enforced: pools", method: "GET", path: ours + "/nodeportpools", status: 200, why: itsWork},
	{what: "read what is enforced: the register, sources of every team among it", method: "GET", path: ours + "/nodeportallocations", status: 200, why: itsWork},
	{what: "read what is enforced: AddressSets", method: "GET", path: ours + "/addresssets", status: 200, why: itsWork},
	{what: "read what is enforced: GatewaySets", method: "GET", path: ours + "/gatewaysets", status: 200, why: itsWork},
	{what: "read what is enforced: the Portreeve object", method: "GET", path: ours + "/portreeves", status: 200, why: itsWork},
	{what: "read all Nodes, not only its own", method: "GET", path: core + "/nodes", status: 200, why: "RBAC can't say \"its own\" in one role for all nodes; a Node holds no secret"},
	{what: "read another node's report", method: "GET", path: ours + "/nodedatapaths/n2", status: 200, why: "likewise; a report is no secret"},
	{what: "report for its own node", method: "PUT", path: ours + "/nodedatapaths/n1/status", body: "own", status: 200, why: itsWork},
	{what: "say who it is (SelfSubjectReview)", method: "POST", path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", body: `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`, status: 201, why: anybody},
	{what: "ask what it may itself (SelfSubjectRulesReview)", method: "POST", path: "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body: `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectRulesReview","spec":{"namespace":"default"}}`, status: 201, why: anybody},
	{what: "read the list of kinds (discovery)", method: "GET", path: "/apis", status: 200, why: anybody},
	{what: "read the server's version", method: "GET", path: "/version", status: 200, why: anybody},

	{what: "report for another node", method: "PUT", path: ours + "/nodedatapaths/n2/status", body: "other", why: "by the guard, unless it is `Off`"},
	{what: "report for a node that is to come", method: "POST", path: ours + "/nodedatapaths", body: report("n9"), why: "by the guard, unless it is `Off`"},
	{what: "list all reports", method: "GET", path: ours + "/nodedatapaths"},
	{what: "change the spec or owner of its own report", method: "PUT", path: ours + "/nodedatapaths/n1", body: report("n1")},
	{what: "delete its own report", method: "DELETE", path: ours + "/nodedatapaths/n1"},
	{what: "delete another node's report", method: "DELETE", path: ours + "/nodedatapaths/n2"},
	{what: "delete all reports", method: "DELETE", path: ours + "/nodedatapaths"},
	{what: "open a port: create an allocation", method: "POST", path: ours + "/nodeportallocations", body: `{"apiVersion":"portreeve.dev/v1alpha1","kind":"NodePortAllocation","metadata":{"name":"30099"}}`},
	{what: "widen a port: change an allocation", method: "PATCH", path: ours + "/nodeportallocations/30000", body: `{"spec":{"state":"Open"}}`},
	{what: "free a port that is held: annotate an allocation", method: "PATCH", path: ours + "/nodeportallocations/30000", body: `{"metadata":{"annotations":{"portreeve.dev/release":"yes"}}}`},
	{what: "delete an allocation", method: "DELETE", path: ours + "/nodeportallocations/30000"},
	{what: "widen a pool", method: "PATCH", path: ours + "/nodeportpools/wanted", body: `{"spec":{"guardrails":{"world":"Allow"}}}`},
	{what: "widen an AddressSet", method: "PATCH", path: ours + "/addresssets/nodes", body: `{"spec":{"cidrs":["0.0.0.0/1"]}}`},
	{what: "make itself a gateway", method: "PATCH", path: ours + "/gatewaysets/any", body: `{"spec":{"nodes":["n1"]}}`},
	{what: "lift a lockdown, or switch the guard off", method: "PATCH", path: ours + "/portreeves/cluster", body: `{"spec":{"guard":"Off"}}`},
	{what: "read policies of teams", method: "GET", path: ours + "/nodeportpolicies"},
	{what: "create a policy", method: "POST", path: ours + "/namespaces/default/nodeportpolicies", body: `{"apiVersion":"portreeve.dev/v1alpha1","kind":"NodePortPolicy","metadata":{"name":"evil"}}`},
	{what: "say that a policy is Ready", method: "PATCH", path: ours + "/namespaces/default/nodeportpolicies/any/status", body: `{"status":{}}`},
	{what: "read cloud firewalls", method: "GET", path: ours + "/cloudfirewalls"},
	{what: "change a cloud firewall", method: "PATCH", path: ours + "/cloudfirewalls/any", body: `{"spec":{"mode":"Observe"}}`},

	{what: "read all Secrets", method: "GET", path: core + "/secrets"},
	{what: "read the cloud's keys", method: "GET", path: core + "/namespaces/" + namespace + "/secrets/aws"},
	{what: "create a Secret that a token is put into", method: "POST", path: core + "/namespaces/" + namespace + "/secrets", body: `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"t","annotations":{"kubernetes.io/service-account.name":"portreeve-manager"}},"type":"kubernetes.io/service-account-token"}`},
	{what: "read ConfigMaps", method: "GET", path: core + "/configmaps"},
	{what: "read Services", method: "GET", path: core + "/services"},
	{what: "create a Service", method: "POST", path: core + "/namespaces/default/services", body: `{"apiVersion":"v1","kind":"Service","metadata":{"name":"evil"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`},
	{what: "read EndpointSlices", method: "GET", path: "/apis/discovery.k8s.io/v1/endpointslices"},
	{what: "read pods", method: "GET", path: core + "/pods"},
	{what: "create a pod with the manager's ServiceAccount", method: "POST", path: core + "/namespaces/" + namespace + "/pods", body: `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"evil"},"spec":{"serviceAccountName":"portreeve-manager","containers":[{"name":"a","image":"a"}]}}`},
	{what: "run a command in a pod", method: "POST", path: core + "/namespaces/" + namespace + "/pods/any/exec?command=id"},
	{what: "add a container to a pod", method: "PATCH", path: core + "/namespaces/" + namespace + "/pods/any/ephemeralcontainers", body: `{"spec":{}}`},
	{what: "reach into a pod's network", method: "POST", path: core + "/namespaces/" + namespace + "/pods/any/portforward"},
	{what: "read a pod's log", method: "GET", path: core + "/namespaces/" + namespace + "/pods/any/log"},
	{what: "evict a pod", method: "POST", path: core + "/namespaces/" + namespace + "/pods/any/eviction", body: `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"any"}}`},
	{what: "bind a pod to its node", method: "POST", path: core + "/namespaces/" + namespace + "/pods/any/binding", body: `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"any"},"target":{"kind":"Node","name":"n1"}}`},
	{what: "create a DaemonSet, or change the agents'", method: "PATCH", path: "/apis/apps/v1/namespaces/" + namespace + "/daemonsets/portreeve-agent", body: `{"spec":{}}`},
	{what: "change the manager's Deployment", method: "PATCH", path: "/apis/apps/v1/namespaces/" + namespace + "/deployments/portreeve-manager", body: `{"spec":{}}`},
	{what: "label its own Node", method: "PATCH", path: core + "/nodes/n1", body: `{"metadata":{"labels":{"a":"b"}}}`},
	{what: "give its own Node another address", method: "PATCH", path: core + "/nodes/n1/status", body: `{"status":{"addresses":[]}}`},
	{what: "delete another Node", method: "DELETE", path: core + "/nodes/n2"},
	{what: "reach the kubelet through the API server", method: "GET", path: core + "/nodes/n2/proxy/pods"},
	{what: "read namespaces", method: "GET", path: core + "/namespaces"},
	{what: "relabel a namespace, to widen a pool's tenants", method: "PATCH", path: core + "/namespaces/default", body: `{"metadata":{"labels":{"team":"payments"}}}`},

	{what: "get a token of the manager's", method: "POST", path: core + "/namespaces/" + namespace + "/serviceaccounts/portreeve-manager/token", body: `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`},
	{what: "get a token of its own that lasts", method: "POST", path: core + "/namespaces/" + namespace + "/serviceaccounts/portreeve-agent/token", body: `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":86400}}`},
	{what: "try out tokens (TokenReview)", method: "POST", path: "/apis/authentication.k8s.io/v1/tokenreviews", body: `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x"}}`},
	{what: "ask what others may (SubjectAccessReview)", method: "POST", path: "/apis/authorization.k8s.io/v1/subjectaccessreviews", body: `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"root"}}`},
	{what: "impersonate the manager", method: "GET", path: core + "/secrets", body: "impersonate:system:serviceaccount:" + namespace + ":portreeve-manager"},
	{what: "impersonate a restorer of the register", method: "GET", path: core + "/secrets", body: "impersonate-group:portreeve.dev:restorers"},
	{what: "bind a role to itself", method: "POST", path: rbac + "/clusterrolebindings", body: `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"evil"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[]}`},
	{what: "escalate its own role", method: "PATCH", path: rbac + "/clusterroles/portreeve-agent", body: `{"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`},
	{what: "read roles and bindings", method: "GET", path: rbac + "/clusterrolebindings"},
	{what: "ask for a certificate", method: "POST", path: "/apis/certificates.k8s.io/v1/certificatesigningrequests", body: `{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"evil"},"spec":{"request":"eA==","signerName":"kubernetes.io/kube-apiserver-client","usages":["client auth"]}}`},

	{what: "take the guard away", method: "DELETE", path: admit + "/validatingadmissionpolicybindings/portreeve-guard-datapaths"},
	{what: "register a webhook", method: "POST", path: admit + "/validatingwebhookconfigurations", body: `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingWebhookConfiguration","metadata":{"name":"evil"}}`},
	{what: "change a definition (CRD)", method: "PATCH", path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/nodeportpools.portreeve.dev", body: `{"spec":{}}`},
	{what: "register an API (APIService)", method: "POST", path: "/apis/apiregistration.k8s.io/v1/apiservices", body: `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.evil.example"}}`},
	{what: "take the manager's lease", method: "PUT", path: "/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/leases/portreeve-manager", body: `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"portreeve-manager"}}`},
	{what: "read its node's lease", method: "GET", path: "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"},
	{what: "flood with events", method: "POST", path: "/apis/events.k8s.io/v1/namespaces/default/events", body: `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"evil"}}`},
	{what: "write NetworkPolicies", method: "POST", path: "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", body: `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"evil"}}`},
	{what: "read the API server's metrics", method: "GET", path: "/metrics"},
	{what: "profile the API server", method: "GET", path: "/debug/pprof/heap"},
	{what: "read the API server's log", method: "GET", path: "/logs/"},
}

// Somebody with an agent's token gets nowhere but where the agent's work leads. The table
// of attempts and answers stands in docs/security.md.
func TestACompromisedAgentGetsNowhere(t *testing.T) {
	inMode(t, v1alpha1.GuardAudit)
	config, err := town.AgentConfig(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range town.Nodes() { // the agents have begun
		eventually(t, "node "+node.Name+" reports", func() error {
			report := &v1alpha1.NodeDatapath{}
			return town.Client.Get(t.Context(), client.ObjectKey{Name: node.Name}, report)
		})
	}
	guarded(t, config)
	var table strings.Builder
	table.WriteString("| with an agent's token: | answer | |\n|---|---|---|\n")
	allowed := 0
	for _, a := range attempts {
		status, said := try(t, config, a)
		want := a.status
		if want == 0 {
			want = http.StatusForbidden
		}
		if status != want {
			t.Errorf("%s: %s %s: %d, want %d: %s", a.what, a.method, a.path, status, want, said)
		}
		if status < 300 {
			allowed++
		}
		path, _, _ := strings.Cut(a.path, "?")
		fmt.Fprintf(&table, "| %s: `%s %s` | %d %s | %s |\n", a.what, a.method, path, status, http.StatusText(status), a.why)
	}
	t.Logf("%d attempts, %d of them allowed and explained:\n%s", len(attempts), allowed, &table)
	page, err := os.ReadFile(filepath.Join(stage.Root(), "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), table.String()) {
		t.Error("docs/security.md has another table than the one above: copy it there")
	}
}

// guarded waits until the guard refuses; its policies reach the API server by a watch.
func guarded(t *testing.T, config *rest.Config) {
	t.Helper()
	for _, a := range attempts {
		if a.body == "other" {
			eventually(t, "the guard refuses", func() error {
				if status, said := try(t, config, a); status != http.StatusForbidden {
					return fmt.Errorf("%d %s", status, said)
				}
				return nil
			})
		}
	}
}

// try sends one attempt, and returns the API server's answer. An agent that writes its
// report meanwhile is in the way of who writes it, too.
func try(t *testing.T, config *rest.Config, a attempt) (status int, said string) {
	t.Helper()
	eventually(t, a.what, func() error {
		status, said = once(t, config, a)
		if status == http.StatusConflict {
			return fmt.Errorf("%d %s", status, said)
		}
		return nil
	})
	return status, said
}

func once(t *testing.T, config *rest.Config, a attempt) (int, string) {
	t.Helper()
	own := rest.CopyConfig(config)
	body := a.body
	switch body {
	case "own", "other": // what is there, so that nothing but who writes it matters
		report := &v1alpha1.NodeDatapath{}
		if err := town.Client.Get(t.Context(), client.ObjectKey{Name: strings.Split(strings.TrimPrefix(a.path, ours+"/nodedatapaths/"), "/")[0]}, report); err != nil {
			t.Fatal(err)
		}
		report.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("NodeDatapath"))
		text, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		body = string(text)
	default:
		if user, is := strings.CutPrefix(body, "impersonate:"); is {
			own.Impersonate.UserName, body = user, ""
		} else if group, is := strings.CutPrefix(body, "impersonate-group:"); is {
			own.Impersonate.UserName, own.Impersonate.Groups, body = "somebody", []string{group}, ""
		}
	}
	web, err := rest.HTTPClientFor(own)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), a.method, own.Host+a.path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if a.method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := web.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(io.LimitReader(response.Body, 500))
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(said)
}

// RBAC alone lets an agent write the report of another node. The test keeps
// docs/security.md honest about it.
func TestWithoutTheGuardAnAgentReportsForOthers(t *testing.T) {
	inMode(t, v1alpha1.GuardOff)
	config, err := town.AgentConfig(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	var other attempt
	for _, a := range attempts {
		if a.body == "other" {
			other = a
		}
	}
	eventually(t, "the guard is off", func() error {
		if status, said := try(t, config, other); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, said)
		}
		return nil
	})
}

// inMode has the guard in a mode for as long as the test runs.
func inMode(t *testing.T, mode v1alpha1.GuardMode) {
	t.Helper()
	installation := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}
	installation.Spec.Guard = mode
	if err := town.Client.Create(t.Context(), installation); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := town.Client.Delete(context.Background(), installation); err != nil {
			t.Error(err)
		}
	})
}
