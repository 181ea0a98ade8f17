package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// table is one file of test/invalid; its README.md explains the keys.
type table struct {
	Base  map[string]any `json:"base"`
	Cases []badCase      `json:"cases"`
}

type badCase struct {
	At     string           `json:"at"`
	Put    *json.RawMessage `json:"put"`
	Times  int              `json:"times"`
	With   map[string]any   `json:"with"`
	Update bool             `json:"update"`
	Field  *string          `json:"field"`
	Value  *any             `json:"value"`
	Remedy string           `json:"remedy"`
}

// null tells `put: null` from no put at all, which JSON decodes alike.
func (c *badCase) UnmarshalJSON(data []byte) error {
	type plain badCase
	keys := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &keys); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode((*plain)(c)); err != nil {
		return fmt.Errorf("%s: %w", data, err)
	}
	if put, ok := keys["put"]; ok {
		c.Put = &put
	}
	return nil
}

// name of the case, for people: the place and the value.
func (c badCase) name() string {
	what := "absent"
	if c.Put != nil {
		what = string(*c.Put)
	}
	if c.Times > 0 {
		what = fmt.Sprintf("%d times %s", c.Times, what)
	}
	if c.Update {
		what += " by edit"
	}
	return c.At + "=" + strings.ReplaceAll(what, "/", "_")
}

// field that the refusal must name.
func (c badCase) field() string {
	if c.Field != nil {
		return *c.Field
	}
	return c.At
}

// value that the refusal must show, strings in quotes; empty when there is none to
// show.
func (c badCase) value() (string, error) {
	if c.Value != nil {
		return fmt.Sprint(*c.Value), nil
	}
	if c.Put == nil {
		return "", nil
	}
	put, err := decode(*c.Put)
	if err != nil {
		return "", err
	}
	switch put := put.(type) {
	case string:
		return strconv.Quote(put), nil
	case int64, float64, bool:
		return fmt.Sprint(put), nil
	}
	return "", fmt.Errorf("case %s: put is no scalar, so the value to look for must be given", c.name())
}

// spoil returns the base as the case changes it.
func (c badCase) spoil(base map[string]any) (*unstructured.Unstructured, error) {
	object := runtime.DeepCopyJSON(base)
	for at, value := range c.With {
		if err := change(object, at, &value); err != nil {
			return nil, err
		}
	}
	var value *any
	if c.Put != nil {
		put, err := decode(*c.Put)
		if err != nil {
			return nil, err
		}
		if c.Times > 0 {
			put = repeat(put, c.Times)
		}
		value = &put
	}
	if err := change(object, c.At, value); err != nil {
		return nil, fmt.Errorf("case %s: %w", c.name(), err)
	}
	return &unstructured.Unstructured{Object: object}, nil
}

func change(object map[string]any, at string, value *any) error {
	p, err := parsePlace(at)
	if err != nil {
		return err
	}
	if value == nil {
		return p.remove(object)
	}
	return p.put(object, *value)
}

// decode keeps integers apart from floats, as the API machinery wants them.
func decode(data []byte) (any, error) {
	var list []any // only at the top of a list or a map does the decoder look for integers
	if err := utiljson.Unmarshal([]byte("["+string(data)+"]"), &list); err != nil {
		return nil, err
	}
	return list[0], nil
}

// repeat makes a list of copies; "%d" in their strings becomes the index, and a
// string that is "%d" the number.
func repeat(value any, times int) []any {
	list := make([]any, times)
	for i := range list {
		list[i] = numbered(value, i)
	}
	return list
}

func numbered(value any, i int) any {
	switch value := value.(type) {
	case string:
		if value == "%d" {
			return int64(i)
		}
		if strings.Contains(value, "%d") {
			return fmt.Sprintf(value, i)
		}
	case map[string]any:
		out := make(map[string]any, len(value))
		for k, v := range value {
			out[k] = numbered(v, i)
		}
		return out
	}
	return value
}

// tables reads test/invalid, by kind.
func tables(t testing.TB) map[string]table {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "test/invalid/*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]table{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var tab table
		if err := yaml.UnmarshalStrict(data, &tab); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		base, err := json.Marshal(tab.Base)
		if err != nil {
			t.Fatal(err)
		}
		object, err := decode(base)
		if err != nil {
			t.Fatal(err)
		}
		tab.Base = object.(map[string]any)
		for _, c := range tab.Cases {
			if c.Remedy == "" {
				t.Errorf("%s: case %s has no remedy", file, c.name())
			}
			if _, err := c.value(); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		all[fmt.Sprint(tab.Base["kind"])] = tab
	}
	return all
}

// yamlObject decodes one YAML object.
func yamlObject(t testing.TB, text string) map[string]any {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	object, err := decode(data)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	fields, _ := object.(map[string]any)
	return fields
}
