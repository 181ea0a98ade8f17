package lab_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/portreeve/portreeve/lab"
)

// A lab has numbers and addresses for ten thousand dual-stack NodePort Services,
// and its API server does not slow down who creates them with no limit of their
// own. At CI scale there are five hundred, at both ends of the range.
func TestTenThousandServicesFitAndNobodyIsThrottled(t *testing.T) {
	services := 500
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		services = 10_000
	}
	c := start(t, lab.Options{NodePortRange: "10000-39999"})
	cfg := creator(t, c)
	var refused atomic.Int64
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if err == nil && response.StatusCode == http.StatusTooManyRequests {
				refused.Add(1)
			}
			return response, err
		})
	})
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	var took []time.Duration
	var group errgroup.Group
	group.SetLimit(64) // in flight
	begin := time.Now()
	for i := range services {
		nodePort := 10_000 + i
		if i%2 == 1 {
			nodePort = 39_999 - i
		}
		group.Go(func() error {
			service := lab.EchoService("default", fmt.Sprintf("s-%d", i), int32(nodePort), selector)
			asked := time.Now()
			made, err := client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			if want := map[bool]int{false: 1, true: 2}[c.IPv6()]; len(made.Spec.ClusterIPs) != want {
				return fmt.Errorf("cluster IPs %v: want %d", made.Spec.ClusterIPs, want)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(asked))
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	all := time.Since(begin)
	slices.Sort(took)
	t.Logf("%d Services in %s, %.0f/s; p50 %s, p99 %s; %d answers 429", services, all.Round(time.Millisecond),
		float64(services)/all.Seconds(), took[services/2], took[services*99/100], refused.Load())
	if refused.Load() > 0 {
		t.Errorf("%d requests were refused with 429", refused.Load())
	}
	if all > time.Duration(services)*120*time.Millisecond { // a client of five a second takes longer
		t.Errorf("%d Services took %s", services, all)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// creator is a ServiceAccount that may make Services: unlike the lab's own access,
// it is subject to priority and fairness.
func creator(t *testing.T, c *lab.Cluster) *rest.Config {
	t.Helper()
	admin, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "creator"}}
	if _, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "creator"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "creator"}},
	}
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cfg, err := c.ServiceAccountConfig(t.Context(), "default", "creator", nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
