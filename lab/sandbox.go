package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// restartPause is between the end of a container's program and its restart.
const restartPause = time.Second

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

	mu         sync.Mutex
	containers []corev1.ContainerStatus
	processes  map[string]*Process // by container
}

func newSandbox(ctx context.Context, n *Node, pod *corev1.Pod) *sandbox {
	s := &sandbox{node: n, pod: pod, processes: map[string]*Process{}}
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
	c := s.node.cluster
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

// runContainer starts the container's program, and again whenever it ends.
func (s *sandbox) runContainer(i int) {
	for s.ctx.Err() == nil {
		program, err := s.startContainer(i)
		if err != nil {
			s.update(i, func(status *corev1.ContainerStatus) {
				status.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
					Reason: "CreateContainerError", Message: err.Error(),
				}}
			})
			pause(s.ctx, restartPause)
			continue
		}
		if p, ok := program.(*Process); ok {
			s.mu.Lock()
			s.processes[s.pod.Spec.Containers[i].Name] = p
			s.mu.Unlock()
		}
		started := true
		s.update(i, func(status *corev1.ContainerStatus) {
			status.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
			status.Started = &started
		})
		s.awaitReady(i, program)
		select {
		case <-program.Done():
			s.node.cluster.options.Logf("pod %s: %s ended: %v", podKey(s.pod), s.containers[i].Name, program.Err())
			s.update(i, func(status *corev1.ContainerStatus) {
				status.Ready = false
				status.RestartCount++
				status.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
			})
			pause(s.ctx, restartPause)
		case <-s.ctx.Done():
			program.Stop(s.grace())
		}
	}
}

func (s *sandbox) process(container string) *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processes[container]
}

func (s *sandbox) grace() time.Duration {
	if g := s.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return 30 * time.Second
}

// awaitReady marks the container ready once its readiness probe, if it has one,
// has succeeded. It gives up when the program or the pod ends.
func (s *sandbox) awaitReady(i int, p program) {
	probe := s.pod.Spec.Containers[i].ReadinessProbe
	for probe != nil && s.probe(probe) != nil {
		select {
		case <-p.Done():
			return
		case <-s.ctx.Done():
			return
		case <-time.After(100 * time.Millisecond): // a kubelet's finest grain is 1 s
		}
	}
	s.update(i, func(status *corev1.ContainerStatus) { status.Ready = true })
}

func (s *sandbox) probe(probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	host := s.ips[0].String()
	switch {
	case probe.HTTPGet != nil:
		if probe.HTTPGet.Host != "" {
			host = probe.HTTPGet.Host
		}
		return s.ns.getOK(ctx, "http://"+net.JoinHostPort(host, probe.HTTPGet.Port.String())+probe.HTTPGet.Path)
	case probe.TCPSocket != nil:
		conn, err := s.ns.DialContext(ctx, "tcp", net.JoinHostPort(host, probe.TCPSocket.Port.String()))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return nil
}

// plugIn gives the pod its namespace and network.
func (s *sandbox) plugIn() error {
	n := s.node
	if s.pod.Spec.HostNetwork {
		s.ns, s.ips = n.Namespace, n.Addrs
		return nil
	}
	var err error
	if s.host, err = n.takeHost(); err != nil {
		return err
	}
	// Pods may be many and names long: interfaces go by number.
	port := fmt.Sprintf("pod%d", s.host)
	if s.ns, err = n.cluster.newNamespace(strings.Join([]string{n.Name, s.pod.Namespace, s.pod.Name}, "-")); err != nil {
		return err
	}
	link, hostLink, err := vethPair(s.ns, "eth0", n.Namespace, port)
	if err != nil {
		return err
	}
	gateways := []netip.Addr{n.Addrs[0], podGatewayIPv6}
	for i, cidr := range n.PodCIDRs {
		ip := hostAddr(cidr, s.host)
		s.ips = append(s.ips, ip)
		own := netip.PrefixFrom(ip, ip.BitLen())
		if err := addAddr(s.ns, link, own); err != nil {
			return err
		}
		if cidr.Addr().Is6() {
			if err := addAddr(n.Namespace, hostLink, netip.PrefixFrom(podGatewayIPv6, 64)); err != nil {
				return err
			}
		}
		err := addRoute(n.Namespace, netlink.Route{
			LinkIndex: hostLink.Attrs().Index, Dst: ipNet(own), Src: n.Addrs[i].AsSlice(),
		})
		if err != nil {
			return err
		}
		err = addRoute(s.ns, netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(unspecified(ip), 0)),
			Gw: gateways[i].AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unplug gives back what plugIn took. The link goes first, with its routes, so
// that the address can be used again even while the namespace lingers.
func (s *sandbox) unplug() {
	n := s.node
	if s.host != 0 && s.ns != nil {
		var errs []error
		if link, err := n.links.LinkByName(fmt.Sprintf("pod%d", s.host)); err == nil {
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

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// update changes a container's status and reports the pod's. Reports are in the
// order of the changes: the last one stands.
func (s *sandbox) update(i int, change func(*corev1.ContainerStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.containers[i])
	patch, err := json.Marshal(map[string]any{"status": s.status()})
	if err != nil {
		panic(err) // plain API types
	}
	pods := s.node.cluster.client.CoreV1().Pods(s.pod.Namespace)
	retry(s.ctx, func() error {
		_, err := pods.Patch(s.ctx, s.pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		return ignoreGone(err)
	})
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
