package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Pod is a pod of the lab, seen from outside the API.
type Pod struct {
	*Namespace
	Name  string
	Node  *Node
	Addrs []netip.Addr

	sandbox *sandbox
}

// AddPod runs a pod of [EchoImage] on a node, answering TCP and UDP on
// [EchoPort], and returns when it is Ready. Its namespace is made if need be.
func (c *Cluster) AddPod(ctx context.Context, n *Node, namespace, name string, labels map[string]string) (*Pod, error) {
	_, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
	}, metav1.CreateOptions{})
	if ignoreExists(err) != nil {
		return nil, err
	}
	noToken, noGrace := false, int64(0)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: n.Name, AutomountServiceAccountToken: &noToken, TerminationGracePeriodSeconds: &noGrace,
			Containers: []corev1.Container{{Name: "echo", Image: EchoImage, Ports: []corev1.ContainerPort{
				{ContainerPort: EchoPort, Protocol: corev1.ProtocolTCP},
				{ContainerPort: EchoPort, Protocol: corev1.ProtocolUDP},
			}}},
		},
	}
	// The namespace's default service account, without which no pod is admitted,
	// comes a moment after the namespace.
	err = c.await(ctx, nil, "pod "+podKey(pod)+" is admitted", func(ctx context.Context) error {
		_, err := c.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		return ignoreExists(err)
	})
	if err != nil {
		return nil, err
	}
	err = c.await(ctx, nil, "pod "+podKey(pod)+" is ready", func(ctx context.Context) error {
		got, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !podReady(got) {
			return fmt.Errorf("status %v", got.Status)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return n.Pod(namespace, name), nil
}

// Pod returns the named pod that runs on the node, or nil.
func (n *Node) Pod(namespace, name string) *Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.pods[namespace+"/"+name]
	if s == nil || s.ns == nil { // not there, or not yet
		return nil
	}
	return &Pod{Namespace: s.ns, Name: name, Node: n, Addrs: slices.Clone(s.ips), sandbox: s}
}

// Process is the program of one of the pod's containers, for killing it or
// reading its log; nil while it has none, and for [EchoImage].
func (p *Pod) Process(container string) *Process {
	return p.sandbox.process(container)
}

// EchoPort is where the pods of [Cluster.AddPod] answer.
const EchoPort = 8080

// EchoService is a NodePort Service in front of the pods of [Cluster.AddPod]
// that have these labels: TCP and UDP on one node port. The caller creates it,
// and may change it before.
func EchoService(namespace, name string, nodePort int32, selector map[string]string) *corev1.Service {
	policy := corev1.IPFamilyPolicyPreferDualStack
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: selector, IPFamilyPolicy: &policy},
	}
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
			Name: strings.ToLower(string(protocol)), Protocol: protocol, Port: EchoPort, TargetPort: intstr.FromInt32(EchoPort), NodePort: nodePort,
		})
	}
	return service
}

func podReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
