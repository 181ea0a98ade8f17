package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/lab"
)

// proxy is a real nginx or HAProxy on a machine of its own beside the cluster. Its
// keeper does what people are told to do: put the file in place, and reload.
type proxy struct {
	*lab.Client
	process *lab.Process
	file    string
	reload  syscall.Signal
	loaded  string
}

const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

// program finds a program of Debian's package, whatever PATH says.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	t.Skipf("SKIPPED: no %s here, so no real traffic went through a front; apt-get install nginx-core libnginx-mod-stream haproxy, and see that they stay off", name)
	return ""
}

func startNginx(s *scene, config string) *proxy {
	s.Helper()
	p := &proxy{Client: sharedClient(s.T, "edge"), reload: syscall.SIGHUP}
	dir := s.TempDir()
	path := program(s.T, "nginx")
	load := ""
	if _, err := os.Stat(nginxModule); err == nil {
		load = "load_module " + nginxModule + ";\n"
	}
	p.file = filepath.Join(dir, "stream.conf")
	p.place(s, config)
	text := fmt.Sprintf("%suser root;\ndaemon off;\nworker_processes 1;\npid %[2]s/pid;\nerror_log %[2]s/log info;\nevents {}\nstream {\ninclude %[2]s/stream.conf;\n}\n", load, dir)
	p.run(s, "nginx", []string{path, "-e", dir + "/log", "-c", write(s, filepath.Join(dir, "nginx.conf"), text)})
	return p
}

func startHAProxy(s *scene, config string) *proxy {
	s.Helper()
	p := &proxy{Client: sharedClient(s.T, "portal"), reload: syscall.SIGUSR2}
	p.file = filepath.Join(s.TempDir(), "haproxy.cfg")
	p.place(s, config)
	p.run(s, "haproxy", []string{program(s.T, "haproxy"), "-W", "-db", "-f", p.file})
	return p
}

func write(s *scene, file, text string) string {
	s.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	return file
}

func (p *proxy) place(s *scene, config string) {
	write(s, p.file, config)
	p.loaded = config
}

func (p *proxy) run(s *scene, name string, argv []string) {
	s.Helper()
	var err error
	if p.process, err = town.Run(s.ctx, lab.Command{Name: name, In: p.Namespace, Argv: argv}); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(p.process.Kill)
}

// follow reloads the proxy when its ConfigMap has changed.
func (p *proxy) follow(s *scene, name, key string) {
	s.Helper()
	if config := s.front(name).Data[key]; config != p.loaded {
		p.place(s, config)
		p.process.Signal(p.reload)
	}
}

// front returns the ConfigMap, an empty one when there is none.
func (s *scene) front(name string) *corev1.ConfigMap {
	s.Helper()
	c := &corev1.ConfigMap{}
	if err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: name}, c); client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	return c
}

// through asks the street's way through a proxy, once.
func (s *scene) through(p *proxy, network string, port uint16, family int, patience time.Duration) error {
	a := s.street.Ask(s.ctx, lab.Flow{Network: network, To: netip.AddrPortFrom(p.Addrs[family%len(p.Addrs)], port), Timeout: patience})
	if a.Outcome != lab.Answered {
		return fmt.Errorf("%s through %s, port %d, family %d: %s", network, p.Name, port, family, a)
	}
	return nil
}

// passes asks over and over, in both families; each question must be answered.
func (s *scene) passes(what string, p *proxy, network string, port uint16, patience time.Duration) {
	s.Helper()
	for i := range 12 {
		if err := s.through(p, network, port, i, patience); err != nil {
			s.Errorf("%s: question %d: %v\n%s", what, i, err, p.process.Tail(10))
		}
	}
}

func (s *scene) names(configMap string, nodes ...*lab.Node) {
	s.Helper()
	var want []string
	for _, n := range nodes {
		want = append(want, n.Name)
	}
	s.eventually(fmt.Sprintf("ConfigMap %s names %v", configMap, want), func() error {
		if have := s.front(configMap).Annotations[v1alpha1.AnnotationFrontNodes]; have != strings.Join(want, ",") {
			return fmt.Errorf("it names %q", have)
		}
		return nil
	})
}

// The real programs carry real traffic from somebody whom no node admits, by the
// configuration that the policy keeps, while a node dies and comes back.
func TestFrontsCarryTrafficThroughANodesDeath(t *testing.T) {
	s := open(t, "front", "30750-30759")
	program(t, "nginx")
	program(t, "haproxy")
	edge, portal := sharedClient(t, "edge"), sharedClient(t, "portal")
	policy := s.policy("shop")
	for _, a := range append(append([]netip.Addr{}, edge.Addrs...), portal.Addrs...) {
		policy.Spec.Sources = append(policy.Spec.Sources, v1alpha1.Source{CIDR: v1alpha1.CIDR(netip.PrefixFrom(a, a.BitLen()).String())})
	}
	policy.Spec.Ports = []v1alpha1.PolicyPort{{Name: "https"}, {Port: 53}}
	policy.Spec.Front = &v1alpha1.Front{
		Nginx: &v1alpha1.ProxyFront{ConfigMap: "shop-nginx"}, HAProxy: &v1alpha1.ProxyFront{ConfigMap: "shop-haproxy"},
		Ports: []v1alpha1.FrontPort{{Port: 53, Listen: 8053}},
	}
	s.create(policy)
	s.awaitReady(policy)
	s.awaitReason(policy, v1alpha1.Fronted, v1alpha1.ReasonOK)
	nodes := town.Nodes()
	s.names("shop-nginx", nodes...)
	s.names("shop-haproxy", nodes...)
	nginx := startNginx(s, s.front("shop-nginx").Data[compile.NginxKey])
	haproxy := startHAProxy(s, s.front("shop-haproxy").Data[compile.HAProxyKey])
	ways := []struct {
		*proxy
		network string
		port    uint16
	}{{nginx, "tcp", 443}, {nginx, "tcp", 8053}, {nginx, "udp", 8053}, {haproxy, "tcp", 443}, {haproxy, "tcp", 8053}}
	for _, w := range ways {
		s.eventually("the way is open", func() error { return s.through(w.proxy, w.network, w.port, 0, time.Second) })
		s.passes("all nodes are well", w.proxy, w.network, w.port, 5*time.Second)
	}

	dead := nodes[2]
	if err := town.CutLink(dead); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = town.RestoreLink(dead) })
	for _, w := range ways { // nobody knows yet but the proxies themselves
		if w.network == "tcp" {
			s.passes("a node has just died", w.proxy, w.network, w.port, 10*time.Second)
		}
	}
	if err := dead.Fail(s.ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dead.Recover(context.Background()) })
	told := time.Now()
	s.names("shop-nginx", nodes[:2]...)
	s.names("shop-haproxy", nodes[:2]...)
	took := time.Since(told)
	t.Logf("a node that is not Ready is out of the fronts after %s", took.Round(time.Millisecond))
	if took > 8*time.Second { // two seconds, and what a busy machine adds; without gateways it never is ten
		t.Errorf("a node that is not Ready is still named after %s", took)
	}
	s.follows(nginx, haproxy)
	for _, w := range ways {
		s.passes("the node is out", w.proxy, w.network, w.port, 5*time.Second)
	}

	if err := town.RestoreLink(dead); err != nil {
		t.Fatal(err)
	}
	if err := dead.Recover(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.names("shop-nginx", nodes...)
	s.names("shop-haproxy", nodes...)
	s.follows(nginx, haproxy)
	for _, w := range ways {
		s.passes("the node is back", w.proxy, w.network, w.port, 10*time.Second)
	}
	s.unwritten(policy)
	s.ends(policy, nginx, haproxy)
}

// follows has both proxies take what is there, and waits until nginx has new workers.
func (s *scene) follows(nginx, haproxy *proxy) {
	s.Helper()
	nginx.follow(s, "shop-nginx", compile.NginxKey)
	haproxy.follow(s, "shop-haproxy", compile.HAProxyKey)
	udp := func(i int) error { return s.through(nginx, "udp", 8053, 0, 200*time.Millisecond) }
	s.eventually("the proxies have reloaded", func() error {
		for i := range 6 {
			if err := udp(i); err != nil {
				return err
			}
		}
		return s.through(haproxy, "tcp", 443, 0, 200*time.Millisecond)
	})
}

// unwritten sees that what changes nothing writes nothing.
func (s *scene) unwritten(policy *v1alpha1.NodePortPolicy) {
	s.Helper()
	before := []string{s.front("shop-nginx").ResourceVersion, s.front("shop-haproxy").ResourceVersion}
	port := policy.Status.Allocations[0].NodePort
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { // every node has to enforce it anew
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{CIDR: officeCIDR})
	})
	if again := s.awaitReady(policy); int32(again) != port {
		s.Errorf("the port moved from %d to %d", port, again)
	}
	s.answers(s.office, from(officeCIDR, 1), uint16(port))
	s.awaitReason(policy, v1alpha1.Fronted, v1alpha1.ReasonOK)
	if after := []string{s.front("shop-nginx").ResourceVersion, s.front("shop-haproxy").ResourceVersion}; after[0] != before[0] || after[1] != before[1] {
		s.Errorf("an edit that moves no address has written the fronts: %v, before %v", after, before)
	}
}

// ends sees that a policy that has ended leaves files that the programs take and in
// which nobody listens, and that a policy that goes takes its ConfigMaps along.
func (s *scene) ends(policy *v1alpha1.NodePortPolicy, nginx, haproxy *proxy) {
	s.Helper()
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.ExpiresAt = &metav1.Time{Time: time.Now().Add(-time.Minute)} })
	s.names("shop-nginx")
	s.names("shop-haproxy")
	nginx.follow(s, "shop-nginx", compile.NginxKey)
	haproxy.follow(s, "shop-haproxy", compile.HAProxyKey)
	for _, p := range []*proxy{nginx, haproxy} {
		s.eventually("nobody listens on "+p.Name, func() error {
			if a := s.street.Ask(s.ctx, lab.Flow{To: netip.AddrPortFrom(p.Addrs[0], 443)}); a.Outcome != lab.Refused {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
		select {
		case <-p.process.Done():
			s.Errorf("%s ended: %v\n%s", p.Name, p.process.Err(), p.process.Tail(10))
		default:
		}
	}
	s.awaitReason(policy, v1alpha1.Fronted, v1alpha1.ReasonOK)
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Front.HAProxy = nil })
	s.gone("shop-haproxy")
	s.delete(policy)
	s.gone("shop-nginx")
}

func (s *scene) gone(configMap string) {
	s.Helper()
	s.eventually("ConfigMap "+configMap+" is gone", func() error {
		err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: configMap}, &corev1.ConfigMap{})
		if err == nil {
			return fmt.Errorf("it is there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}
