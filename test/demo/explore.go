package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

const (
	// keptName is that of the lab that up leaves running.
	keptName = "portreeve-demo"
	// keep is the argument of the process that runs it.
	keep = "keep-running"
	// ledger is where it shows the security groups, beside the clouds' fronts.
	ledger = "127.0.0.1:4568"
	// readyWord is what it says when it is ready, on the descriptor after stderr.
	readyWord, readyFD = "ready", 3
)

// up starts a process of its own session that keeps the demo running, and
// returns when it is ready to be explored. It does not keep the terminal.
func up(ctx context.Context) int {
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command(self, keep)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	write.Close()
	// The new session does not hear Ctrl-C: pass it on.
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(os.Interrupt) }) // gone meanwhile is as good
	defer stop()
	if _, err := io.ReadFull(read, make([]byte, len(readyWord))); err == nil {
		return 0
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return fail(err)
}

// serve raises a town with the samples applied, says how to explore it, and keeps
// it until it is told to end.
func serve(ctx context.Context, say *narrator) int {
	syscall.CloseOnExec(readyFD) // no program of the lab shall hold it
	starter := os.NewFile(readyFD, "starter")
	signal.Ignore(syscall.SIGHUP) // the terminal may go
	t, err := raise(ctx, say, keptName)
	switch {
	case ctx.Err() != nil:
		return interrupted()
	case errors.Is(err, fs.ErrExist):
		return fail(errors.New("the demo is running already; to end it: make demo-down"))
	case err != nil:
		return fail(err)
	}
	defer t.Close()
	if err := t.open(ctx, say); ctx.Err() != nil {
		return interrupted()
	} else if err != nil {
		return fail(errors.Join(err, t.Close()))
	}
	if err := detach(filepath.Join(t.LogDir(), "demo.log")); err != nil {
		return fail(errors.Join(err, t.Close()))
	}
	if _, err := starter.WriteString(readyWord); err != nil {
		return fail(errors.Join(err, t.Close()))
	}
	starter.Close()
	<-ctx.Done()
	if err := t.Close(); err != nil {
		return fail(err)
	}
	return 0
}

// open applies the samples and prints what can be done.
func (t *town) open(ctx context.Context, say *narrator) error {
	if err := t.serveLedger(); err != nil {
		return err
	}
	began := time.Now()
	if out, err := t.apply(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	var policy v1alpha1.NodePortPolicy
	err := until(ctx, func(ctx context.Context) error {
		if err := t.Client.Get(ctx, shop, &policy); err != nil {
			return err
		}
		if !ready(&policy) {
			return fmt.Errorf("the policy is not Ready:%s", describe(policy.Status.Conditions))
		}
		return nil
	})
	if err != nil {
		return err
	}
	port := uint16(policy.Status.Allocations[0].NodePort)
	if _, err := t.reached(ctx, visit{t.office, office4, port}); err != nil {
		return err
	}
	say.step(time.Since(began), "applied: config/samples, through test/demo/overlay; port %d is open", port)
	return t.guide(say.out, port)
}

// serveLedger shows the security groups as text, until the lab closes.
func (t *town) serveLedger() error {
	listener, err := t.ControlPlane().Listen("tcp", ledger)
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, t.tables()) }),
	}
	go func() { _ = server.Serve(listener) }() // ends with the listener's namespace
	return nil
}

// tables are the security groups for people.
func (t *town) tables() string {
	var all []string
	for _, a := range t.clouds {
		all = append(all, fmt.Sprintf("%s, of %s\n%s", stage.Group, a.firewall, a.table()))
	}
	return strings.Join(all, "\n")
}

// detach leaves the terminal: what is still said goes to a file.
func detach(log string) error {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(file.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

func down(ctx context.Context, say *narrator) int {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := lab.Shutdown(ctx, keptName); err != nil {
		return fail(err)
	}
	say.title("The demo is down; nothing of it is left.")
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

var howTo = template.Must(template.New("").Parse(`
The demo keeps running. In a shell of root:

  alias k='{{.Kubectl}}'
  alias office='ip netns exec {{.Office}}' street='ip netns exec {{.Street}}'

The policy, the port register, the nodes' reports, the pools and firewalls:
  k get npp -A; k get npa; k get nodedp; k get nppool,cfw
  k describe npp -n shop shop
  k edit npp -n shop shop                                     # change the sources and watch

Knock at a node ({{.Nodes}}):
  office curl -sS -m 2 --interface {{.Office4}} {{.URL4}}       # answered
  street curl -sS -m 2 --interface {{.Street4}} {{.URL4}}       # dropped
{{- if .IPv6}}
  office curl -sS -m 2 --interface {{.Office6}} {{.URL6}}
{{- end}}

The security groups:
  ip netns exec {{.CP}} curl -s {{.Ledger}}
{{- if .AWS}}
  ip netns exec {{.CP}} env {{.Env}} \
    aws --endpoint-url {{.Endpoint}} --region {{.Region}} ec2 describe-security-group-rules \
    --filters Name=group-id,Values={{.Group}} --output table \
    --query 'SecurityGroupRules[?!IsEgress].[IpProtocol,FromPort,ToPort,CidrIpv4||CidrIpv6,Description]'
{{- end}}

What a node has loaded:
  ip netns exec {{.Node}} nft list table inet portreeve

Logs of everything: {{.Logs}}
To end it:          make demo-down
`))

// guide says how to explore the town.
func (t *town) guide(out io.Writer, port uint16) error {
	node := t.Nodes()[0]
	_, noAWS := exec.LookPath("aws")
	var names string
	for i, n := range t.Nodes() {
		if i > 0 {
			names += ", "
		}
		names += fmt.Sprintf("%s %s", n.Name, n.Addrs[0])
	}
	return howTo.Execute(out, map[string]any{
		"Kubectl": t.KubectlCommand(), "Office": t.office.NetNS(), "Street": t.street.NetNS(), "CP": t.ControlPlane().NetNS(),
		"Nodes": names, "Node": node.NetNS(), "IPv6": t.IPv6(),
		"Office4": office4, "Office6": office6, "Street4": street4,
		"URL4": fmt.Sprintf("http://%s:%d/", node.Addrs[0], port), "URL6": fmt.Sprintf("http://[%s]:%d/", node.Addrs[len(node.Addrs)-1], port),
		"Ledger": "http://" + ledger, "AWS": noAWS == nil,
		"Env":      fmt.Sprintf("AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s", stage.AccessKey, stage.SecretKey),
		"Endpoint": stage.Endpoint, "Region": stage.Region, "Group": stage.Group, "Logs": t.LogDir(),
	})
}
