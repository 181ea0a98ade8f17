package packaging

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Reference is the page docs/api.md, made of the definitions among the objects: each kind with
// each field, as the API server knows it.
func Reference(install []Object) (string, error) {
	var page strings.Builder
	page.WriteString("# API reference\n\n<!-- Generated from the types in api/v1alpha1 by make generate; edit those. -->\n\n" +
		"Group `portreeve.dev`, version `v1alpha1`. `kubectl explain` knows the same. A field whose constraint is\n" +
		"broken is refused by the API server, with the value and the remedy. `[]` is an element of a list, `{}` a\n" +
		"value of a map.\n\n| kind | scope | short name | |\n|---|---|---|---|\n")
	definitions := slices.DeleteFunc(slices.Clone(install), func(o Object) bool { return o.Text("kind") != "CustomResourceDefinition" })
	slices.SortFunc(definitions, func(a, b Object) int { return cmp.Compare(kindOf(a), kindOf(b)) })
	var kinds strings.Builder
	for _, d := range definitions {
		versions, _ := d.field("spec", "versions").([]any)
		if len(versions) != 1 {
			return "", fmt.Errorf("%s has %d versions, and the page has room for one", kindOf(d), len(versions))
		}
		schema := Object(versions[0].(map[string]any)).fields("schema", "openAPIV3Schema")
		short := ""
		if names, _ := d.field("spec", "names", "shortNames").([]any); len(names) > 0 {
			short = fmt.Sprintf("`%v`", names[0])
		}
		description := cell(schema.Text("description"))
		first, _, _ := strings.Cut(description, ". ")
		fmt.Fprintf(&page, "| [%[1]s](#%[2]s) | %[3]s | %[4]s | %[5]s |\n", kindOf(d), strings.ToLower(kindOf(d)), d.Text("spec", "scope"), short, strings.TrimSuffix(first, "."))
		fmt.Fprintf(&kinds, "\n## %s\n\n%s\n", kindOf(d), description)
		for _, part := range []string{"spec", "status"} {
			if fields, _ := schema.field("properties", part).(map[string]any); fields != nil {
				fmt.Fprintf(&kinds, "\n### %s %s\n\n", kindOf(d), part)
				if rules := rulesOf(fields); len(rules) > 0 {
					fmt.Fprintf(&kinds, "%s.\n\n", strings.Join(rules, "; "))
				}
				kinds.WriteString("| field | type | |\n|---|---|---|\n")
				describe(&kinds, part, fields)
			}
		}
	}
	page.WriteString(kinds.String())
	return page.String(), nil
}

func kindOf(definition Object) string { return definition.Text("spec", "names", "kind") }

// describe writes a row for each field below a path.
func describe(out *strings.Builder, path string, schema Object) {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	for _, name := range sorted(properties) {
		field, at := Object(properties[name].(map[string]any)), path+"."+name
		facts := constraints(field)
		if slices.Contains(required, any(name)) {
			facts = append([]string{"required"}, facts...)
		}
		text := cell(field.Text("description"))
		if len(facts) > 0 {
			text += " *" + strings.Join(facts, "; ") + "*"
		}
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", at, typeOf(field), strings.TrimSpace(text))
		if name == "conditions" { // the same in all of Kubernetes
			continue
		}
		inside(out, at, field)
	}
}

// inside goes on below lists and maps.
func inside(out *strings.Builder, path string, field Object) {
	if items, is := field["items"].(map[string]any); is {
		inside(out, path+"[]", items)
		return
	}
	if values, is := field["additionalProperties"].(map[string]any); is {
		inside(out, path+"{}", values)
		return
	}
	describe(out, path, field)
}

func typeOf(field Object) string {
	if items, is := field["items"].(map[string]any); is {
		return "[]" + typeOf(items)
	}
	if values, is := field["additionalProperties"].(map[string]any); is {
		return "map of " + typeOf(values)
	}
	if format := field.Text("format"); format == "date-time" {
		return "time"
	}
	return field.Text("type")
}

// constraints are what the API server wants of a value, and puts where there is none.
func constraints(field Object) (facts []string) {
	if d, has := field["default"]; has {
		facts = append(facts, "default "+code(d))
	}
	elements := field
	if items, is := field["items"].(map[string]any); is {
		elements = items
	}
	if values, is := elements["enum"].([]any); is {
		var words []string
		for _, v := range values {
			words = append(words, code(v))
		}
		facts = append(facts, "one of "+strings.Join(words, ", "))
	}
	for _, bound := range []struct{ name, text string }{
		{"minimum", "at least %v"}, {"maximum", "at most %v"}, {"minLength", "at least %v characters"}, {"maxLength", "at most %v characters"},
		{"minItems", "at least %v entries"}, {"maxItems", "at most %v entries"}, {"maxProperties", "at most %v entries"},
	} {
		for _, schema := range []Object{field, elements} {
			if limit, has := schema[bound.name]; has {
				facts = append(facts, fmt.Sprintf(bound.text, plain(limit)))
				break
			}
		}
	}
	if pattern := elements.Text("pattern"); pattern != "" {
		facts = append(facts, "matches "+code(pattern))
	}
	facts = append(facts, rulesOf(field)...)
	if len(elements) > 0 && field["items"] != nil {
		facts = append(facts, rulesOf(elements)...)
	}
	return facts
}

// rulesOf are a schema's CEL rules in the words of their messages, or as they stand.
func rulesOf(schema Object) (rules []string) {
	all, _ := schema["x-kubernetes-validations"].([]any)
	for _, r := range all {
		rule := Object(r.(map[string]any))
		if message := rule.Text("message"); message != "" {
			rules = append(rules, cell(message))
			continue
		}
		rules = append(rules, code(rule.Text("rule")))
	}
	return rules
}

// plain writes numbers as people do.
func plain(v any) string {
	if f, is := v.(float64); is {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprint(v)
}

// code is a value as YAML has it, safe in a cell.
func code(v any) string {
	text, is := v.(string)
	if !is || text == "" {
		out, err := json.Marshal(v)
		if err != nil {
			panic(err) // it came from YAML
		}
		text = string(out)
	}
	return "`" + strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`) + "`"
}

// cell is a text on one line of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "[", `\[`).Replace(strings.Join(strings.Fields(text), " "))
}
