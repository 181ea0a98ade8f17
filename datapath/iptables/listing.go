package iptables

import (
	"maps"
	"slices"
	"strings"
)

// isOurs says whether a chain bears our name.
func isOurs(chain string) bool {
	return chain == chainMain || strings.HasPrefix(chain, chainMain+"-")
}

// ours lists our chains, of whatever version.
func (l listing) ours() []string {
	var out []string
	for _, chain := range slices.Sorted(maps.Keys(l)) {
		if isOurs(chain) && strings.HasPrefix(l[chain][0], "-N ") {
			out = append(out, chain)
		}
	}
	return out
}

// outdated lists our chains that this version does not make.
func (l listing) outdated() []string {
	current := []string{chainMain, chainPass, chainCount, chainOver, chainShut, chainDeny}
	return slices.DeleteFunc(l.ours(), func(chain string) bool { return slices.Contains(current, chain) })
}

// jumpsIn returns the chain of each of our jumps, in order: of rules without any
// match, which every iptables prints alike.
func jumpsIn(lines []string) []string { return jumpsFrom(hook, lines) }

func jumpsFrom(hook string, lines []string) []string {
	var out []string
	for _, line := range lines {
		if chain, ok := strings.CutPrefix(line, "-A "+hook+" -j "); ok && isOurs(chain) {
			out = append(out, chain)
		}
	}
	return out
}

// jumpTo is how every iptables prints a rule without any match.
func jumpTo(chain string) string { return "-A " + hook + " -j " + chain }

// quoted joins words as iptables-restore reads them; it is the inverse of fields.
func quoted(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		if strings.Contains(w, " ") {
			w = `"` + w + `"`
		}
		out[i] = w
	}
	return strings.Join(out, " ")
}
