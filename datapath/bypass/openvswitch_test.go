package bypass_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/bypass"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/datapath/nftables"
	"github.com/portreeve/portreeve/internal/rule"
)

// The addresses of the stage: a client and a node, and a pod behind the node's bridge.
const (
	theClient = "10.9.0.2"
	theNode   = "10.9.0.1"
	thePod    = "10.9.0.5"
	nodePort  = 30080
	podPort   = 8080
)

// An Open vSwitch bridge, with its datapath in user space, that has the node's uplink and
// its address carries a node port by flows of its own: whom our rules drop is answered,
// and the bridge is found.
func TestOpenVSwitchCarriesANodePortAroundOurRules(t *testing.T) {
	ovs := startOpenVSwitch(t)
	client, pod := datapathtest.NewNamespace(t), datapathtest.NewNamespace(t)
	ovs.plug(client, "eth0", theClient)
	ovs.plug(pod, "pod0", thePod)
	ovs.node.Command(t, "", "ip", "address", "add", theNode+"/24", "dev", "br0")
	ovs.node.Command(t, "", "ip", "link", "set", "br0", "up")
	answerUDP(t, ovs.node, nodePort, "the node")
	answerUDP(t, pod, podPort, "the pod")
	ovs.vsctl("add-port", "br0", "eth0", "--", "add-port", "br0", "pod0")
	eventually(t, "the node answers over its bridge", func() bool { return ask(t, client) == "the node" })

	var gate *nftables.Datapath
	must(t, ovs.node.Do(func() (err error) { gate, err = nftables.New(); return err }))
	t.Cleanup(gate.Close)
	must(t, gate.Sync(t.Context(), rule.NewSet(rule.NewPortRanges(rule.PortRange{First: nodePort, Last: nodePort}), nil)))
	if answer := ask(t, client); answer != "" {
		t.Fatalf("%s answered whom our rules drop", answer)
	}

	flows := []string{
		"priority=100,in_port=eth0,udp,nw_dst=" + theNode + ",tp_dst=30080,actions=mod_dl_dst:" + mac(t, pod) + ",mod_nw_dst:" + thePod + ",mod_tp_dst:8080,output:pod0",
		"priority=100,in_port=pod0,udp,tp_src=8080,actions=mod_nw_src:" + theNode + ",mod_tp_src:30080,output:eth0",
	}
	for _, flow := range flows {
		ovs.ofctl("add-flow", "br0", flow)
	}
	eventually(t, "the pod answers whom our rules drop", func() bool { return ask(t, client) == "the pod" })
	var ways []bypass.Way
	must(t, ovs.node.Do(func() (err error) { ways, err = bypass.Find(nil); return err }))
	if want := (bypass.Way{Interface: "br0", Hook: "openvswitch", Program: "br0"}); len(ways) != 1 || ways[0] != want {
		t.Errorf("found %v, want %v", ways, want)
	}
	must(t, ovs.node.Do(func() (err error) { ways, err = bypass.Find([]string{"br0"}); return err }))
	if len(ways) != 0 {
		t.Errorf("found %v although the operator knows br0", ways)
	}
}

// openVSwitch runs in a node's namespace, with all its files in a folder of the test's.
type openVSwitch struct {
	t    *testing.T
	node *datapathtest.Namespace
	dir  string
}

// startOpenVSwitch starts it with one bridge, br0.
func startOpenVSwitch(t *testing.T) *openVSwitch {
	t.Helper()
	for _, program := range []string{"ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED, nobody tried Portreeve beside Open vSwitch here: %s is not on PATH (apt-get install openvswitch-switch, see hack/preflight)", program)
		}
	}
	o := &openVSwitch{t: t, node: datapathtest.NewNamespace(t), dir: t.TempDir()}
	tool, err := exec.LookPath("ovsdb-tool")
	must(t, err)
	schema := filepath.Join(filepath.Dir(tool), "../share/openvswitch/vswitch.ovsschema")
	o.node.Command(t, "", "ovsdb-tool", "create", o.file("conf.db"), schema)
	o.daemon("ovsdb-server", o.file("conf.db"), "--remote=p"+o.db(), "--unixctl="+o.file("db.ctl"))
	eventually(t, "the database listens", func() bool { // which is later than that its socket is there
		conn, err := net.Dial("unix", o.file("db.sock"))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	o.vsctl("--no-wait", "init")
	o.daemon("ovs-vswitchd", o.db(), "--unixctl="+o.file("switch.ctl"))
	o.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
	return o
}

func (o *openVSwitch) file(name string) string { return filepath.Join(o.dir, name) }

func (o *openVSwitch) db() string { return "unix:" + o.file("db.sock") }

// daemon runs a program in the node until the test ends.
func (o *openVSwitch) daemon(name string, args ...string) {
	o.t.Helper()
	command := exec.Command(name, append(args, "--log-file="+o.file(name+".log"), "-vconsole:off")...)
	command.Env = append(os.Environ(), "OVS_RUNDIR="+o.dir, "OVS_LOGDIR="+o.dir)
	must(o.t, o.node.Do(command.Start))
	o.t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
		if log, err := os.ReadFile(o.file(name + ".log")); err == nil && o.t.Failed() {
			o.t.Logf("%s: %s", name, log)
		}
	})
}

func (o *openVSwitch) vsctl(args ...string) {
	o.t.Helper()
	o.node.Command(o.t, "", append([]string{"ovs-vsctl", "--timeout=60", "--db=" + o.db()}, args...)...)
}

func (o *openVSwitch) ofctl(verb, bridge string, args ...string) {
	o.t.Helper()
	o.node.Command(o.t, "", append([]string{"ovs-ofctl", verb, "unix:" + o.file(bridge+".mgmt")}, args...)...)
}

// plug joins a namespace to the node by a veth, whose end in the node is a port to be.
func (o *openVSwitch) plug(n *datapathtest.Namespace, port, address string) {
	o.t.Helper()
	var pid int // of a process that is in the namespace while the link moves there
	sleeper := exec.Command("sleep", "600")
	must(o.t, n.Do(sleeper.Start))
	pid = sleeper.Process.Pid
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	o.node.Command(o.t, "", "ip", "link", "add", port, "type", "veth", "peer", "name", "if0", "netns", strconv.Itoa(pid))
	o.node.Command(o.t, "", "ip", "link", "set", port, "up")
	n.Command(o.t, "", "ip", "address", "add", address+"/24", "dev", "if0")
	n.Command(o.t, "", "ip", "link", "set", "if0", "up")
}

func mac(t *testing.T, n *datapathtest.Namespace) string {
	t.Helper()
	var address string
	must(t, n.Do(func() error {
		i, err := net.InterfaceByName("if0")
		if err == nil {
			address = i.HardwareAddr.String()
		}
		return err
	}))
	return address
}

// without leaves the checksum of UDP out: a packet that Open vSwitch in user space reads
// from a veth has none yet, and would get no right one.
func without(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) })
	return errors.Join(err, failed)
}

// answerUDP answers every datagram with who it is.
func answerUDP(t *testing.T, n *datapathtest.Namespace, port uint16, who string) {
	t.Helper()
	var conn *net.UDPConn
	must(t, n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
		return err
	}))
	must(t, without(conn))
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 64)
		for {
			_, peer, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return // closed
			}
			_, _ = conn.WriteToUDPAddrPort([]byte(who), peer)
		}
	}()
}

// ask returns who answers a client on the node port, "" for nobody.
func ask(t *testing.T, client *datapathtest.Namespace) string {
	t.Helper()
	var conn *net.UDPConn
	must(t, client.Do(func() (err error) {
		conn, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(theNode), nodePort)))
		return err
	}))
	defer conn.Close()
	must(t, without(conn))
	must(t, conn.SetDeadline(time.Now().Add(300*time.Millisecond)))
	if _, err := conn.Write([]byte("?")); err != nil {
		return ""
	}
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	if err != nil {
		return ""
	}
	return string(buffer[:n])
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
