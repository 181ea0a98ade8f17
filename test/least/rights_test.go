package least

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// A manager lives without the rights that only some policies need. Each policy says which
// is missing and the line that grants it; that line is run as it stands, and what was
// asked for comes without a restart. A right that is taken away is told likewise.
func TestARightIsGrantedWhereItIsWanted(t *testing.T) {
	shop(t, "wanted", "30000-30019")
	for _, c := range []struct {
		name, condition, after string
		ask                    func(*v1alpha1.NodePortPolicySpec)
		made                   client.Object
	}{
		{"fronts", v1alpha1.Fronted, v1alpha1.ReasonOK, func(s *v1alpha1.NodePortPolicySpec) {
			s.Front = &v1alpha1.Front{Nginx: &v1alpha1.ProxyFront{ConfigMap: "front"}}
		}, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "front"}}},
		{"records", v1alpha1.Fronted, v1alpha1.ReasonExternalDNSNotFound, func(s *v1alpha1.NodePortPolicySpec) {
			s.Front = &v1alpha1.Front{DNS: &v1alpha1.DNSFront{Hostname: "shop.example.org"}}
		}, nil},
		{"networkpolicies", v1alpha1.Exposed, v1alpha1.ReasonOK, func(s *v1alpha1.NodePortPolicySpec) {
			s.NetworkPolicy = true
		}, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "networkpolicies-nodeport"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "wanted", Name: c.name}}
			policy.Spec = v1alpha1.NodePortPolicySpec{
				Category: "wanted", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: v1alpha1.CIDR(office.String())}},
			}
			c.ask(&policy.Spec)
			if err := town.Client.Create(t.Context(), policy); err != nil {
				t.Fatal(err)
			}
			line := says(t, policy, c.condition, v1alpha1.ReasonForbidden)
			proved(t, policy)
			_, command, found := strings.Cut(line, "kubectl ")
			if !found {
				t.Fatalf("no line that grants it: %s", line)
			}
			grant := func() {
				t.Helper()
				if out, err := town.Kubectl(t.Context(), strings.Fields(command)...); err != nil {
					t.Fatalf("%s: %v %s", command, err, out)
				}
				says(t, policy, c.condition, c.after)
			}
			grant()
			exists(t, c.made)

			binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "portreeve-manager-" + c.name}}
			if err := town.Client.Delete(t.Context(), binding); err != nil {
				t.Fatal(err)
			}
			if c.made != nil {
				remade(t, policy, c.made, c.condition)
			}
			grant()
			exists(t, c.made)
		})
	}
	select {
	case <-manager.Done():
		t.Errorf("the manager has ended: %s", manager.Tail(10))
	default:
	}
}

// remade deletes what the manager made, which it may not make anew, until the policy says
// so: the API server hears by a watch that the right is gone.
func remade(t *testing.T, policy *v1alpha1.NodePortPolicy, made client.Object, condition string) {
	t.Helper()
	eventually(t, "the policy says that the right is gone", func() error {
		made.SetNamespace(policy.Namespace)
		if err := town.Client.Delete(t.Context(), made); client.IgnoreNotFound(err) != nil {
			return err
		}
		_, err := reason(t, policy, condition, v1alpha1.ReasonForbidden)
		return err
	})
}

func exists(t *testing.T, made client.Object) {
	t.Helper()
	if made == nil {
		return
	}
	made.SetNamespace("wanted")
	eventually(t, fmt.Sprintf("%T %s is there", made, made.GetName()), func() error {
		return town.Client.Get(t.Context(), client.ObjectKeyFromObject(made), made)
	})
}

// says waits for the condition to have the reason, and returns its message.
func says(t *testing.T, policy *v1alpha1.NodePortPolicy, condition, want string) (message string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s of policy %s is %s", condition, policy.Name, want), func() (err error) {
		message, err = reason(t, policy, condition, want)
		return err
	})
	return message
}

func reason(t *testing.T, policy *v1alpha1.NodePortPolicy, condition, want string) (string, error) {
	t.Helper()
	if err := town.Client.Get(t.Context(), client.ObjectKeyFromObject(policy), policy); err != nil {
		return "", err
	}
	c := meta.FindStatusCondition(policy.Status.Conditions, condition)
	if c == nil || c.Reason != want {
		return "", fmt.Errorf("conditions: %+v", policy.Status.Conditions)
	}
	return c.Message, nil
}

// proved waits until every node enforces the policy: its port waits for no such right.
func proved(t *testing.T, policy *v1alpha1.NodePortPolicy) {
	t.Helper()
	eventually(t, "every node enforces policy "+policy.Name, func() error {
		if err := town.Client.Get(t.Context(), client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.HostEnforced) {
			return fmt.Errorf("conditions: %+v", policy.Status.Conditions)
		}
		return nil
	})
}
