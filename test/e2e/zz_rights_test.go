package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
	"github.com/portreeve/portreeve/test/stage"
)

// auditLog is where the API server says what our programs, and an auditor, asked of it.
var auditLog string

// users by the roles that are theirs.
var users = map[string]string{
	"portreeve-manager":                 "system:serviceaccount:portreeve-system:portreeve-manager",
	"portreeve-manager-fronts":          "system:serviceaccount:portreeve-system:portreeve-manager",
	"portreeve-manager-records":         "system:serviceaccount:portreeve-system:portreeve-manager",
	"portreeve-manager-networkpolicies": "system:serviceaccount:portreeve-system:portreeve-manager",
	"portreeve-agent":                   "system:serviceaccount:portreeve-system:portreeve-agent",
	"portreeve-auditor":                 "jo-auditors",
}

// auditing has the API server log what those users ask for, and nothing else.
func auditing() (flags []string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "portreeve-audit-")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	policy := filepath.Join(dir, "policy.yaml")
	auditLog = filepath.Join(dir, "audit.log")
	named := slices.Compact(slices.Sorted(maps.Values(users)))
	// A watch is logged when it begins: many last until the lab ends.
	text := fmt.Sprintf(`{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata","users":["%s"]},{"level":"None"}]}`,
		strings.Join(named, `","`))
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		return nil, remove, err
	}
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + auditLog, "--audit-log-maxsize=4096"}, remove, nil
}

// atom is one verb on one resource that a role grants.
type atom struct {
	Role, Verb string
	Resource   string // with its group and subresource: deployments.apps/scale
}

// granted are the atoms of all roles in config/rbac that users have, with the names that
// they are limited to.
func granted(t *testing.T) map[atom][]string {
	t.Helper()
	all := map[atom][]string{}
	files, err := filepath.Glob(filepath.Join(stage.Root(), "config", "rbac", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for decoder := utilyaml.NewYAMLOrJSONDecoder(file, 4096); ; {
			var role rbacv1.ClusterRole // as good as a Role
			if err := decoder.Decode(&role); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if users[role.Name] == "" || role.Kind != "ClusterRole" && role.Kind != "Role" {
				continue
			}
			for _, rule := range role.Rules {
				for _, group := range rule.APIGroups {
					for _, resource := range rule.Resources {
						for _, verb := range rule.Verbs {
							all[atom{role.Name, verb, spell(group, resource)}] = rule.ResourceNames
						}
					}
				}
			}
		}
	}
	return all
}

func spell(group, resource string) string {
	resource, sub, is := strings.Cut(resource, "/")
	if group != "" {
		resource += "." + group
	}
	if is {
		resource += "/" + sub
	}
	return resource
}

// request is what the audit log says of one.
type request struct {
	User        struct{ Username string }
	Verb        string
	ObjectRef   *struct{ Resource, Subresource, APIGroup, Name string }
	Annotations map[string]string
}

// requests are those that were allowed.
func requests(t *testing.T) (all []request) {
	t.Helper()
	file, err := os.Open(auditLog)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			continue // the API server was killed while it wrote the line
		}
		if r.ObjectRef != nil && r.Annotations["authorization.k8s.io/decision"] == "allow" {
			all = append(all, r)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// Every right of our programs, and of an auditor, was used in some test of this package,
// or is explained; what nobody uses must not be granted.
func TestEveryRightIsUsed(t *testing.T) {
	if only := flag.Lookup("test.run").Value.String(); only != "" {
		t.Skipf("only -run %s was run, so most rights were not used", only)
	}
	s := open(t, "rights", "30385-30389")
	s.scraped()
	s.guarded()
	rights := granted(t)
	used := map[atom]bool{}
	for _, r := range requests(t) {
		resource := r.ObjectRef.Resource
		if r.ObjectRef.Subresource != "" {
			resource += "/" + r.ObjectRef.Subresource
		}
		for role, user := range users {
			a := atom{role, r.Verb, spell(r.ObjectRef.APIGroup, resource)}
			if names, has := rights[a]; user == r.User.Username && has && (len(names) == 0 || slices.Contains(names, r.ObjectRef.Name)) {
				used[a] = true
			}
		}
	}
	for _, problem := range unexplained(t, rights, used) {
		t.Error(problem)
	}
	t.Logf("%d rights, %d of them used", len(rights), len(used))
}

// unexplained compares what is not used with what is explained.
func unexplained(t *testing.T, rights map[atom][]string, used map[atom]bool) (problems []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/unused-rights.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var explained []struct {
		Why      string   `json:"why"`
		Verb     string   `json:"verb"`
		Of       []string `json:"of"`
		Resource []string `json:"resources"`
		// Sometimes it is used: time tells, not the test.
		Sometimes bool `json:"sometimes"`
	}
	if err := yaml.UnmarshalStrict(text, &explained); err != nil {
		t.Fatal(err)
	}
	reasons := map[atom]bool{}
	for _, e := range explained {
		if e.Why == "" {
			problems = append(problems, fmt.Sprintf("%+v is there without a reason", e))
		}
		for _, role := range e.Of {
			for _, resource := range e.Resource {
				a := atom{role, e.Verb, resource}
				reasons[a] = true
				if _, exists := rights[a]; !exists {
					problems = append(problems, fmt.Sprintf("%v is explained, and nobody has it", a))
				} else if used[a] && !e.Sometimes {
					problems = append(problems, fmt.Sprintf("%v is explained, and used", a))
				}
			}
		}
	}
	for a := range rights {
		if !used[a] && !reasons[a] {
			problems = append(problems, fmt.Sprintf("%s may %s %s, and never does: take the right away", a.Role, a.Verb, a.Resource))
		}
	}
	slices.Sort(problems)
	return problems
}

// guarded has the guard switched, and put right after a hand in it.
func (s *scene) guarded() {
	s.Helper()
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: guard.Ports}}
	edit(s, policy, func(p *admissionv1.ValidatingAdmissionPolicy) { p.Spec.FailurePolicy = ptr.To(admissionv1.Fail) })
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.Guard = v1alpha1.GuardEnforce })
	s.eventually("the guard is right, and enforces", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		binding := &admissionv1.ValidatingAdmissionPolicyBinding{}
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), binding); err != nil {
			return err
		}
		if *policy.Spec.FailurePolicy != admissionv1.Ignore || !slices.Contains(binding.Spec.ValidationActions, admissionv1.Deny) {
			return fmt.Errorf("%s %v", *policy.Spec.FailurePolicy, binding.Spec.ValidationActions)
		}
		return nil
	})
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.Guard = v1alpha1.GuardOff })
	s.eventually("the guard is off", func() error {
		err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), &admissionv1.ValidatingAdmissionPolicyBinding{})
		if err == nil {
			return fmt.Errorf("%s is bound", policy.Name)
		}
		return client.IgnoreNotFound(err)
	})
}

// scraped has a manager asked for its metrics, one that stands by.
func (s *scene) scraped() {
	s.Helper()
	const address = "127.0.0.1:8444"
	standby, err := town.RunManager(s.ctx, "standby", nil, "--metrics-secure=true", "--metrics-bind-address", address, "--health-probe-bind-address=0")
	if err != nil {
		s.Fatal(err)
	}
	defer standby.Kill()
	account, err := town.ServiceAccountConfig(s.ctx, s.namespace, "default", nil)
	if err != nil {
		s.Fatal(err)
	}
	web := &http.Client{Transport: &http.Transport{
		DialContext: town.ControlPlane().DialContext, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // nobody has signed it: docs/security.md
	}}
	s.eventually("who has no right to metrics is refused", func() error {
		r, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "https://"+address+"/metrics", nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+account.BearerToken)
		response, err := web.Do(r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusForbidden {
			return fmt.Errorf("status %d", response.StatusCode)
		}
		return nil
	})
}
