package api

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
)

// Every case of test/invalid is refused, and the refusal names the field, the
// value and the remedy.
func TestBadInputIsRefusedWithFieldValueAndRemedy(t *testing.T) {
	client := apiServer(t)
	tables := tables(t)
	for _, k := range kinds(t) {
		tab := tables[k.String()]
		base := &unstructured.Unstructured{Object: tab.Base}
		objects := resource(client, k, base.GetNamespace())
		t.Run(k.String(), func(t *testing.T) {
			if _, err := objects.Create(t.Context(), base, dryCreate); err != nil {
				t.Fatalf("the base itself is refused: %v", err)
			}
			for _, c := range tab.Cases {
				t.Run(c.name(), func(t *testing.T) { refuse(t, objects, tab.Base, c) })
			}
		})
	}
}

func refuse(t *testing.T, objects dynamic.ResourceInterface, base map[string]any, c badCase) {
	object, err := c.spoil(base)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case strings.HasPrefix(c.At, "status."): // a create drops the status unread
		have := create(t, objects, &unstructured.Unstructured{Object: runtime.DeepCopyJSON(base)})
		object.SetResourceVersion(have.GetResourceVersion())
		_, err = objects.UpdateStatus(t.Context(), object, dryUpdate)
	case c.Update:
		have := create(t, objects, &unstructured.Unstructured{Object: runtime.DeepCopyJSON(base)})
		object.SetResourceVersion(have.GetResourceVersion())
		_, err = objects.Update(t.Context(), object, dryUpdate)
	default:
		_, err = objects.Create(t.Context(), object, dryCreate)
	}
	if err == nil {
		t.Fatal("accepted")
	}
	value, _ := c.value() // read without error when the table was
	for _, r := range refusals(err) {
		if r.field == c.field() && strings.Contains(r.message, value) && strings.Contains(r.message, c.Remedy) {
			return
		}
	}
	t.Errorf("want field %s, value %q and remedy %q in\n%v", c.field(), value, c.Remedy, err)
}
