package api

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// The schema of a label selector is ours, and the functions that read it are the API
// machinery's: a selector that these refuse must never be stored, and no other may be
// refused.
func TestLabelSelectorsAreJudgedAsTheyAreRead(t *testing.T) {
	client, base := apiServer(t), tables(t)["AddressSet"].Base
	for _, k := range kinds(t) {
		if k.String() != "AddressSet" {
			continue
		}
		for i, selector := range oddSelectors() {
			fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&selector)
			if err != nil {
				t.Fatal(err)
			}
			object, value := runtime.DeepCopyJSON(base), any(fields)
			if err := change(object, "spec.allowedFor.namespaceSelector", &value); err != nil {
				t.Fatal(err)
			}
			_, refused := resource(client, k, "").Create(t.Context(), &unstructured.Unstructured{Object: object}, dryCreate)
			_, unread := metav1.LabelSelectorAsSelector(&selector)
			if (refused == nil) != (unread == nil) {
				t.Errorf("selector %d, %s: the API server says %v, its readers %v", i, metav1.FormatLabelSelector(&selector), refused, unread)
			}
		}
	}
}

// oddSelectors are good and bad ones, and those at the limits between.
func oddSelectors() []metav1.LabelSelector {
	var all []metav1.LabelSelector
	for _, key := range []string{
		"team", "Team", "t", "7", "a.b_c-d", "example.com/team", "a/b", "0/0", "x-1.y/Z",
		"", "/", "team/", "/team", "a/b/c", "-team", "team-", "_t", "t.", "my team", "t\u00e9am", "team\n", "*", "a*",
		"Example.com/team", "example..com/team", ".com/team", "com./team", "-a/team", "a-/team", "a_b/team",
		strings.Repeat("k", 63), strings.Repeat("k", 64),
		strings.Repeat("p", 253) + "/" + strings.Repeat("k", 63), strings.Repeat("p", 254) + "/k", strings.Repeat("p.", 126) + "p/k",
	} {
		all = append(all,
			metav1.LabelSelector{MatchLabels: map[string]string{key: "v"}},
			metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpExists}}})
	}
	for _, value := range []string{
		"", "v", "7", "True", "a.b_c-d", "v-", "-v", "_", "two words", "v\n", "v/w", "v*", "\u00e9",
		strings.Repeat("v", 63), strings.Repeat("v", 64),
	} {
		all = append(all,
			metav1.LabelSelector{MatchLabels: map[string]string{"team": value}},
			metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"v", value}}}})
	}
	for _, operator := range []string{"In", "NotIn", "Exists", "DoesNotExist", "", "in", "Equals", "Gt"} {
		for n := range 3 {
			requirement := metav1.LabelSelectorRequirement{Key: "team", Operator: metav1.LabelSelectorOperator(operator)}
			for i := range n {
				requirement.Values = append(requirement.Values, fmt.Sprint("v", i))
			}
			all = append(all, metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{requirement}})
		}
	}
	return append(all, metav1.LabelSelector{})
}
