package firewalls

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/portreeve/portreeve/datapath/datapathtest"
)

// house is where other programs live on a node: the machine's programs, with folders
// of their own to write in.
type house struct {
	t    *testing.T
	node *datapathtest.Namespace
	pid  string // of the process that keeps the house
}

// furnish runs as the first process of the house. It ends when its stdin does, with
// the test whatever becomes of that, and all that runs in the house ends with it. The
// firewalls load kernel modules, and firewalld unloads some: they are not to.
const furnish = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 house /mnt
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
for d in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 house $d; done
mkdir -p /run/dbus /run/lock
if [ -e /sbin/modprobe ]; then mount --bind /bin/true /sbin/modprobe; fi
for verb in "" -save -restore; do
	for base in iptables ip6tables; do
		ln -sf "$(command -v $base-$1$verb)" /etc/alternatives/$base$verb
	done
done
echo furnished
exec cat`

// newHouse makes a house on the node in which iptables is of the given variant.
func newHouse(t *testing.T, node *datapathtest.Namespace, variant string) *house {
	t.Helper()
	cmd := exec.Command("sh", "-c", furnish, "sh", variant)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Do(cmd.Start); err != nil {
		t.Fatalf("make a mount namespace (run as root): %v", err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "furnished\n" {
		t.Fatalf("the house is not furnished: %q, %v", line, err)
	}
	return &house{t: t, node: node, pid: strconv.Itoa(cmd.Process.Pid)}
}

// run runs a program in the house and returns what it printed.
func (h *house) run(line string) string {
	h.t.Helper()
	return h.node.Command(h.t, "", append(h.door(), strings.Fields(line)...)...)
}

// start starts a program that stays, until something in the house ends it or with the
// house; ended tells.
func (h *house) start(line string) (ended <-chan error) {
	h.t.Helper()
	argv := append(h.door(), strings.Fields(line)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := h.node.Do(cmd.Start); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return done
}

func (h *house) door() []string {
	return []string{"nsenter", "--target", h.pid, "--mount", "--pid", "--"}
}
