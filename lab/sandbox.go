package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A sandbox is one pod as its node runs it: a namespace (or the node's own, for
// hostNetwork) and a program per container.
type sandbox struct {
	node *Node
	pod  *corev1.Pod
	ns   *Namespace
	host int // its host number in the node's pod networks; 0 for hostNetwork
	ips  []netip.Addr

	ctx  context.Context
	stop context.CancelFunc

	// before is an earlier pod of this one's name, whose namespace must be gone
	// first; gone is closed when this one's is.
	before *sandbox
	gone   chan struct{}

	changed chan struct{} // holds one token while a report is due

	kubeconfigMu sync.Mutex
	kubeconfig   string // path; kept for restarts, which an API outage must not hinder

	mu         sync.Mutex
	containers []corev1.ContainerStatus
	processes  map[string]*Process // by container
}

func newSandbox(ctx context.Context, n *Node, pod *corev1.Pod) *sandbox {
	s := &sandbox{node: n, pod: pod, changed: make(chan struct{}, 1), gone: make(chan struct{}), processes: map[string]*Process{}}
	s.ctx, s.stop = context.WithCancel(ctx)
	for _, container := range pod.Spec.Containers {
		s.containers = append(s.containers, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}},
		})
	}
	return s
}

// run lives as long as the pod does.
func (s *sandbox) run() {
	defer close(s.gone)
	if s.before != nil {
		<-s.before.gone
		s.before = nil // else all earlier ones would be kept
	}
	c := s.node.cluster
	c.kubelets.Go(s.report)
	if err := s.plugIn(); err != nil {
		c.options.Logf("pod %s: %v", podKey(s.pod), err)
		s.update(0, func(status *corev1.ContainerStatus) {
			status.State.Waiting.Reason, status.State.Waiting.Message = "NetworkNotReady", err.Error()
		})
		<-s.ctx.Done()
	} else {
		var group errgroup.Group
		for i := range s.pod.Spec.Containers {
			group.Go(func() error { s.runContainer(i); return nil })
		}
		_ = group.Wait() // no error: a container that fails is restarted
	}
	if c.running.Err() != nil {
		return // the lab is being closed: the journal's undo is quicker and needs no API server
	}
	s.unplug()
	s.node.releasePod(c.running, s.pod)
}

// plugIn gives the pod its namespace and network.
func (s *sandbox) plugIn() error {
	n := s.node
	if s.pod.Spec.HostNetwork {
		s.settle(n.Namespace, n.Addrs)
		return nil
	}
	var err error
	if s.host, err = n.takeHost(); err != nil {
		return err
	}
	ns, err := n.cluster.newNamespace(strings.Join([]string{n.Name, s.pod.Namespace, s.pod.Name}, "-"))
	if err != nil {
		return err
	}
	// Pods may be many and names long: interfaces go by number.
	link, hostLink, err := vethPair(ns, "eth0", n.Namespace, s.port())
	if err != nil {
		return err
	}
	var ips []netip.Addr
	gateways := []netip.Addr{n.Addrs[0], podGatewayIPv6}
	for i, cidr := range n.PodCIDRs {
		ip := hostAddr(cidr, s.host)
		ips = append(ips, ip)
		if err := addAddr(ns, link, single(ip)); err != nil {
			return err
		}
		if ip.Is6() {
			if err := addAddr(n.Namespace, hostLink, netip.PrefixFrom(podGatewayIPv6, 64)); err != nil {
				return err
			}
		}
		there := netlink.Route{LinkIndex: hostLink.Attrs().Index, Dst: ipNet(single(ip)), Src: n.Addrs[i].AsSlice()}
		if err := addRoute(n.Namespace, there); err != nil {
			return err
		}
		back := netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(unspecified(ip), 0)),
			Gw: gateways[i].AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		}
		if err := addRoute(ns, back); err != nil {
			return err
		}
	}
	s.settle(ns, ips)
	return nil
}

// settle makes the finished network known to [Node.Pod].
func (s *sandbox) settle(ns *Namespace, ips []netip.Addr) {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	s.ns, s.ips = ns, ips
}

// port is the node's end of the pod's link.
func (s *sandbox) port() string { return fmt.Sprintf("pod%d", s.host) }

// unplug gives back what plugIn took. The link goes first, with its routes, so
// that the address can be used again even while the namespace lingers.
func (s *sandbox) unplug() {
	n := s.node
	if s.host != 0 && s.ns != nil { // else the node's own, or nothing
		var errs []error
		if link, err := n.links.LinkByName(s.port()); err == nil {
			errs = append(errs, n.links.LinkDel(link))
		}
		errs = append(errs, s.ns.remove())
		if err := errors.Join(errs...); err != nil {
			n.cluster.options.Logf("pod %s: %v", podKey(s.pod), err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hosts, s.host)
	if n.pods[podKey(s.pod)] == s {
		delete(n.pods, podKey(s.pod))
	}
}

// takeHost picks the lowest free host number of the node's pod networks.
func (n *Node) takeHost() (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for host := 2; host < 255; host++ {
		if !n.hosts[host] {
			n.hosts[host] = true
			return host, nil
		}
	}
	return 0, fmt.Errorf("node %s: no free pod address", n.Name)
}

func hostAddr(cidr netip.Prefix, host int) netip.Addr {
	b := cidr.Addr().AsSlice()
	b[len(b)-1] = byte(host)
	addr, _ := netip.AddrFromSlice(b) // same length: can't fail
	return addr
}

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// update changes a container's status; the report follows by itself.
func (s *sandbox) update(i int, change func(*corev1.ContainerStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.containers[i])
	s.due()
}

// repeat has the status reported anew if it says Ready and somebody says
// otherwise.
func (s *sandbox) repeat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if !c.Ready {
			return
		}
	}
	s.due()
}

func (s *sandbox) due() {
	select {
	case s.changed <- struct{}{}:
	default: // one is due already
	}
}

// report writes the pod's status whenever it has changed, on its own so that
// programs start and stop during an API outage too.
func (s *sandbox) report() {
	pods := s.node.cluster.client.CoreV1().Pods(s.pod.Namespace)
	for {
		select {
		case <-s.changed:
		case <-s.ctx.Done():
			return
		}
		retry(s.ctx, func() error {
			s.mu.Lock()
			patch, err := json.Marshal(map[string]any{"status": s.status()})
			s.mu.Unlock()
			if err != nil {
				panic(err) // plain API types
			}
			_, err = pods.Patch(s.ctx, s.pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
			return ignoreGone(err)
		})
	}
}

func (s *sandbox) status() corev1.PodStatus {
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &s.pod.CreationTimestamp,
		HostIP: s.node.Addrs[0].String(), ContainerStatuses: s.containers,
	}
	ready := corev1.ConditionTrue
	for _, container := range s.containers {
		if !container.Ready {
			ready = corev1.ConditionFalse
		}
		if container.State.Waiting != nil && container.RestartCount == 0 {
			status.Phase = corev1.PodPending
		}
	}
	for _, addr := range s.node.Addrs {
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: addr.String()})
	}
	for _, ip := range s.ips {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	if len(s.ips) > 0 {
		status.PodIP = s.ips[0].String()
	}
	for kind, value := range map[corev1.PodConditionType]corev1.ConditionStatus{
		corev1.PodScheduled: corev1.ConditionTrue, corev1.PodInitialized: corev1.ConditionTrue,
		corev1.ContainersReady: ready, corev1.PodReady: ready,
	} {
		status.Conditions = append(status.Conditions,
			corev1.PodCondition{Type: kind, Status: value, LastTransitionTime: metav1.Now()})
	}
	return status
}

// ignoreGone is for objects that may have been deleted meanwhile, or made anew.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
