package explain

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
)

// networks spells prefixes for people: everybody, nobody, or the first few.
func networks(prefixes []netip.Prefix) string {
	const most = 6
	whole := func(is4 bool) bool {
		return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Bits() == 0 && p.Addr().Is4() == is4 })
	}
	switch {
	case len(prefixes) == 0:
		return "nobody"
	case whole(true) && whole(false):
		return "everybody"
	}
	var texts []string
	for _, p := range prefixes[:min(len(prefixes), most)] {
		texts = append(texts, p.String())
	}
	if rest := len(prefixes) - most; rest > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(texts, ", ")
}

// Write prints the answer for people: the verdict first, then one line for each gate.
func (a Answer) Write(w io.Writer) error {
	for i, p := range a.Ports {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := p.write(w, a.Asked); err != nil {
			return err
		}
	}
	return nil
}

func (p PortAnswer) write(w io.Writer, asked Question) error {
	what := fmt.Sprintf("%s/%d", strings.ToLower(p.Protocol), p.Port)
	if p.Port == 0 {
		what = fmt.Sprintf("NodePortPolicy %s/%s", asked.Namespace, asked.Policy)
	}
	if asked.From.IsValid() {
		what += " from " + asked.From.String()
	}
	fmt.Fprintf(w, "%s: %s", strings.ToUpper(string(p.Verdict)), what)
	if p.StoppedBy == nil {
		fmt.Fprintf(w, ", nodes admit %s\n", networks(p.Admits))
	} else {
		fmt.Fprintf(w, ", at %s %s (%s): %s\n", p.StoppedBy.Gate, p.StoppedBy.Subject, p.StoppedBy.Reason, p.StoppedBy.Message)
		if p.StoppedBy.Remedy != "" {
			fmt.Fprintf(w, "do: %s\n", p.StoppedBy.Remedy)
		}
	}
	if o := p.TooOpen; o != nil {
		fmt.Fprintf(w, "TOO OPEN at %s %s (%s): %s\n", o.Gate, o.Subject, o.Reason, o.Message)
		if o.Remedy != "" {
			fmt.Fprintf(w, "do: %s\n", o.Remedy)
		}
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "GATE\tSUBJECT\tSTATE\tREASON\tMESSAGE")
	for _, g := range alike(p.Gates) {
		message := g.Message
		if g.Remedy != "" {
			message += " -> " + g.Remedy
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", g.Gate, g.Subject, g.State, g.Reason, message)
	}
	return table.Flush()
}

// alike joins nodes that do the same into one line.
func alike(gates []Gate) []Gate {
	const most = 8
	var out []Gate
	counts := map[Gate]int{}
	for _, g := range gates {
		same := g
		same.Subject = ""
		i := slices.IndexFunc(out, func(o Gate) bool { o.Subject = ""; return g.Gate == GateNode && o == same })
		switch counts[same]++; {
		case i < 0:
			out = append(out, g)
		case counts[same] <= most:
			out[i].Subject += "," + g.Subject
		case counts[same] == most+1:
			out[i].Subject += ",..."
		}
	}
	for i, g := range out {
		g.Subject = ""
		if n := counts[g]; n > most {
			out[i].Subject += fmt.Sprintf(" (%d)", n)
		}
	}
	return out
}
