package explain

import (
	"encoding/csv"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
)

// WriteTable prints the report for people.
func (r Report) WriteTable(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "FINDING\tPORTS\tPROTOCOL\tHOLDER\tPOOL\tTEAM\tNODE\tREACHABLE BY\tSINCE\tDETAIL")
	for _, l := range r.Lines {
		holder := l.Namespace + "/" + l.Policy
		switch {
		case l.Namespace == "":
			holder = ""
		case l.Policy == "":
			holder = l.Namespace + "/" + l.Service + " (Service)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Finding, l.Ports, l.Protocol, holder, l.Pool, l.Team, l.Node, l.by(), l.Since, l.Detail)
	}
	return table.Flush()
}

func (l Line) by() string {
	var prefixes []netip.Prefix
	for _, text := range l.ReachableBy {
		if p, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return networks(prefixes)
}

// WriteCSV prints the report with a header; networks are separated by spaces.
func (r Report) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write([]string{"finding", "ports", "protocol", "namespace", "policy", "service", "pool", "team", "node", "reachableBy", "since", "detail"}); err != nil {
		return err
	}
	for _, l := range r.Lines {
		row := []string{string(l.Finding), l.Ports, l.Protocol, l.Namespace, l.Policy, l.Service, l.Pool, l.Team, l.Node, strings.Join(l.ReachableBy, " "), l.Since, harmless(l.Detail)}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// harmless keeps a spreadsheet from taking words of somebody's status for a formula.
func harmless(text string) string {
	if strings.ContainsAny(text[:min(len(text), 1)], "=+-@\t\r") {
		return "'" + text
	}
	return text
}
