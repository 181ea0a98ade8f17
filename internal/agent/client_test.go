package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Each kind is listed where it is served, and of the Node and the installation
// nothing but their own.
func TestClientAsksForNoMoreThanItNeeds(t *testing.T) {
	want := [kinds]string{
		kindPools:        "/apis/portreeve.dev/v1alpha1/nodeportpools?",
		kindAllocations:  "/apis/portreeve.dev/v1alpha1/nodeportallocations?",
		kindAddressSets:  "/apis/portreeve.dev/v1alpha1/addresssets?",
		kindGatewaySets:  "/apis/portreeve.dev/v1alpha1/gatewaysets?",
		kindInstallation: "/apis/portreeve.dev/v1alpha1/portreeves?fieldSelector=metadata.name%3Dcluster",
		kindNode:         "/api/v1/nodes?fieldSelector=metadata.name%3Dn1",
	}
	var asked, accepted string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, accepted = r.URL.Path+"?"+r.URL.RawQuery, r.Header.Get("Accept")
		w.Header().Set("Content-Type", "application/json")
		body := `{"kind":"List","apiVersion":"portreeve.dev/v1alpha1","metadata":{"resourceVersion":"7"},"items":[]}`
		if strings.HasPrefix(asked, "/api/v1/") {
			body = `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"7"},"items":[{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"n1","labels":{"zone":"a"}}}]}`
		}
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	client, err := NewClient(&rest.Config{Host: server.URL}, "n1")
	if err != nil {
		t.Fatal(err)
	}
	for k, source := range client.Sources() {
		list, err := source.ListWithContext(t.Context(), metav1.ListOptions{})
		if asked != want[k] {
			t.Errorf("%s: asked for %s, want %s", kind(k), asked, want[k])
		}
		if kind(k) != kindNode {
			continue
		}
		nodes, ok := list.(*metav1.PartialObjectMetadataList)
		if err != nil || !ok || len(nodes.Items) != 1 || nodes.Items[0].Labels["zone"] != "a" {
			t.Errorf("the Node: %+v, %v", list, err)
		}
		if !strings.Contains(accepted, "as=PartialObjectMetadataList") {
			t.Errorf("the Node: accepts %s, want its metadata only", accepted)
		}
	}
}
