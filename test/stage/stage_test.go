package stage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

var town *stage.Stage

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin, err := stage.Build(ctx)
	defer os.RemoveAll(bin)
	if err != nil {
		return fail(err)
	}
	cluster, err := lab.Start(ctx, lab.Options{})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if town, err = stage.New(ctx, cluster, bin); err != nil {
		return fail(err)
	}
	town.Lease = 15 * time.Second // on a busy machine a leader of 2 s ends, which is not what is tried here
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// A CRD or role that is added to config/ is in every lab without a word here.
func TestEveryFileOfCRDAndRBACIsInstalled(t *testing.T) {
	objects := 0
	for _, dir := range []string{"crd", "rbac"} {
		files, err := os.ReadDir(filepath.Join(stage.Root(), "config", dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f.Name() == "kustomization.yaml" {
				continue
			}
			for _, object := range read(t, filepath.Join(stage.Root(), "config", dir, f.Name())) {
				objects++
				if err := town.Client.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
					t.Errorf("%s/%s: %s %s: %v", dir, f.Name(), object.GetKind(), object.GetName(), err)
				}
			}
		}
	}
	if objects < 10 {
		t.Errorf("config/ has %d objects: this test looks in the wrong place", objects)
	}
}

func read(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var objects []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(f, 4096); ; {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

// A rival works while another manager leads: that is what makes it one.
func TestARivalWorksBesideTheLeader(t *testing.T) {
	if err := town.StartManager(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	rival, err := town.RunRival(t.Context(), "rival", nil, "--metrics-bind-address", "127.0.0.1:8082")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rival.Kill(); town.Manager().Kill() })
	pool := &v1alpha1.NodePortPool{}
	pool.Name = "pool"
	pool.Spec = v1alpha1.NodePortPoolSpec{
		Category: "pool", Team: "team", Ranges: []v1alpha1.PortRange{"30500-30509"},
		AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"default"}},
	}
	if err := town.Client.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:8082"} {
		for deadline := time.Now().Add(20 * time.Second); !reconciles(t, address); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the manager at %s reconciles nothing\nrival: %s\nleader: %s", address, rival.Tail(5), town.Manager().Tail(5))
			}
		}
	}
	for _, p := range []*lab.Process{rival, town.Manager()} {
		select {
		case <-p.Done():
			t.Errorf("%s has ended: %s", p.Name, p.Tail(5))
		default:
		}
	}
}

var reconciled = regexp.MustCompile(`(?m)^controller_runtime_reconcile_total\{.*result="success"\} [1-9]`)

// reconciles asks the metrics of a manager whether it has reconciled anything.
func reconciles(t *testing.T, address string) bool {
	t.Helper()
	web := &http.Client{Transport: &http.Transport{DialContext: town.ControlPlane().DialContext, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := web.Do(request)
	if err != nil {
		return false // not up yet
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reconciled.Match(text)
}
