package lab

import (
	"context"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// restartPause is between the end of a container's program and its restart.
const restartPause = time.Second

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
	for probe != nil && s.probe(probe, s.pod.Spec.Containers[i].Ports) != nil {
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

// probe tries a probe once; ports are the container's, which it may name.
func (s *sandbox) probe(probe *corev1.Probe, ports []corev1.ContainerPort) error {
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	host := s.ips[0].String()
	switch {
	case probe.HTTPGet != nil:
		if probe.HTTPGet.Host != "" {
			host = probe.HTTPGet.Host
		}
		return s.ns.getOK(ctx, "http://"+net.JoinHostPort(host, number(probe.HTTPGet.Port, ports))+probe.HTTPGet.Path)
	case probe.TCPSocket != nil:
		conn, err := s.ns.DialContext(ctx, "tcp", net.JoinHostPort(host, number(probe.TCPSocket.Port, ports)))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return nil
}

// number spells a port that may be named.
func number(port intstr.IntOrString, named []corev1.ContainerPort) string {
	for _, p := range named {
		if port.Type == intstr.String && p.Name == port.StrVal {
			return strconv.Itoa(int(p.ContainerPort))
		}
	}
	return port.String()
}
