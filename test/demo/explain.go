package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// explain: the plugin says which gate stops a client, and what is reachable at all.
func (p *play) explain(ctx context.Context) error {
	p.say.act("Why does it not answer, and what is open at all?")
	port := fmt.Sprint(p.port)
	for _, q := range []struct {
		what, from string
		verdict    string
		status     int
	}{
		{"the office comes in", office4.String(), "OPEN", 0},
		{"the street is in none of the sources, and that is said", street4.String(), "CLOSED", 1},
	} {
		out, status, err := p.plugin(ctx, "explain", port, "--from", q.from)
		if err != nil {
			return err
		}
		p.say.shell("kubectl portreeve explain "+port+" --from "+q.from, out)
		err = nil
		if !strings.HasPrefix(out, q.verdict+":") || status != q.status {
			err = miss{fmt.Sprintf("%s, exit status %d", q.verdict, q.status), fmt.Sprintf("exit status %d", status)}
		}
		p.say.check(0, err, "%s; exit status %d", q.what, status)
		p.say.gap()
	}
	out, status, err := p.plugin(ctx, "audit")
	if err != nil {
		return err
	}
	p.say.shell("kubectl portreeve audit", out)
	if !strings.Contains(out, port) || !strings.Contains(out, fmt.Sprint(backdoorPort)) {
		err = miss{fmt.Sprintf("ports %d and %d", p.port, backdoorPort), "neither, or one"}
	}
	p.say.check(0, err, "both ports are in the audit, with who gets in; exit status %d", status)
	return nil
}

// plugin runs kubectl-portreeve.
func (p *play) plugin(ctx context.Context, args ...string) (out string, status int, err error) {
	kubeconfig, err := p.WriteKubeconfig("plugin", p.RESTConfig())
	if err != nil {
		return "", 0, err
	}
	argv := append([]string{filepath.Join(p.Bin, "kubectl-portreeve"), "--kubeconfig", kubeconfig}, args...)
	out, err = p.ControlPlane().Output(ctx, argv...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, exit.ExitCode(), nil
	}
	return out, 0, err
}
