package iptables

import "slices"

// accepting are the targets after which a packet never comes to the rules
// behind, and still goes on its way. DROP is none of them: it only closes more.
var accepting = []string{"ACCEPT", "QUEUE", "NFQUEUE", "TPROXY"}

// preempting returns the first rule ahead of the jump to chain that may let a
// packet past it, or "". What the rule matches is not weighed, lo aside: a
// foreign ACCEPT of established connections, as Calico has, is enough to keep a
// revoked source connected. A target may also be an extension, and then has no lines.
func preempting(lines []string, chain string, chains listing) string {
	for _, line := range lines {
		if line == jumpTo(chain) {
			return ""
		}
		verb, target, ok := targetOf(line)
		if !ok {
			continue
		}
		// In a built-in chain RETURN is the policy's verdict, and so is the end
		// of a chain that was gone to.
		if target == "RETURN" || verb == "-g" || mayAccept(target, chains, nil) {
			return line
		}
	}
	return ""
}

// mayAccept says whether the target, or a rule of the chain it names, accepts.
func mayAccept(target string, chains listing, seen []string) bool {
	if slices.Contains(accepting, target) {
		return true
	}
	if slices.Contains(seen, target) {
		return false
	}
	return slices.ContainsFunc(chains[target], func(line string) bool {
		_, next, ok := targetOf(line)
		return ok && mayAccept(next, chains, append(seen, target))
	})
}

// targetOf returns -j or -g and its argument. Rules for lo never concern us.
func targetOf(line string) (verb, target string, ok bool) {
	words := fields(line)
	if i := slices.Index(words, "-i"); i > 0 && i+1 < len(words) && words[i+1] == "lo" && words[i-1] != "!" {
		return "", "", false
	}
	for i, w := range words {
		if (w == "-j" || w == "-g") && i+1 < len(words) {
			return w, words[i+1], true
		}
	}
	return "", "", false
}

// fields splits a printed rule into words; a comment in quotes is one word.
func fields(line string) []string {
	var out []string
	var word []byte
	quoted, open := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quoted && i+1 < len(line):
			i++
			word = append(word, line[i])
		case c == '"':
			quoted, open = !quoted, true
		case c == ' ' && !quoted:
			if open {
				out = append(out, string(word))
			}
			word, open = nil, false
		default:
			word, open = append(word, c), true
		}
	}
	if open {
		out = append(out, string(word))
	}
	return out
}
