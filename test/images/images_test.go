// Package images runs manager and agent in the lab from the root filesystems of their
// images, read-only and with nothing else of this machine, as a container would.
package images

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// Folder names where `make test-images` has unpacked the images.
const folder = "PORTREEVE_IMAGES"

// within bounds every wait.
const within = time.Minute

// contained runs a program with an image for its root, read-only, and of this machine no
// more than a container has: /proc, /sys, /dev/null, a few volumes.
const contained = `set -eu
root=$1 state=$2 user=$3; shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
for volume in /proc /sys; do mount --rbind $volume "$root$volume"; done
mount -t tmpfs tmpfs "$root/dev"; : >"$root/dev/null"; mount --bind /dev/null "$root/dev/null"
mount -t tmpfs tmpfs "$root/run"
cp "$KUBECONFIG" "$root/run/kubeconfig"; chmod 644 "$root/run/kubeconfig"
[ "$state" = none ] || { mount -t tmpfs tmpfs "$root/var/lib/portreeve"; mount --bind "$state" "$root/var/lib/portreeve"; }
exec env -i PATH=/usr/local/bin:/usr/sbin /usr/sbin/chroot --userspec="$user" "$root" "$@" --kubeconfig=/run/kubeconfig`

type scene struct {
	*testing.T
	ctx    context.Context
	images string
	town   *stage.Stage
	office *lab.Client
	policy *v1alpha1.NodePortPolicy
}

// root returns the unpacked image; what a container runtime makes in it is made.
func (s *scene) root(name string) string {
	s.Helper()
	root := filepath.Join(s.images, name)
	for _, volume := range []string{"proc", "sys", "dev", "run", "var/lib/portreeve"} {
		if err := os.MkdirAll(filepath.Join(root, volume), 0o755); err != nil {
			s.Fatal(err)
		}
	}
	return root
}

func TestImagesHoldWhatTheirProgramsNeedAndNoMore(t *testing.T) {
	s := &scene{T: t, images: unpacked(t)}
	for name, programs := range map[string][]string{
		"manager": {"manager"},
		"agent": {
			"agent", "ip6tables", "ip6tables-legacy", "ip6tables-legacy-restore", "ip6tables-legacy-save", "ip6tables-nft", "ip6tables-nft-restore", "ip6tables-nft-save", "ip6tables-restore", "ip6tables-save",
			"iptables", "iptables-legacy", "iptables-legacy-restore", "iptables-legacy-save", "iptables-nft", "iptables-nft-restore", "iptables-nft-save", "iptables-restore", "iptables-save",
			"xtables-legacy-multi", "xtables-nft-multi",
		},
	} {
		var have []string
		err := filepath.WalkDir(s.root(name), func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			// What the loader runs as a program is one to nobody else.
			info, err := os.Stat(path)
			if err == nil && info.Mode()&0o111 != 0 && !strings.Contains(entry.Name(), ".so") {
				have = append(have, entry.Name())
			}
			return err
		})
		slices.Sort(have)
		if err != nil || !slices.Equal(have, programs) {
			t.Errorf("programs in the image of the %s: %v, %v", name, have, err)
		}
		config, err := os.ReadFile(filepath.Join(s.images, name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, label := range []string{"title", "description", "source", "version", "revision"} {
			if !strings.Contains(string(config), `"org.opencontainers.image.`+label+`": "`) {
				t.Errorf("the image of the %s lacks the label %s", name, label)
			}
		}
		if root := !strings.Contains(string(config), `"User": "65532:65532"`); root != (name == "agent") {
			t.Errorf("the image of the %s runs as root: %v", name, root)
		}
	}
	if packages, err := os.ReadDir(filepath.Join(s.images, "agent/var/lib/dpkg/status.d")); err != nil || len(packages) < 5 {
		t.Errorf("who looks for flaws in the agent's image finds %d packages: %v", len(packages), err)
	}
}

// A namespace's port is given by the manager's image, and gated by the agent's, with each
// firewall.
func TestImagesWorkInTheLab(t *testing.T) {
	s := setUp(t)
	s.exposed()
	for _, c := range []struct {
		firewall v1alpha1.Firewall
		datapath string
	}{{v1alpha1.FirewallNFTables, "nftables"}, {v1alpha1.FirewallIPTables, "iptables"}} {
		s.filters(c.firewall, c.datapath)
		s.asked("203.0.113.1", lab.Answered)
		s.asked("203.0.113.9", lab.TimedOut)
	}
}

func unpacked(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(folder)
	if dir == "" {
		t.Skipf("$%s is not set: make test-images builds the images and tries them", folder)
	}
	return dir
}

func setUp(t *testing.T) *scene {
	t.Helper()
	images := unpacked(t)
	ctrllog.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	s := &scene{T: t, ctx: ctx, images: images}
	cluster, err := lab.Start(ctx, lab.Options{Nodes: 1, KubeProxy: lab.NFTables, ControllerManager: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS")})
	if err != nil {
		t.Fatal(err)
	}
	cluster.CloseOnInterrupt()
	t.Cleanup(func() { cluster.Close() })
	if s.town, err = stage.New(ctx, cluster, ""); err != nil {
		t.Fatal(err)
	}
	if s.office, err = s.town.AddClient("office", netip.MustParsePrefix("203.0.113.0/28")); err != nil {
		t.Fatal(err)
	}
	config, err := s.town.ManagerConfig(ctx)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := s.town.WriteKubeconfig("manager", config)
	if err != nil {
		t.Fatal(err)
	}
	s.run("manager", nil, kubeconfig, "none", "65532:65532", "/usr/local/bin/manager", "--lease-duration", "5s")

	node := s.town.Nodes()[0]
	if config, err = s.town.AgentConfig(ctx, node.Name); err != nil {
		t.Fatal(err)
	}
	if kubeconfig, err = s.town.WriteKubeconfig("agent", config); err != nil {
		t.Fatal(err)
	}
	s.run("agent", node.Namespace, kubeconfig, t.TempDir(), "0:0", "/usr/local/bin/agent", "--node", node.Name)
	return s
}

// run starts the program of an image in a namespace of the lab.
func (s *scene) run(image string, in *lab.Namespace, kubeconfig, state, user string, argv ...string) {
	s.Helper()
	outside := []string{"unshare", "--mount", "/bin/sh", "-c", contained, "container", s.root(image), state, user}
	_, err := s.town.Run(s.ctx, lab.Command{Name: image, In: in, Argv: append(outside, argv...), Env: []string{"KUBECONFIG=" + kubeconfig}})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *scene) exposed() {
	s.Helper()
	if _, err := s.town.AddPod(s.ctx, s.town.Nodes()[0], "shop", "pod", map[string]string{"app": "shop"}); err != nil {
		s.Fatal(err)
	}
	s.policy = &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop"}, Spec: v1alpha1.NodePortPolicySpec{
		Category: "web", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: "203.0.113.0/29"}},
	}}
	for _, o := range []client.Object{
		&v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}},
		&v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.NodePortPoolSpec{
			Category: "web", Team: "shop", Ranges: []v1alpha1.PortRange{"30000-30009"},
			AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"shop"}},
		}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop"}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(lab.EchoPort)}},
		}},
		s.policy,
	} {
		if err := s.town.Client.Create(s.ctx, o); err != nil {
			s.Fatal(err)
		}
	}
}

// filters has the node filter by that, and waits for the proof.
func (s *scene) filters(firewall v1alpha1.Firewall, datapath string) {
	s.Helper()
	var object v1alpha1.Portreeve
	s.eventually("ask for "+string(firewall), func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKey{Name: v1alpha1.InstallationName}, &object); err != nil {
			return err
		}
		object.Spec.Firewall = firewall
		return s.town.Client.Update(s.ctx, &object)
	})
	s.eventually("the node filters by "+datapath, func() error {
		var report v1alpha1.NodeDatapath
		if err := s.town.Client.Get(s.ctx, client.ObjectKey{Name: s.town.Nodes()[0].Name}, &report); err != nil {
			return err
		}
		if !strings.HasPrefix(report.Status.Datapath, datapath) || !meta.IsStatusConditionTrue(report.Status.Conditions, v1alpha1.Enforced) {
			return fmt.Errorf("%+v", report.Status)
		}
		return nil
	})
	s.eventually("the policy is Ready", func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.policy), s.policy); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(s.policy.Status.Conditions, v1alpha1.Ready) {
			return fmt.Errorf("%+v", s.policy.Status.Conditions)
		}
		return nil
	})
}

func (s *scene) asked(source string, want lab.Outcome) {
	s.Helper()
	to := netip.AddrPortFrom(s.town.Nodes()[0].Addrs[0], uint16(s.policy.Status.Allocations[0].NodePort))
	s.eventually(source+": "+want.String(), func() error {
		if a := s.office.Ask(s.ctx, lab.Flow{From: netip.AddrPortFrom(netip.MustParseAddr(source), 0), To: to}); a.Outcome != want {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

// eventually tries until there is no error, for a bounded time.
func (s *scene) eventually(what string, try func() error) {
	s.Helper()
	if err := stage.Eventually(s.ctx, within, try); err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}
