package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// fieldManager is what server-side apply records for the lab's own objects.
const fieldManager = "lab"

// Apply applies all objects of YAML files, as `kubectl apply --server-side`
// does: namespaces and CRDs first, which it awaits, then the others in order.
func (c *Cluster) Apply(ctx context.Context, files ...string) error {
	var objects []*unstructured.Unstructured
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		more, err := decode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, more...)
	}
	return ApplyObjects(ctx, c.RESTConfig(), objects...)
}

// ApplyYAML applies the objects of a YAML text as the user of cfg; nil means
// the lab itself.
func (c *Cluster) ApplyYAML(ctx context.Context, cfg *rest.Config, text string) error {
	objects, err := decode([]byte(text))
	if err != nil {
		return err
	}
	if cfg == nil {
		cfg = c.RESTConfig()
	}
	return ApplyObjects(ctx, cfg, objects...)
}

// ApplyObjects applies objects by server-side apply.
func ApplyObjects(ctx context.Context, cfg *rest.Config, objects ...*unstructured.Unstructured) error {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	clientset, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(clientset.Discovery()))
	objects = slices.Clone(objects)
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	for _, object := range objects {
		if err := applyOne(ctx, client, mapper, object); err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

func rank(object *unstructured.Unstructured) int {
	switch object.GetKind() {
	case "Namespace", "CustomResourceDefinition":
		return 0
	}
	return 1
}

func applyOne(ctx context.Context, client dynamic.Interface, mapper *restmapper.DeferredDiscoveryRESTMapper, object *unstructured.Unstructured) error {
	kind := object.GroupVersionKind()
	mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version) // asks the server again when it knows no such kind
	if err != nil {
		return err
	}
	resource := dynamic.ResourceInterface(client.Resource(mapping.Resource))
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := object.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		resource = client.Resource(mapping.Resource).Namespace(namespace)
	}
	_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil || kind.Kind != "CustomResourceDefinition" {
		return err
	}
	return awaitServed(ctx, client, mapper, object)
}

// awaitServed returns when the API server lists the kind of a CRD in discovery
// and answers for it; it says Established a moment before either.
func awaitServed(ctx context.Context, client dynamic.Interface, mapper *restmapper.DeferredDiscoveryRESTMapper, crd *unstructured.Unstructured) error {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		version, ok := v.(map[string]any)
		if !ok || version["served"] != true {
			continue
		}
		name, _ := version["name"].(string)
		err := errors.New("not asked yet")
		for ctx.Err() == nil && err != nil {
			mapper.Reset()
			var mapping *meta.RESTMapping
			if mapping, err = mapper.RESTMapping(schema.GroupKind{Group: group, Kind: kind}, name); err == nil {
				_, err = client.Resource(mapping.Resource).List(ctx, metav1.ListOptions{Limit: 1})
			}
			if err != nil {
				pause(ctx, retryPause/4)
			}
		}
		if err != nil {
			return fmt.Errorf("waiting until it is served: %w", err)
		}
	}
	return nil
}

func decode(data []byte) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		switch {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		case len(object.Object) > 0: // else: a comment between separators
			objects = append(objects, object)
		}
	}
}
