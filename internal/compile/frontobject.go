package compile

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// over writes what a door decides of an object's metadata; labels and annotations of
// others stay.
func (d Door) over(o metav1.Object) {
	merged := func(have, want map[string]string) map[string]string {
		all := maps.Clone(have)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, want)
		return all
	}
	o.SetLabels(merged(o.GetLabels(), d.Labels))
	o.SetAnnotations(merged(o.GetAnnotations(), d.Annotations))
	o.SetOwnerReferences(d.OwnerReferences)
}

// Endpoint returns a door as the DNSEndpoint that must be, on top of have.
func (d Door) Endpoint(have *unstructured.Unstructured) *unstructured.Unstructured {
	want := &unstructured.Unstructured{Object: map[string]any{}}
	if have != nil {
		want = have.DeepCopy()
	}
	want.SetGroupVersionKind(DNSEndpoint)
	want.SetNamespace(d.Namespace)
	want.SetName(d.Name)
	d.over(want)
	want.Object["spec"] = map[string]any{"endpoints": d.Records}
	return want
}

// ConfigMap returns a door as the ConfigMap that must be, on top of have.
func (d Door) ConfigMap(have *corev1.ConfigMap) *corev1.ConfigMap {
	want := &corev1.ConfigMap{ObjectMeta: d.ObjectMeta, Data: d.Data}
	if have != nil {
		want = have.DeepCopy()
		d.over(want)
		want.Data, want.BinaryData = d.Data, nil
	}
	return want
}
