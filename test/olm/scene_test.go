package olm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

const (
	within    = 3 * time.Minute
	namespace = "portreeve-system"
)

// ours is what a person makes for us, as docs/install.md has it.
const ours = `
apiVersion: v1
kind: Namespace
metadata: {name: portreeve-system, labels: {pod-security.kubernetes.io/enforce: privileged}}
---
apiVersion: operators.coreos.com/v1alpha1
kind: CatalogSource
metadata: {name: portreeve, namespace: portreeve-system}
spec: {sourceType: grpc, address: "127.0.0.1:50051"}
---
apiVersion: operators.coreos.com/v1
kind: OperatorGroup
metadata: {name: portreeve, namespace: portreeve-system}
---
apiVersion: operators.coreos.com/v1alpha1
kind: Subscription
metadata: {name: portreeve, namespace: portreeve-system}
spec: {name: portreeve, channel: alpha, source: portreeve, sourceNamespace: portreeve-system}
`

type scene struct {
	*testing.T
	ctx      context.Context
	town     *lab.Cluster
	client   client.WithWatch
	programs map[string]string // OLM's, by name
	market   *lab.Client       // where the catalog and its operator run
	opm      *lab.Process      // serves the catalog
	office   *lab.Client
	object   *v1alpha1.Portreeve
	policy   *v1alpha1.NodePortPolicy
	port     uint16
}

// build compiles this tree's programs.
func build(t *testing.T) (context.Context, string) {
	t.Helper()
	ctrllog.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	t.Cleanup(cancel)
	bin, err := stage.Build(ctx)
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err != nil {
		t.Fatal(err)
	}
	return ctx, bin
}

// setUp starts a cluster whose nodes can run these releases, and in it OLM.
func setUp(ctx context.Context, t *testing.T, releases ...release) *scene {
	t.Helper()
	cluster, err := lab.Start(ctx, lab.Options{
		Nodes: 3, KubeProxy: lab.NFTables, ControllerManager: true, Scheduler: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS"),
		Images: images(releases...),
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster.CloseOnInterrupt()
	t.Cleanup(func() { cluster.Close() })
	s := &scene{T: t, ctx: ctx, town: cluster, programs: map[string]string{}}
	if s.client, err = stage.Client(cluster); err != nil {
		t.Fatal(err)
	}
	if s.office, err = cluster.AddClient("office", netip.MustParsePrefix("203.0.113.0/28")); err != nil {
		t.Fatal(err)
	}
	if s.market, err = cluster.AddClient("market"); err != nil {
		t.Fatal(err)
	}
	if err := s.startOLM(); err != nil {
		t.Fatal(err)
	}
	return s
}

// startOLM starts its two operators as a cluster's administrator, which they are.
func (s *scene) startOLM() error {
	for _, name := range []string{"opm", "olm", "catalog"} {
		find := exec.CommandContext(s.ctx, filepath.Join(stage.Root(), "hack/tools.sh"), name)
		find.Stderr = os.Stderr
		path, err := find.Output()
		if err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		s.programs[name] = strings.TrimSpace(string(path))
	}
	definitions, err := s.definitions()
	if err != nil {
		return err
	}
	if err := s.town.Apply(s.ctx, definitions...); err != nil {
		return err
	}
	if err := s.town.ApplyYAML(s.ctx, nil, "{apiVersion: v1, kind: Namespace, metadata: {name: olm}}"); err != nil {
		return err
	}
	kubeconfig, err := s.town.WriteKubeconfig("olm", s.town.RESTConfig())
	if err != nil {
		return err
	}
	// Each listens on 8080.
	_, err = s.town.Run(s.ctx, lab.Command{
		Name: "olm", Argv: []string{s.programs["olm"], "--namespace", "olm"},
		Env: []string{"KUBECONFIG=" + kubeconfig, "OPERATOR_NAMESPACE=olm", "OPERATOR_NAME=olm-operator"},
	})
	if err != nil {
		return err
	}
	_, err = s.town.Run(s.ctx, lab.Command{
		Name: "catalog", In: s.market.Namespace, Argv: []string{s.programs["catalog"], "--kubeconfig", kubeconfig, "--namespace", "olm"},
	})
	return err
}

// definitions are the files with OLM's own kinds.
func (s *scene) definitions() ([]string, error) {
	list := exec.CommandContext(s.ctx, "go", "-C", filepath.Join(stage.Root(), "hack/olm"), "mod", "download", "-json", "github.com/operator-framework/api")
	list.Stderr = os.Stderr
	text, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("find OLM's definitions: %w", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(text, &module); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(module.Dir, "crds/*.yaml"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no definitions", module.Dir)
	}
	return files, err
}

// offers has the catalog offer a release, in place of what it offered before.
func (s *scene) offers(r release) {
	s.Helper()
	if s.opm != nil {
		s.opm.Kill()
	}
	cache := filepath.Join(s.town.Dir(), "opm-"+r.name)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		s.Fatal(err)
	}
	var err error
	s.opm, err = s.town.Run(s.ctx, lab.Command{Name: "opm", In: s.market.Namespace, Argv: []string{
		s.programs["opm"], "serve", r.catalog, "--port", "50051", "--cache-dir", cache, "--cache-enforce-integrity=false",
		"--termination-log", filepath.Join(s.town.Dir(), "opm-termination.log"),
	}})
	if err != nil {
		s.Fatal(err)
	}
}

// subscribed is a person who wants us.
func (s *scene) subscribed() {
	s.Helper()
	if err := s.town.ApplyYAML(s.ctx, nil, ours); err != nil {
		s.Fatal(err)
	}
}

// installed waits until OLM has installed a release, and nothing else of ours is left.
func (s *scene) installed(r release) {
	s.Helper()
	s.eventually(r.name+" has Succeeded, and is the only one", func() error {
		all := &unstructured.UnstructuredList{}
		all.SetGroupVersionKind(schema.GroupVersionKind{Group: "operators.coreos.com", Version: "v1alpha1", Kind: "ClusterServiceVersionList"})
		if err := s.client.List(s.ctx, all, client.InNamespace(namespace)); err != nil {
			return err
		}
		var said []string
		done := false
		for i := range all.Items {
			phase, _, _ := unstructured.NestedString(all.Items[i].Object, "status", "phase")
			message, _, _ := unstructured.NestedString(all.Items[i].Object, "status", "message")
			done = all.Items[i].GetName() == r.name && phase == "Succeeded"
			said = append(said, all.Items[i].GetName()+" "+phase+": "+message)
		}
		if !done || len(all.Items) != 1 {
			return fmt.Errorf("there are %q", said)
		}
		return nil
	})
}

// planned waits until OLM has carried out its plans. It does so anew when a write of a plan's
// status, or a step, meets another write, and that goes on for many seconds after what
// was planned has Succeeded: whatever a person removes or replaces
// meanwhile is made again.
func (s *scene) planned() {
	s.Helper()
	s.eventually("OLM has carried out its plans", func() error {
		all := &unstructured.UnstructuredList{}
		all.SetGroupVersionKind(schema.GroupVersionKind{Group: "operators.coreos.com", Version: "v1alpha1", Kind: "InstallPlanList"})
		if err := s.client.List(s.ctx, all, client.InNamespace(namespace)); err != nil {
			return err
		}
		if len(all.Items) == 0 {
			return errors.New("there is no plan")
		}
		for i := range all.Items {
			if phase, _, _ := unstructured.NestedString(all.Items[i].Object, "status", "phase"); phase != "Complete" && phase != "Failed" {
				return fmt.Errorf("%s is %q", all.Items[i].GetName(), phase)
			}
		}
		return nil
	})
}

// eventually tries until there is no error, for a bounded time.
func (s *scene) eventually(what string, try func() error) {
	s.Helper()
	for deadline := time.Now().Add(within); ; {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			plans, _ := s.town.Kubectl(s.ctx, "get", "subscriptions.operators.coreos.com,installplans.operators.coreos.com,pods", "-n", namespace, "-o", "wide")
			s.Fatalf("not within %s: %s: %v\n%s", within, what, err, plans)
		}
		select {
		case <-s.ctx.Done():
			s.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
