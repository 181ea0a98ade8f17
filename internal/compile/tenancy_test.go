package compile

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func TestMayDraw(t *testing.T) {
	in := func(operator metav1.LabelSelectorOperator, values ...string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: operator, Values: values}}}
	}
	labels := map[string]string{"team": "payments"}
	for _, c := range []struct {
		name string
		to   v1alpha1.AllocateTo
		want bool
	}{
		{"nothing set", v1alpha1.AllocateTo{}, false},
		{"by name", v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"till", "shop"}}, true},
		{"another name", v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"shop2", "sho"}}, false},
		{"an empty selector", v1alpha1.AllocateTo{NamespaceSelector: &metav1.LabelSelector{}}, true},
		{"by a label", v1alpha1.AllocateTo{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "payments"}}}, true},
		{"by another label", v1alpha1.AllocateTo{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "till"}}}, false},
		{"In", v1alpha1.AllocateTo{NamespaceSelector: in(metav1.LabelSelectorOpIn, "till", "payments")}, true},
		{"NotIn", v1alpha1.AllocateTo{NamespaceSelector: in(metav1.LabelSelectorOpNotIn, "payments")}, false},
		{"Exists", v1alpha1.AllocateTo{NamespaceSelector: in(metav1.LabelSelectorOpExists)}, true},
		{"DoesNotExist", v1alpha1.AllocateTo{NamespaceSelector: in(metav1.LabelSelectorOpDoesNotExist)}, false},
		{"what can't be read", v1alpha1.AllocateTo{NamespaceSelector: in("Near", "payments")}, false},
		{"what can't be read, by name", v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"shop"}, NamespaceSelector: in("Near", "payments")}, true},
		{"by name or by label", v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"till"}, NamespaceSelector: in(metav1.LabelSelectorOpExists)}, true},
	} {
		if got := MayDraw(&v1alpha1.NodePortPool{Spec: v1alpha1.NodePortPoolSpec{AllocateTo: c.to}}, "shop", labels); got != c.want {
			t.Errorf("%s: MayDraw = %v", c.name, got)
		}
	}
}

func TestPriorityOf(t *testing.T) {
	for _, c := range []struct {
		given *int32
		want  int32
	}{{nil, 50}, {ptr.To[int32](0), 0}, {ptr.To[int32](1000), 1000}} {
		p := v1alpha1.NodePortPool{}
		p.Spec.AllocateTo.Priority = c.given
		if got := PriorityOf(&p); got != c.want {
			t.Errorf("PriorityOf = %d, want %d", got, c.want)
		}
	}
}
