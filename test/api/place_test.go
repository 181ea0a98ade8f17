package api

import (
	"fmt"
	"strconv"
	"strings"
)

// A place is where a value lies in an object, as the API server writes it:
// "spec.sources[0].cidr". Its steps are field names (string) and indexes (int).
type place []any

func parsePlace(s string) (place, error) {
	var p place
	for field := range strings.SplitSeq(s, ".") {
		name, rest, _ := strings.Cut(field, "[")
		if name == "" {
			return nil, fmt.Errorf("place %q: empty field name", s)
		}
		p = append(p, name)
		for rest != "" {
			index, more, closed := strings.Cut(rest, "]")
			i, err := strconv.Atoi(index)
			if err != nil || !closed {
				return nil, fmt.Errorf("place %q: want [INDEX], have [%s", s, rest)
			}
			p = append(p, i)
			rest = strings.TrimPrefix(more, "[")
		}
	}
	return p, nil
}

// inSchema turns the place of a value into the path of its schema:
// "spec.sources[0].cidr" into "spec.sources[].cidr".
func inSchema(s string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "[")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		_, s, _ = strings.Cut(rest, "]")
		out.WriteString("[]")
	}
}

// put sets the value at a place, making the objects on the way; remove takes it
// away. Lists do not grow.
func (p place) put(object map[string]any, value any) error { return p.change(object, value, false) }
func (p place) remove(object map[string]any) error         { return p.change(object, nil, true) }

func (p place) change(in, value any, remove bool) error {
	last := len(p) == 1
	switch step := p[0].(type) {
	case string:
		fields, ok := in.(map[string]any)
		switch {
		case !ok:
			return fmt.Errorf("%q: not in an object", step)
		case last && remove:
			delete(fields, step)
			return nil
		case last:
			fields[step] = value
			return nil
		case fields[step] == nil:
			fields[step] = map[string]any{}
		}
		return p[1:].change(fields[step], value, remove)
	default:
		index := step.(int)
		list, ok := in.([]any)
		switch {
		case !ok || index >= len(list):
			return fmt.Errorf("[%d]: no such item", index)
		case last && remove:
			return fmt.Errorf("[%d]: items are not removed", index)
		case last:
			list[index] = value
			return nil
		}
		return p[1:].change(list[index], value, remove)
	}
}
