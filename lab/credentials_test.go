package lab_test

import (
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/portreeve/portreeve/lab"
)

// A token bound to a Node says so, and is worth nothing once the Node is gone.
func TestTokenBoundToANodeNamesItAndEndsWithIt(t *testing.T) {
	c := start(t, lab.Options{ControllerManager: true}) // which makes the ServiceAccount
	admin, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	node := createNode(t, admin, "worker")
	cfg, err := c.ServiceAccountConfig(t.Context(), "default", "default", node)
	if err != nil {
		t.Fatal(err)
	}
	who, err := whoAmI(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	events := watchConfigMaps(t, c, cfg)

	for extra, want := range map[string]string{
		"authentication.kubernetes.io/node-name": "worker",
		"authentication.kubernetes.io/node-uid":  string(node.UID),
	} {
		if got := who.Extra[extra]; who.Username != "system:serviceaccount:default:default" || !slices.Equal(got, []string{want}) {
			t.Errorf("%s has %s=%v; want default's service account with %s", who.Username, extra, got, want)
		}
	}

	if err := admin.CoreV1().Nodes().Delete(t.Context(), "worker", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	createNode(t, admin, "worker") // of another UID
	deleted := time.Now()
	for err == nil {
		if time.Since(deleted) > soon {
			t.Fatalf("the token of a deleted Node is good for more than %s", soon)
		}
		time.Sleep(50 * time.Millisecond)
		_, err = whoAmI(t, cfg)
	}
	if !apierrors.IsUnauthorized(err) {
		t.Errorf("with a deleted Node's token: %v; want 401", err)
	}
	t.Logf("the token ended %s after its Node: %v", time.Since(deleted).Round(10*time.Millisecond), err)

	if out, err := c.Kubectl(t.Context(), "create", "configmap", "late"); err != nil {
		t.Fatal(out, err)
	}
	for seen := false; !seen; {
		select {
		case event := <-events:
			made, ok := event.Object.(*corev1.ConfigMap)
			seen = ok && made.Name == "late"
		case <-time.After(soon):
			t.Fatal("a watch that ran when its token ended shows nothing more")
		}
	}

	if _, err := c.ServiceAccountConfig(t.Context(), "default", "default", &corev1.Namespace{}); err == nil {
		t.Error("a token was bound to a Namespace")
	}
}

// watchConfigMaps watches as the bearer of cfg, from now on.
func watchConfigMaps(t *testing.T, c *lab.Cluster, cfg *rest.Config) <-chan watch.Event {
	t.Helper()
	if out, err := c.Kubectl(t.Context(), "create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount=default:default"); err != nil {
		t.Fatal(out, err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps("default")
	var now *corev1.ConfigMapList
	for deadline := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) { // until the binding is known
		if now, err = maps.List(t.Context(), metav1.ListOptions{}); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	events, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: now.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(events.Stop)
	return events.ResultChan()
}

func createNode(t *testing.T, client kubernetes.Interface, name string) *corev1.Node {
	t.Helper()
	node, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// whoAmI asks the API server whom it takes the bearer of cfg for.
func whoAmI(t *testing.T, cfg *rest.Config) (authenticationv1.UserInfo, error) {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(
		t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return review.Status.UserInfo, nil
}
