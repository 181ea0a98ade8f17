// Package guard holds the admission policies of internal/guard to what they
// promise, by a real API server: who is refused what, in which words, and who is
// not. Nearly all requests are dry runs, which admission judges like any other.
//
//	manager ──► policies, bindings ─┐
//	admin ───► pools ───────────────┴─► API server ◄── attempts of people, agents and the manager
//	                                        └─► its own findings (type checking), its audit log
//
// The API server learns of policies, bindings and pools a moment after they are
// written. So a mode or a pool is awaited by an attempt that must be refused; what
// is to pass is tried only then.
package guard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// within bounds every wait.
const within = 20 * time.Second

var (
	cluster *lab.Cluster
	// auditLog is the API server's.
	auditLog string

	// admin has every right that RBAC gives, and is not system:masters.
	admin   *person
	manager *person
	// restorer is one of the platform's team, impersonating the group for restores
	// with the rights that docs/guard.md gives.
	restorer *person
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	ctrllog.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "portreeve-guard-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	audit := filepath.Join(dir, "audit.yaml")
	if err := os.WriteFile(audit, []byte(`{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}`), 0o600); err != nil {
		return fail(err)
	}
	auditLog = filepath.Join(dir, "audit.log")
	cluster, err = lab.Start(ctx, lab.Options{
		ControllerManager: true, // it checks the types in policies
		APIServerFlags:    []string{"--audit-policy-file", audit, "--audit-log-path", auditLog},
	})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if err := setUp(ctx); err != nil {
		return fail(err)
	}
	code := m.Run()
	if err := nothingIgnored(); err != nil {
		fail(err)
		code = max(code, 1)
	}
	return code
}

// ignored is the API server's metric for evaluations that failed and let the
// request pass, for policies as they are.
var ignored = regexp.MustCompile(`(?m)^apiserver_validating_admission_policy_check_total\{enforcement_action="allow",error_type="(compile_error|invalid_error|out_of_budget)",policy="portreeve-guard-[a-z-]*",.*$`)

// nothingIgnored says which evaluations the API server gave up on in all tests.
func nothingIgnored() error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	clientset, err := kubernetes.NewForConfig(cluster.RESTConfig())
	if err != nil {
		return err
	}
	data, err := clientset.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return err
	}
	if !bytes.Contains(data, []byte("apiserver_validating_admission_policy_check_total{")) {
		return errors.New("the API server counts no evaluations under the name that docs/guard.md gives")
	}
	if found := ignored.FindAll(data, -1); len(found) > 0 {
		return fmt.Errorf("evaluations that failed and were ignored:\n%s", bytes.Join(found, []byte("\n")))
	}
	return nil
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// strict is the namespace for which undeclared NodePort Services are refused.
const strict = "strict"

// undeclared picks it.
var undeclared = &metav1.LabelSelector{MatchLabels: map[string]string{"ports": "declared"}}

// anchor is a pool that is always there, for attempts that must be refused.
var anchor = newPool("anchor", "30000-30009")

func setUp(ctx context.Context) error {
	town, err := stage.New(ctx, cluster, "")
	if err != nil {
		return err
	}
	for _, o := range []client.Object{
		clusterRoleBinding("admin", "cluster-admin", rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "admin"}),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: strict, Labels: undeclared.MatchLabels}},
		anchor.DeepCopy(),
	} {
		if err := town.Client.Create(ctx, o); err != nil {
			return err
		}
	}
	config, err := cluster.UserConfig("admin")
	if err != nil {
		return err
	}
	if admin, err = newPerson(config, town.Client); err != nil {
		return err
	}
	if err := giveRightsOfThePage(ctx); err != nil {
		return err
	}
	if config, err = cluster.UserConfig("alice", "platform-team"); err != nil {
		return err
	}
	config.Impersonate = rest.ImpersonationConfig{UserName: "restore", Groups: []string{guard.Restorers}}
	if restorer, err = newPerson(config, town.Client); err != nil {
		return err
	}
	if config, err = town.ManagerConfig(ctx); err != nil {
		return err
	}
	if manager, err = newPerson(config, town.Client); err != nil {
		return err
	}
	return awaitServiceAccount(ctx, "default")
}

// giveRightsOfThePage applies the examples of RBAC in docs/guard.md.
func giveRightsOfThePage(ctx context.Context) error {
	page, err := os.ReadFile(filepath.Join(stage.Root(), "docs", "guard.md"))
	if err != nil {
		return err
	}
	applied := 0
	for _, block := range strings.Split(string(page), "\n```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "\n```")
		if strings.Contains(block, "apiVersion: rbac.authorization.k8s.io/v1") {
			applied++
			if err := cluster.ApplyYAML(ctx, nil, block); err != nil {
				return err
			}
		}
	}
	if applied == 0 {
		return errors.New("docs/guard.md has no example of RBAC")
	}
	return nil
}

// awaitServiceAccount returns when pods can be made in the namespace.
func awaitServiceAccount(ctx context.Context, namespace string) error {
	return poll(ctx, func() error {
		return admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "default"}, &corev1.ServiceAccount{})
	})
}

func clusterRoleBinding(name, role string, subject rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{subject},
	}
}

func newPool(name string, ranges ...v1alpha1.PortRange) *v1alpha1.NodePortPool {
	return &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.NodePortPoolSpec{Category: "web", Team: "payments", Ranges: ranges},
	}
}

// A person speaks to the API server and hears its warnings.
type person struct {
	client.Client
	ears *ears
}

type ears struct {
	mu    sync.Mutex
	heard []string
}

// HandleWarningHeader is called by the client.
func (e *ears) HandleWarningHeader(_ int, _ string, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = append(e.heard, text)
}

func (e *ears) empty() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer func() { e.heard = nil }()
	return e.heard
}

// newPerson is whom config says, with the kinds and resources of another client.
func newPerson(config *rest.Config, as client.Client) (*person, error) {
	config = rest.CopyConfig(config)
	p := &person{ears: &ears{}}
	config.WarningHandler = p.ears
	var err error
	p.Client, err = client.New(config, client.Options{Scheme: as.Scheme(), Mapper: as.RESTMapper()})
	return p, err
}

// An attempt is one request.
type attempt func(ctx context.Context, c client.Client) error

// try returns what became of an attempt, and the warnings of our policies.
func (p *person) try(ctx context.Context, a attempt) (warnings []string, err error) {
	p.ears.empty()
	err = a(ctx, p)
	for _, text := range p.ears.empty() {
		if strings.Contains(text, "ValidatingAdmissionPolicy 'portreeve-guard-") {
			warnings = append(warnings, text)
		}
	}
	return warnings, err
}

// refused says what is wrong with an answer that should be a refusal by a policy
// with all of these words.
func refused(err error, policy string, words ...string) error {
	if !apierrors.IsForbidden(err) {
		return fmt.Errorf("%v; want a refusal by %s", err, policy)
	}
	for _, word := range append(words, "ValidatingAdmissionPolicy '"+policy+"' with binding '"+policy+"' denied request: ") {
		if !strings.Contains(err.Error(), word) {
			return fmt.Errorf("%q does not say %q", err, word)
		}
	}
	return nil
}

// passed says what is wrong with an answer in which no policy should show.
func passed(warnings []string, err error) error {
	if err != nil || len(warnings) > 0 {
		return fmt.Errorf("refused: %v, warnings: %q; want it to pass", err, warnings)
	}
	return nil
}

// A trial is somebody's attempt, and the words of the refusal; none: it passes.
type trial struct {
	who     *person
	attempt attempt
	want    []string
}

func try(t *testing.T, policy string, trials map[string]trial) {
	t.Helper()
	for name, c := range trials {
		t.Run(name, func(t *testing.T) {
			warnings, err := c.who.try(t.Context(), c.attempt)
			problem := passed(warnings, err)
			if len(c.want) > 0 {
				problem = refused(err, policy, c.want...)
			}
			if problem != nil {
				t.Error(problem)
			}
		})
	}
}

// eventually waits for something to be right.
func eventually(t *testing.T, what string, look func() error) {
	t.Helper()
	if err := poll(t.Context(), look); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func poll(ctx context.Context, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// create makes an object for the length of the test.
func create(t *testing.T, who *person, o client.Object) {
	t.Helper()
	if err := who.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := who.Delete(context.Background(), o); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
}

// addPool makes a pool for the length of the test, and waits for the policies to
// see it come, and go, by an attempt on a number of it that nobody holds.
func addPool(t *testing.T, pool *v1alpha1.NodePortPool, number int32) {
	t.Helper()
	seen := func(ctx context.Context) error {
		_, err := admin.try(ctx, dryCreate(nodePortService(number)))
		return refused(err, guard.Ports, pool.Name)
	}
	t.Cleanup(func() { // after the pool's own
		if err := poll(context.Background(), func() error {
			if seen(context.Background()) == nil {
				return fmt.Errorf("pool %s is still judged after its deletion", pool.Name)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	create(t, admin, pool)
	eventually(t, "pool "+pool.Name, func() error { return seen(t.Context()) })
}

func dryCreate(o client.Object) attempt {
	return func(ctx context.Context, c client.Client) error {
		return c.Create(ctx, o.DeepCopyObject().(client.Object), client.DryRunAll)
	}
}

// dryUpdate changes an object as the API server has it.
func dryUpdate[T client.Object](o T, change func(T)) attempt {
	return func(ctx context.Context, c client.Client) error {
		o := o.DeepCopyObject().(T)
		if err := admin.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return c.Update(ctx, o, client.DryRunAll)
	}
}

// dryStatus is dryUpdate of the status.
func dryStatus[T client.Object](o T, change func(T)) attempt {
	return func(ctx context.Context, c client.Client) error {
		o := o.DeepCopyObject().(T)
		if err := admin.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return c.Status().Update(ctx, o, client.DryRunAll)
	}
}

func dryDelete(o client.Object) attempt {
	return func(ctx context.Context, c client.Client) error {
		return c.Delete(ctx, o.DeepCopyObject().(client.Object), client.DryRunAll)
	}
}

// service is a Service in namespace default with one port.
func service(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443}}},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

// nodePortService is a Service that asks for numbers; 0 for any.
func nodePortService(numbers ...int32) *corev1.Service {
	return service(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports = nil
		for i, n := range numbers {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(1 + i), NodePort: n})
		}
	})
}

func named[T client.Object](name string, o T) T {
	o.SetName(name)
	return o
}

func changed[T client.Object](o T, change func(T)) T {
	change(o)
	return o
}
