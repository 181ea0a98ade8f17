package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/config/argocd"
)

// all are the scripts by the keys of Argo CD's ConfigMap.
var all = sync.OnceValues(func() (map[string]string, error) {
	data, err := argocd.Scripts.ReadFile("kustomization.yaml")
	if err != nil {
		return nil, err
	}
	var kustomization struct {
		ConfigMapGenerator []struct{ Files []string }
	}
	if err := yaml.Unmarshal(data, &kustomization); err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, generator := range kustomization.ConfigMapGenerator {
		for _, entry := range generator.Files {
			key, file, _ := strings.Cut(entry, "=")
			script, err := argocd.Scripts.ReadFile(file)
			if err != nil {
				return nil, err
			}
			found[key] = string(script)
		}
	}
	return found, nil
})

// Script returns the health script for a kind of ours, "" if there is none.
func Script(kind string) (string, error) {
	scripts, err := all()
	return scripts["resource.customizations.health.portreeve.dev_"+kind], err
}

// Argo runs the health script of the object's kind as Argo CD does: with the libraries
// base, table and package only. Argo CD ends it after a second; here it has ten, for a machine
// that is busy with other tests. A kind without a script is healthy.
func Argo(object *unstructured.Unstructured) (health, message string, err error) {
	script, err := Script(object.GetKind())
	if err != nil {
		return "", "", err
	}
	if script == "" {
		return "Healthy", "there is no script", nil
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, library := range map[string]lua.LGFunction{lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(library), Protect: true}, lua.LString(name)); err != nil {
			return "", "", err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the script returned a %s, want a table", state.Get(-1).Type())
	}
	health = lua.LVAsString(answer.RawGetString("status"))
	if !slices.Contains([]string{"Healthy", "Progressing", "Degraded", "Suspended"}, health) {
		return "", "", fmt.Errorf("the script returned status %q, which is none of Argo CD's", health)
	}
	return health, lua.LVAsString(answer.RawGetString("message")), nil
}

func value(state *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case bool:
		return lua.LBool(v)
	case string:
		return lua.LString(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	case []any:
		list := state.NewTable()
		for _, item := range v {
			list.Append(value(state, item))
		}
		return list
	case map[string]any:
		table := state.NewTable()
		for key, item := range v {
			table.RawSetString(key, value(state, item))
		}
		return table
	}
	return lua.LNil
}
