package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portreeve/portreeve/lab"
)

// ownerEnv makes the test binary start a lab of that name and wait to be killed.
const ownerEnv = "PORTREEVE_LAB_TEST_OWNER"

func TestMain(m *testing.M) {
	if name := os.Getenv(ownerEnv); name != "" {
		ownUntilKilled(name)
	}
	os.Exit(m.Run())
}

func ownUntilKilled(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c, err := lab.Start(ctx, lab.Options{Name: name, Nodes: 1, KubeProxy: lab.NFTables, ControllerManager: true})
	if err == nil {
		c.CloseOnInterrupt()
		_, err = c.AddPod(ctx, c.Node("n1"), "shop", "shop-1", selector)
	}
	if err == nil {
		// A child with a child of its own, which has no parent-death signal.
		_, err = c.Run(ctx, lab.Command{Name: "family", Argv: []string{"sh", "-c", "sleep 600; true"}})
	}
	fmt.Println("up", err)
	select {}
}

// leftovers lists what is on the machine of the named lab: namespaces, state,
// files, and processes by their working folder.
func leftovers(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		"/run/netns/" + name + "-*", "/run/portreeve-lab/" + name,
		filepath.Join(os.TempDir(), "portreeve-lab-"+name+"-*"),
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	folders, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, cwd := range folders {
		target, err := os.Readlink(cwd)
		if err == nil && strings.Contains(target, "portreeve-lab-"+name+"-") {
			found = append(found, cwd+" -> "+target)
		}
	}
	return found
}

func startOwner(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), ownerEnv+"="+name)
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = owner.Process.Kill() }) // usually dead by then
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "up <nil>\n" {
		t.Fatalf("owner: %q, %v", line, err)
	}
	if len(leftovers(t, name)) == 0 {
		t.Fatal("a running lab shows no traces: this test looks in the wrong places")
	}
	return owner
}

func TestCrashedLabIsSweptByTheNext(t *testing.T) {
	name := fmt.Sprintf("crash%d", os.Getpid())
	owner := startOwner(t, name)
	if swept, err := lab.Sweep(); err != nil || slices.Contains(swept, name) {
		t.Fatalf("a lab whose owner lives was swept: %v, %v", swept, err)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // killed
	swept, err := lab.Sweep()
	if err != nil || !slices.Contains(swept, name) {
		t.Fatalf("swept %v, %v; want %s among them", swept, err, name)
	}
	if left := leftovers(t, name); len(left) > 0 {
		t.Errorf("left over:\n%s", strings.Join(left, "\n"))
	}
}

func TestInterruptedLabRemovesItself(t *testing.T) {
	name := fmt.Sprintf("intr%d", os.Getpid())
	owner := startOwner(t, name)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	begin := time.Now()
	if err := lab.Shutdown(ctx, name); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // exit status 130
	t.Logf("gone after %s", time.Since(begin).Round(time.Millisecond))
	if code := owner.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit status %d; want 130", code)
	}
	if left := leftovers(t, name); len(left) > 0 {
		t.Errorf("left over:\n%s", strings.Join(left, "\n"))
	}
}

func TestLabsRunSideBySideAndLeaveNothing(t *testing.T) {
	before := hostNetwork(t)
	kinds := []lab.Options{{}, {Nodes: 1, KubeProxy: lab.IPTables, ControllerManager: true, IPv4Only: true}}
	labs := make([]*lab.Cluster, len(kinds))
	var starting sync.WaitGroup
	for i := range labs {
		starting.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
			defer cancel()
			begin := time.Now()
			c, err := lab.Start(ctx, kinds[i])
			if err != nil {
				t.Error(err)
				return
			}
			t.Logf("lab %s started in %s", c.Name(), time.Since(begin).Round(10*time.Millisecond))
			labs[i] = c
		})
	}
	starting.Wait()
	for i, c := range labs {
		if c == nil {
			continue
		}
		// Each sees only what was made in it, at the same address.
		if out, err := c.Kubectl(t.Context(), "create", "namespace", fmt.Sprintf("only-in-%d", i)); err != nil {
			t.Error(out, err)
		}
		out, err := c.Kubectl(t.Context(), "get", "namespace", fmt.Sprintf("only-in-%d", 1-i), "--ignore-not-found")
		if err != nil || (i == 0 && out != "") {
			t.Errorf("lab %s: %q, %v", c.Name(), out, err)
		}
	}
	for _, c := range labs {
		if c == nil {
			continue
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if left := leftovers(t, c.Name()); len(left) > 0 {
			t.Errorf("left over:\n%s", strings.Join(left, "\n"))
		}
	}
	if after := hostNetwork(t); after != before {
		t.Errorf("the host's network changed:\nbefore:\n%s\nafter:\n%s", before, after)
	}
}

// moving is what goes on by itself: what a router's word is still good for, counts, dates.
var moving = regexp.MustCompile(`expires [0-9]+sec|packets [0-9]+ bytes [0-9]+|\[[0-9]+:[0-9]+\]|(?m)^#.*$`)

// hostNetwork is what of the host's own namespace a lab must not touch.
func hostNetwork(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, argv := range [][]string{
		{"ip", "-br", "addr"}, {"ip", "route", "show", "table", "all"}, {"ip", "-6", "route"},
		{"nft", "list", "ruleset"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"},
		{"sh", "-c", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/netfilter/nf_conntrack_max"},
	} {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
		all.Write(out)
	}
	return moving.ReplaceAllString(all.String(), "")
}
