package api

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/portreeve/portreeve/lab"
)

// One API server serves all tests of the package; it starts with the first that
// asks for it.
var server struct {
	once    sync.Once
	cluster *lab.Cluster
	client  dynamic.Interface
	err     error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if server.cluster != nil {
		if err := server.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// apiServer has our definitions installed.
func apiServer(t *testing.T) dynamic.Interface {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the lab's API server needs root")
	}
	server.once.Do(func() { server.err = startServer(crdFiles(t)) })
	if server.err != nil {
		t.Fatal(server.err)
	}
	return server.client
}

func startServer(crds []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cluster, err := lab.Start(ctx, lab.Options{}) // etcd and the API server, nothing else
	if err != nil {
		return err
	}
	cluster.CloseOnInterrupt()
	server.cluster = cluster
	if err := cluster.Apply(ctx, crds...); err != nil {
		return err
	}
	server.client, err = dynamic.NewForConfig(cluster.RESTConfig())
	return err
}

// resource is where objects of a kind are.
func resource(client dynamic.Interface, k kind, namespace string) dynamic.ResourceInterface {
	r := client.Resource(schema.GroupVersionResource{
		Group: k.Spec.Group, Version: k.version().Name, Resource: k.Spec.Names.Plural,
	})
	if namespace != "" {
		return r.Namespace(namespace)
	}
	return r
}

// Strict, as kubectl asks for it: unknown and duplicate fields are refused.
var (
	dryCreate = metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	dryUpdate = metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
)

// create makes an object for the length of the test.
func create(t *testing.T, objects dynamic.ResourceInterface, object *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	have, err := objects.Create(t.Context(), object, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := objects.Delete(context.Background(), have.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return have
}

// refusal is one reason of the API server against one field.
type refusal struct{ field, message string }

// refusals takes an error of the API server apart.
func refusals(err error) []refusal {
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return nil
	}
	// Strict decoding speaks in one sentence: strict decoding error: unknown
	// field "spec.a", unknown field "spec.b".
	if message := status.ErrStatus.Message; apierrors.IsBadRequest(err) {
		var all []refusal
		for _, part := range strings.Split(message, `unknown field "`)[1:] {
			field, _, _ := strings.Cut(part, `"`)
			all = append(all, refusal{field, message})
		}
		return all
	}
	if status.ErrStatus.Details == nil {
		return nil
	}
	var all []refusal
	for _, cause := range status.ErrStatus.Details.Causes {
		field := cause.Field
		// A rule on a whole object has no path, so ours name the field themselves.
		if field == "<nil>" && strings.Contains(cause.Message, "metadata.name ") {
			field = "metadata.name"
		}
		all = append(all, refusal{field, cause.Message})
	}
	return all
}
