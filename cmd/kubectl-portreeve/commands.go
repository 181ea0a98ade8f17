package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/internal/rule"
)

func (p *plugin) explainCommand() *cobra.Command {
	var from, protocol string
	c := &cobra.Command{
		Use:   "explain PORT|POLICY",
		Short: "Say which gate stops a packet to a node port, and what to do about it",
		Long: `Walks the gates of a port, or of all ports of a NodePortPolicy: the register, the
policy, its sources, cloud firewalls, every node, the Service and its endpoints.

Exit status: 0 reachable, 1 closed, 3 neither is proved or nodes differ,
2 wrong use or an API error.`,
		Example: `  kubectl portreeve explain 30000 --from 203.0.113.10
  kubectl portreeve explain -n shop shop -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			namespace, _, err := p.flags.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			q, err := question(args[0], namespace, from, protocol)
			if err != nil {
				return err
			}
			writers := map[string]func(explain.Answer) error{
				"":     func(a explain.Answer) error { return a.Write(p.Out) },
				"json": func(a explain.Answer) error { return writeJSON(p.Out, a) },
			}
			write, err := writerFor(p.output, writers)
			if err != nil {
				return err
			}
			r, err := p.reader()
			if err != nil {
				return err
			}
			answer, err := r.explain(c.Context(), q)
			if err != nil {
				return err
			}
			if err := write(answer); err != nil {
				return err
			}
			if status := answer.ExitStatus(); status != explain.ExitOpen {
				return exitStatus(status)
			}
			return nil
		},
	}
	c.Flags().StringVar(&from, "from", "", "the client's address, as nodes see it")
	c.Flags().StringVar(&protocol, "protocol", "", "TCP, UDP or SCTP; default all that the number has")
	c.Flags().StringVarP(&p.output, "output", "o", "", "json, or text if left out")
	return c
}

// question reads what is asked. A policy's name begins with a letter, so no name is a number.
func question(what, namespace, from, protocol string) (q explain.Question, err error) {
	if from != "" {
		if q.From, err = netip.ParseAddr(from); err != nil {
			return q, fmt.Errorf("--from %q is not an IP address; write for example 203.0.113.10", from)
		}
	}
	q.Protocol = strings.ToUpper(protocol)
	if q.Protocol != "" && !slices.Contains(rule.Protocols, rule.Protocol(q.Protocol)) {
		return q, fmt.Errorf("--protocol %q is not TCP, UDP or SCTP", protocol)
	}
	if what == "" || what[0] < '0' || what[0] > '9' {
		q.Namespace, q.Policy = namespace, what
		return q, nil
	}
	number, err := strconv.ParseUint(what, 10, 16)
	if err != nil || number == 0 {
		return q, fmt.Errorf("%q is neither a port number from 1 to 65535 nor the name of a NodePortPolicy", what)
	}
	q.Port = uint16(number)
	return q, nil
}

func (p *plugin) auditCommand() *cobra.Command {
	var failOn []string
	c := &cobra.Command{
		Use:   "audit",
		Short: "List everything that is reachable in the node-port range, and by whom",
		Long: `Lists what is open and by whom, what no policy declares, what is shadowed or
hijacked, and nodes that do not filter.

Exit status: 0; 1 if there is a finding of --fail-on; 2 wrong use or an API error.`,
		Example: `  kubectl portreeve audit --fail-on Undeclared,Ungated
  kubectl portreeve audit -o csv >ports.csv`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			findings, err := findingsOf(failOn)
			if err != nil {
				return err
			}
			writers := map[string]func(explain.Report) error{
				"":     func(r explain.Report) error { return r.WriteTable(p.Out) },
				"csv":  func(r explain.Report) error { return r.WriteCSV(p.Out) },
				"json": func(r explain.Report) error { return writeJSON(p.Out, r) },
			}
			write, err := writerFor(p.output, writers)
			if err != nil {
				return err
			}
			r, err := p.reader()
			if err != nil {
				return err
			}
			report, err := r.audit(c.Context())
			if err != nil {
				return err
			}
			if err := write(report); err != nil {
				return err
			}
			if report.Has(findings) {
				return exitStatus(explain.ExitClosed)
			}
			return nil
		},
	}
	c.Flags().StringSliceVar(&failOn, "fail-on", nil, "findings with which to exit with status 1, by commas: "+spell(explain.Findings))
	c.Flags().StringVarP(&p.output, "output", "o", "", "csv or json, or a table if left out")
	return c
}

func spell(findings []explain.Finding) string {
	texts := make([]string, len(findings))
	for i, f := range findings {
		texts[i] = string(f)
	}
	return strings.Join(texts, ", ")
}

// findingsOf reads names of findings, in any case.
func findingsOf(names []string) (out []explain.Finding, err error) {
	for _, name := range names {
		i := slices.IndexFunc(explain.Findings, func(f explain.Finding) bool { return strings.EqualFold(string(f), strings.TrimSpace(name)) })
		if i < 0 {
			return nil, fmt.Errorf("--fail-on %q is no finding; there are %s", name, spell(explain.Findings))
		}
		out = append(out, explain.Findings[i])
	}
	return out, nil
}

func writerFor[T any](output string, writers map[string]func(T) error) (func(T) error, error) {
	if write := writers[output]; write != nil {
		return write, nil
	}
	var known []string
	for name := range writers {
		if name != "" {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	return nil, fmt.Errorf("--output %q is not known; write %s, or leave it out", output, strings.Join(known, " or "))
}

func writeJSON(w io.Writer, what any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(what)
}
