package packaging

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// Chart returns the templates of the Helm chart for the objects of config/all. What a
// value decides is put in as JSON, which is YAML and needs no indentation.
func Chart(all []Object) (Files, error) {
	files := Files{}
	for _, object := range all {
		template, err := template(object)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", object.ID(), err)
		}
		kind, name := strings.ToLower(object.Text("kind")), object.Text("metadata", "name")
		files["templates/"+kind+"-"+name+".yaml"] = "# Generated from config/ by make generate.\n" + template
	}
	return files, nil
}

// optional is which value says that objects of a kind, or this one, are wanted.
var optional = map[string]string{
	"Namespace":                "namespace.create",
	"CustomResourceDefinition": "crds.install",
	"NetworkPolicy":            "networkPolicy.enabled",
	"PodMonitor":               "prometheus.enabled",
	"ServiceMonitor":           "prometheus.enabled",
	"Service":                  "prometheus.enabled",
	"ConfigMap":                "prometheus.enabled", // the dashboard
	"PrometheusRule":           "prometheus.enabled",

	"ClusterRoleBinding portreeve-manager-fronts":          "grants.fronts",
	"ClusterRoleBinding portreeve-manager-networkpolicies": "grants.networkPolicies",
	"ClusterRoleBinding portreeve-manager-records":         "grants.records",
}

func template(object Object) (string, error) {
	var inserts []string
	insert := func(action string) string { // a place in the YAML where the action is to stand
		inserts = append(inserts, action)
		return fmt.Sprintf("insert-%03d-here", len(inserts)-1)
	}
	switch object.Text("kind") {
	case "Deployment":
		object.fields("spec")["replicas"] = insert("{{ toJson .Values.manager.replicas }}")
		workload(object, "manager", insert)
	case "DaemonSet":
		if err := boot(object.fields("spec", "template", "spec"), insert); err != nil {
			return "", err
		}
		workload(object, "agent", insert)
	case "ServiceAccount":
		component := strings.TrimPrefix(object.Text("metadata", "name"), "portreeve-")
		object.fields("metadata")["annotations"] = insert("{{ toJson .Values." + component + ".serviceAccountAnnotations }}")
	case "CustomResourceDefinition": // with them every policy would go, and every claim
		object.fields("metadata", "annotations")["helm.sh/resource-policy"] = "keep"
	}
	text, err := yaml.Marshal(object)
	if err != nil {
		return "", err
	}
	out := strings.ReplaceAll(string(text), "{{", `{{ "{{" }}`)
	for _, field := range []string{"namespace: ", "  name: "} {
		out = strings.ReplaceAll(out, field+Namespace+"\n", field+"{{ .Release.Namespace }}\n")
	}
	for i, action := range inserts {
		out = strings.ReplaceAll(out, fmt.Sprintf("insert-%03d-here", i), action)
	}
	if value := cmp.Or(optional[object.ID()], optional[object.Text("kind")]); value != "" {
		out = "{{- if .Values." + value + " }}\n" + out + "{{- end }}\n"
	}
	return out, nil
}

// workload lets values decide where and how the pods of a component run.
func workload(object Object, component string, insert func(string) string) {
	pod, container := object.fields("spec", "template", "spec"), object.container()
	values := ".Values." + component
	added := func(field, value string) string { // to what stands there
		have, err := json.Marshal(container[field])
		if err != nil {
			panic(err) // it came from YAML
		}
		return insert(fmt.Sprintf("{{ toJson (concat (fromJsonArray `%s`) %s.%s) }}", have, values, value))
	}
	container["args"] = added("args", "extraArgs")
	container["env"] = added("env", "extraEnv")
	container["image"] = insert(image(component))
	for _, field := range []string{"nodeSelector", "tolerations", "priorityClassName"} {
		pod[field] = insert("{{ toJson " + values + "." + field + " }}")
	}
	pod["imagePullSecrets"] = insert("{{ toJson .Values.imagePullSecrets }}")
	container["resources"] = insert("{{ toJson " + values + ".resources }}")
}

func image(component string) string {
	return fmt.Sprintf(`{{ required "set %[1]s.image: no images are published" .Values.%[1]s.image | toJson }}`, component)
}

// boot puts the container that brings the boot unit's program under a value.
func boot(pod Object, insert func(string) string) error {
	containers, ok := pod["initContainers"].([]any)
	if !ok || len(containers) != 1 {
		return fmt.Errorf("want one init container, of config/agent/boot")
	}
	const here = "image-here"
	containers[0].(map[string]any)["image"] = here
	text, err := json.Marshal(containers)
	if err != nil {
		return err
	}
	pod["initContainers"] = insert("{{ if .Values.agent.bootProgram }}" + strings.Replace(string(text), `"`+here+`"`, image("agent"), 1) + "{{ else }}[]{{ end }}")
	return nil
}
