package iptables

import "slices"

// accepting are the targets after which a packet never comes to the rules
// behind, and still goes on its way. DROP is none of them: it only closes more.
var accepting = []string{"ACCEPT", "QUEUE", "NFQUEUE", "TPROXY"}

// preempting returns the first rule ahead of the jump to chain that may let a
// packet past it, or "". What the rule matches is not weighed, lo aside: a
// foreign ACCEPT of established connections, as Calico has, is enough to keep a
// revoked source connected. list returns the lines of a chain, none for a target
// that is not a chain.
func preempting(lines []string, chain string, list func(chain string) ([]string, error)) (string, error) {
	for _, line := range lines {
		if line == jumpTo(chain) {
			return "", nil
		}
		verb, target, ok := targetOf(line)
		if !ok {
			continue
		}
		// In a built-in chain RETURN is the policy's verdict, and so is the end
		// of a chain that was gone to.
		if target == "RETURN" || verb == "-g" {
			return line, nil
		}
		accepts, err := mayAccept(target, list, nil)
		if err != nil {
			return "", err
		}
		if accepts {
			return line, nil
		}
	}
	return "", nil
}

// mayAccept says whether the target, or a rule of the chain it names, accepts.
func mayAccept(target string, list func(chain string) ([]string, error), seen []string) (bool, error) {
	if slices.Contains(accepting, target) {
		return true, nil
	}
	if slices.Contains(seen, target) {
		return false, nil
	}
	lines, err := list(target)
	if err != nil {
		return false, err
	}
	for _, line := range lines {
		_, next, ok := targetOf(line)
		if !ok {
			continue
		}
		if accepts, err := mayAccept(next, list, append(seen, target)); err != nil || accepts {
			return accepts, err
		}
	}
	return false, nil
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
