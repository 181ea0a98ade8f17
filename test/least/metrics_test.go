package least

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// scrape asks the manager for its metrics with a bearer token, if any.
func scrape(t *testing.T, token string) (int, string, error) {
	t.Helper()
	web := &http.Client{Transport: &http.Transport{
		DialContext: town.ControlPlane().DialContext, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // nobody has signed it: docs/security.md
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := web.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// Metrics are for whom portreeve-metrics-reader is bound to, over TLS.
func TestMetricsAskWhoReads(t *testing.T) {
	answers := func(who, token string, want int) (body string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s gets %d", who, want), func() error {
			status, text, err := scrape(t, token)
			if err == nil && status != want {
				err = fmt.Errorf("status %d: %s", status, text)
			}
			body = text
			return err
		})
		return body
	}
	for who, c := range map[string]struct {
		token string
		want  int
	}{"nobody": {"", 401}, "a stranger": {"stranger", 401}, "an account without a right": {serviceAccount(t, "curious").BearerToken, 403}} {
		if body := answers(who, c.token, c.want); strings.Contains(body, "portreeve_") {
			t.Errorf("%s reads %s", who, body)
		}
	}
	prometheus := serviceAccount(t, "prometheus").BearerToken
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "prometheus-reads-portreeve"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "portreeve-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "prometheus"}},
	}
	if err := town.Client.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	if body := answers("Prometheus", prometheus, 200); !strings.Contains(body, "controller_runtime_reconcile_total") {
		t.Errorf("no metrics: %s", body)
	}
	web := &http.Client{Transport: &http.Transport{DialContext: town.ControlPlane().DialContext, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := web.Do(request); err == nil {
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			t.Error("metrics are served in plain text")
		}
	}
}
