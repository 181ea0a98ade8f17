package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath/datapathtest"
)

const (
	agentChanges = 400                    // each way
	agentPause   = 150 * time.Millisecond // more than the pause behind a round
	agentIdle    = 30 * time.Second       // three looks at the kernel
)

// askedAddress is where the agent asks whether anything answers: nothing does.
const askedAddress = "192.0.2.1"

// BenchmarkAgent measures the agent as it runs on a node, beside an API server that has
// nothing else to do: from the moment that an event is written to its watch to that in
// which the kernel says that it has committed, and what the agent takes meanwhile.
func BenchmarkAgent(b *testing.B) {
	for _, n := range exposureCounts(b) {
		b.Run(strconv.Itoa(n), func(b *testing.B) { measureAgent(b, n) })
	}
}

func measureAgent(b *testing.B, n int) {
	fmt.Printf("agent with %d allocations of %d networks each, %d distinct sets of them; %s\n", n, sourcesEach, distinctSets, conditions())
	node := datapathtest.NewNamespace(b)
	api := serveAPI(b, node)
	node.Command(b, "", "ip", "address", "add", askedAddress+"/32", "dev", "lo") // on which the agent asks
	gates := someGates(n+fresh, distinctSets)
	standing(b, api, gates[:n])
	commits := committed(b, node)
	a := startAgent(b, node, api)
	a.settle(b, api)

	note("memory (RSS), settled", a.rss(b, "VmRSS"), "MiB")
	note("the same at its peak", a.rss(b, "VmHWM"), "MiB")
	before := a.worked(b)
	opened, closed := changes(b, api, commits, gates[n:])
	each := (a.worked(b) - before) / (2 * agentChanges)
	most := n == slices.Max(exposureCounts(b))
	for i, took := range [][]time.Duration{opened, closed} {
		what := []string{"opened", "closed"}[i]
		note(fmt.Sprintf("one port %s, event to committed, least", what), milli(took[0]), "ms")
		note("the same, p50", milli(at(took, 50)), "ms")
		if most {
			goal(b, "the same, p99", milli(at(took, 99)), "ms", 2)
		} else {
			note("the same, p99", milli(at(took, 99)), "ms")
		}
	}
	note("processor time of the agent for a change, looks at the kernel among it", milli(each), "ms")
	a.settle(b, api)
	worked, began := a.worked(b), time.Now()
	time.Sleep(agentIdle)
	share := 100 * (a.worked(b) - worked).Seconds() / time.Since(began).Seconds()
	goal(b, "idle, share of a core", share, "%", 0.5)
	goal(b, "memory (RSS)", a.rss(b, "VmRSS"), "MiB", 64)
	note("the same at its peak", a.rss(b, "VmHWM"), "MiB")
	note("of which heap in use", a.heap(b), "MiB")
	fmt.Printf("%s\n", conditions())
}

// standing puts up what is there before the agent comes.
func standing(b *testing.B, api *apiServer, gates []gate) {
	b.Helper()
	api.put(b, "nodes", "PartialObjectMetadata", &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n1"}})
	for i := range teams {
		pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: team(i)}}
		const each = 30_000 / teams
		numbers := fmt.Sprintf("%d-%d", firstNumber+i*each, firstNumber+(i+1)*each-1)
		pool.Spec.Category, pool.Spec.Team, pool.Spec.Ranges = "web", team(i), []v1alpha1.PortRange{v1alpha1.PortRange(numbers)}
		pool.Status.Armed = []string{numbers}
		api.put(b, "nodeportpools", "NodePortPool", pool)
	}
	for _, g := range gates {
		api.put(b, "nodeportallocations", "NodePortAllocation", allocationOf(g, v1alpha1.AllocationOpen))
	}
}

func allocationOf(g gate, state v1alpha1.AllocationState) *v1alpha1.NodePortAllocation {
	a := &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{
		Name: strconv.Itoa(int(g.number)), UID: "3f0ffde3-7b8e-4b9f-8f0c-4d0c2d5e7a11", CreationTimestamp: metav1.Now(),
		Labels: map[string]string{"portreeve.dev/namespace": "shop", "portreeve.dev/policy": fmt.Sprintf("shop-%d", g.number)},
		// As the API server sends it, for nothing.
		ManagedFields: []metav1.ManagedFieldsEntry{{
			Manager: "manager", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "portreeve.dev/v1alpha1", FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{}},"f:spec":{".":{},"f:claim":{".":{},"f:namespace":{},"f:policy":{},"f:service":{}},"f:pool":{},"f:ports":{},"f:protocols":{},"f:state":{},"f:team":{}}}`),
		}},
	}}
	port := v1alpha1.ClaimedPort{Protocol: "TCP", Name: "https", Port: 443}
	if state == v1alpha1.AllocationOpen {
		for _, p := range g.sources {
			port.Sources = append(port.Sources, v1alpha1.CIDR(p.String()))
		}
	}
	a.Spec = v1alpha1.NodePortAllocationSpec{
		State: state, Pool: team(int(g.number-firstNumber) * teams / 30_000), Team: "payments", Protocols: []v1alpha1.Protocol{"TCP"}, Ports: []v1alpha1.ClaimedPort{port},
		Claim: v1alpha1.Claim{Namespace: "shop", Policy: fmt.Sprintf("shop-%d", g.number), Service: "shop"},
	}
	return a
}

// changes opens a port and closes it, one at a time, and returns how long each took;
// sorted.
func changes(b *testing.B, api *apiServer, commits <-chan time.Time, gates []gate) (opened, closed []time.Duration) {
	b.Helper()
	timed := func(g gate, state v1alpha1.AllocationState) time.Duration {
		time.Sleep(agentPause)
		for len(commits) > 0 {
			<-commits
		}
		a := allocationOf(g, state)
		began := time.Now()
		api.put(b, "nodeportallocations", "NodePortAllocation", a)
		select {
		case t := <-commits:
			return t.Sub(began)
		case <-time.After(10 * time.Second):
			b.Fatalf("the kernel heard nothing of %s", a.Name)
		}
		return 0
	}
	for i := range agentChanges {
		g := gates[i%len(gates)]
		opened = append(opened, timed(g, v1alpha1.AllocationOpen))
		closed = append(closed, timed(g, v1alpha1.AllocationClosed))
	}
	slices.Sort(opened)
	slices.Sort(closed)
	return opened, closed
}

// committed tells of each transaction that nf_tables commits.
func committed(b *testing.B, n *datapathtest.Namespace) <-chan time.Time {
	b.Helper()
	var conn *netlink.Conn
	must(b, n.Do(func() (err error) {
		conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	}))
	b.Cleanup(func() { _ = conn.Close() })
	must(b, conn.SetReadBuffer(64<<20))
	must(b, conn.JoinGroup(unix.NFNLGRP_NFTABLES))
	commits := make(chan time.Time, 10_000)
	go func() {
		for {
			messages, err := conn.Receive()
			if err != nil {
				return
			}
			now := time.Now()
			for _, m := range messages {
				if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
					commits <- now
				}
			}
		}
	}()
	return commits
}

// agentProcess is an agent that runs.
type agentProcess struct {
	node *datapathtest.Namespace
	pid  int
	log  bytes.Buffer
}

func startAgent(b *testing.B, node *datapathtest.Namespace, api *apiServer) *agentProcess {
	b.Helper()
	build(context.Background(), b)
	dir := b.TempDir()
	config := filepath.Join(dir, "kubeconfig")
	must(b, os.WriteFile(config, []byte(api.kubeconfig()), 0o600))
	a := &agentProcess{node: node}
	cmd := exec.Command(filepath.Join(programs, "agent"), "--node", "n1", "--kubeconfig", config, "--state-dir", filepath.Join(dir, "state"))
	cmd.Stderr = &a.log
	must(b, node.Do(cmd.Start))
	a.pid = cmd.Process.Pid
	b.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if b.Failed() {
			b.Logf("%s", a.log.Bytes())
		}
	})
	return a
}

// settle returns when the agent vouches for all allocations, and has had time to write
// down what it enforces.
func (a *agentProcess) settle(b *testing.B, api *apiServer) {
	b.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		api.mu.Lock()
		newest := 0
		for _, data := range api.objects["nodeportallocations"] {
			_, rest, _ := bytes.Cut(data, []byte(`"resourceVersion":"`))
			text, _, _ := bytes.Cut(rest, []byte(`"`))
			version, err := strconv.Atoi(string(text))
			must(b, err)
			newest = max(newest, version)
		}
		api.mu.Unlock()
		if api.enforced() == strconv.Itoa(newest) {
			break
		}
		if time.Since(began) > time.Minute {
			b.Fatalf("the agent vouches for allocations up to %q only, of %d", api.enforced(), newest)
		}
	}
	time.Sleep(5 * time.Second)
}

// rss is the memory that the agent takes, in MiB.
func (a *agentProcess) rss(b *testing.B, field string) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.pid))
	must(b, err)
	_, rest, _ := strings.Cut(string(status), field+":")
	kilobytes, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	must(b, err)
	return kilobytes / 1024
}

// worked is how long the processors have worked for the agent.
func (a *agentProcess) worked(b *testing.B) (sum time.Duration) {
	b.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", a.pid))
	must(b, err)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		must(b, err)
		took, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		must(b, err)
		sum += time.Duration(took)
	}
	return sum
}

// heap is what is in use of it, in MiB, as the agent says.
func (a *agentProcess) heap(b *testing.B) float64 {
	b.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
		err = a.node.Do(func() (err error) {
			conn, err = net.Dial(network, address)
			return err
		})
		return conn, err
	}}}
	answer, err := client.Get("http://127.0.0.1:9465/metrics")
	must(b, err)
	defer answer.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(answer.Body)
	must(b, err)
	_, rest, _ := strings.Cut(text.String(), "\ngo_memstats_heap_inuse_bytes ")
	bytes, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	must(b, err)
	return bytes / (1 << 20)
}
