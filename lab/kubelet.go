package lab

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	clientretry "k8s.io/client-go/util/retry"
)

// The fake kubelet: it registers its Node, renews the Lease (without which the
// node would be NotReady in 40 s), and runs the pods bound to the node.

const (
	leaseDuration = 40 * time.Second
	leaseRenewal  = 3 * time.Second
	// retryPause is short beside a real kubelet's: a lab has a handful of
	// nodes, and tests of outages wait for it.
	retryPause = 200 * time.Millisecond
)

func (n *Node) startKubelet(ctx context.Context) error {
	if err := n.register(ctx); err != nil {
		return err
	}
	leave, err := n.cluster.enter()
	if err != nil {
		return err
	}
	defer leave()
	running := n.cluster.running
	n.cluster.kubelets.Go(func() {
		every(running, leaseRenewal, func() {
			if err := n.heartbeat(running); err != nil && running.Err() == nil {
				n.cluster.options.Logf("%s: heartbeat: %v", n.Name, err)
			}
		})
	})
	n.cluster.kubelets.Go(func() { n.runPods(running) })
	return nil
}

// register makes the Node object and its Lease, as a kubelet does at its start.
// Nothing but a start brings back a Node that was deleted.
func (n *Node) register(ctx context.Context) error {
	nodes := n.cluster.client.CoreV1().Nodes()
	_, err := nodes.Create(ctx, n.object(), metav1.CreateOptions{})
	if ignoreExists(err) != nil {
		return err
	}
	// After a restore the kubelet's own heartbeat goes on, and one of the two may come first.
	return clientretry.RetryOnConflict(clientretry.DefaultBackoff, func() error { return n.heartbeat(ctx) })
}

// awaitUntainted returns when pods may run on the node.
func (n *Node) awaitUntainted(ctx context.Context) error {
	if !n.cluster.options.ControllerManager {
		return nil // nobody lifts the not-ready taint then, and nobody minds it
	}
	return n.cluster.await(ctx, nil, n.Name+" is untainted", func(ctx context.Context) error {
		node, err := n.cluster.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err == nil && len(node.Spec.Taints) > 0 {
			err = fmt.Errorf("taints %v", node.Spec.Taints)
		}
		return err
	})
}

func (n *Node) object() *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{
			corev1.LabelHostname: n.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
		}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: n.Name}},
			NodeInfo: corev1.NodeSystemInfo{
				// The real one: what runs on the node reads it from the kernel.
				BootID: bootID(), MachineID: n.NetNS(), SystemUUID: n.NetNS(),
				OperatingSystem: "linux", Architecture: runtime.GOARCH,
				KubeletVersion: "v1.36.3-lab", ContainerRuntimeVersion: "lab://1",
			},
			Capacity: corev1.ResourceList{
				corev1.ResourceCPU:    resource.MustParse("64"),
				corev1.ResourceMemory: resource.MustParse("256Gi"),
				corev1.ResourcePods:   resource.MustParse("250"),
			},
			Conditions: []corev1.NodeCondition{
				nodeCondition(corev1.NodeReady, corev1.ConditionTrue),
				nodeCondition(corev1.NodeMemoryPressure, corev1.ConditionFalse),
				nodeCondition(corev1.NodeDiskPressure, corev1.ConditionFalse),
				nodeCondition(corev1.NodePIDPressure, corev1.ConditionFalse),
			},
		},
	}
	node.Status.Allocatable = node.Status.Capacity
	for _, addr := range n.Addrs {
		node.Status.Addresses = append(node.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	for _, cidr := range n.PodCIDRs {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, cidr.String())
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	return node
}

func nodeCondition(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
	now := metav1.Now()
	return corev1.NodeCondition{
		Type: kind, Status: status, Reason: "Lab", LastHeartbeatTime: now, LastTransitionTime: now,
	}
}

// heartbeat renews the Lease, and says anew that the node is Ready where the
// node lifecycle controller has come to doubt it, as after an API outage.
func (n *Node) heartbeat(ctx context.Context) error {
	if n.failed.Load() {
		return nil
	}
	nodes := n.cluster.client.CoreV1().Nodes()
	node, err := nodes.Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := n.renewLease(ctx, node); err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	node.Status.Conditions = n.object().Status.Conditions
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// Fail silences the node's kubelet and says that neither the Node nor its pods are Ready,
// as the node lifecycle controller does after its grace period of 40 s. What runs on the
// node goes on; to take that away, too, see [Cluster.CutLink].
func (n *Node) Fail(ctx context.Context) error {
	n.failed.Store(true)
	if err := n.tellReady(ctx, corev1.ConditionUnknown); err != nil {
		return err
	}
	return n.doubtPods(ctx)
}

// Recover undoes Fail.
func (n *Node) Recover(ctx context.Context) error {
	n.failed.Store(false)
	if err := n.tellReady(ctx, corev1.ConditionTrue); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.pods {
		s.repeat()
	}
	return nil
}

// doubtPods says of the node's pods that they are not Ready. The node lifecycle controller
// does so only where it has itself come to doubt the node.
func (n *Node) doubtPods(ctx context.Context) error {
	mine := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", n.Name).String()}
	pods, err := n.cluster.client.CoreV1().Pods(corev1.NamespaceAll).List(ctx, mine)
	if err != nil {
		return err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		for j := range pod.Status.Conditions {
			if c := &pod.Status.Conditions[j]; c.Type == corev1.PodReady {
				c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.Now()
			}
		}
		pod.ResourceVersion = "" // whoever else writes: nothing but this word counts
		if _, err := n.cluster.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); ignoreGone(err) != nil {
			return err
		}
	}
	return nil
}

func (n *Node) tellReady(ctx context.Context, ready corev1.ConditionStatus) error {
	nodes := n.cluster.client.CoreV1().Nodes()
	return clientretry.RetryOnConflict(clientretry.DefaultBackoff, func() error {
		node, err := nodes.Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Status.Conditions = n.object().Status.Conditions
		for i := range node.Status.Conditions {
			if node.Status.Conditions[i].Type == corev1.NodeReady {
				node.Status.Conditions[i].Status = ready
			}
		}
		_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return err
	})
}

// renewLease writes the Lease that says the node is alive.
func (n *Node) renewLease(ctx context.Context, node *corev1.Node) error {
	leases := n.cluster.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	seconds, now := int32(leaseDuration.Seconds()), metav1.NowMicro()
	lease, err := leases.Get(ctx, n.Name, metav1.GetOptions{})
	if err == nil {
		lease.Spec.RenewTime = &now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		return err
	}
	_, createErr := leases.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID},
		}},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &n.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}, metav1.CreateOptions{})
	if createErr != nil {
		return errors.Join(err, createErr)
	}
	return nil
}

// runPods follows the pods bound to the node until ctx ends; then, or when they
// are deleted, their programs stop.
func (n *Node) runPods(ctx context.Context) {
	away := false
	for ctx.Err() == nil {
		err := n.followPods(ctx)
		if err != nil && ctx.Err() == nil {
			// An API outage, said once: what runs goes on running.
			if !away {
				n.cluster.options.Logf("%s: pods: %v", n.Name, err)
			}
			pause(ctx, retryPause)
		}
		away = err != nil
	}
}

// followPods lists and then watches; it returns nil when the watch ends, as all
// watches do.
func (n *Node) followPods(ctx context.Context) error {
	pods := n.cluster.client.CoreV1().Pods(corev1.NamespaceAll)
	mine := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", n.Name).String()}
	list, err := pods.List(ctx, mine)
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	for i := range list.Items {
		listed[podKey(&list.Items[i])] = true
		n.observePod(ctx, &list.Items[i])
	}
	n.forgetPods(func(key string) bool { return !listed[key] })

	mine.ResourceVersion = list.ResourceVersion
	events, err := pods.Watch(ctx, mine)
	if err != nil {
		return err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		switch {
		case !ok:
			return fmt.Errorf("watch: %v", event.Object) // e.g. the version is too old: list again
		case event.Type == watch.Deleted:
			n.forgetPods(func(key string) bool { return key == podKey(pod) })
		default:
			n.observePod(ctx, pod)
		}
	}
	return nil
}

// observePod starts a pod that is new and stops one that is to go.
func (n *Node) observePod(ctx context.Context, pod *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, known := n.pods[podKey(pod)]
	var before *sandbox
	if known && s.pod.UID != pod.UID { // deleted and made again behind our back
		s.stop()
		before, known = s, false
	}
	switch {
	case pod.DeletionTimestamp != nil && known:
		s.stop()
	case pod.DeletionTimestamp != nil:
		n.cluster.kubelets.Go(func() { n.releasePod(ctx, pod) })
	case known && !podReady(pod) && !n.failed.Load():
		s.repeat() // the node lifecycle controller doubts the pods of a node it has lost
	case !known && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed:
		s = newSandbox(ctx, n, pod)
		s.before = before
		n.pods[podKey(pod)] = s
		n.cluster.kubelets.Go(s.run)
	}
}

func (n *Node) forgetPods(gone func(key string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for key, s := range n.pods {
		if gone(key) {
			s.stop()
		}
	}
}

// releasePod tells the API server that a pod being deleted has ended.
func (n *Node) releasePod(ctx context.Context, pod *corev1.Pod) {
	now := int64(0)
	options := metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}}
	retry(ctx, func() error {
		return ignoreGone(n.cluster.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options))
	})
}

func podKey(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// retry calls fn until it succeeds or ctx ends: the API server may be away.
func retry(ctx context.Context, fn func() error) {
	for ctx.Err() == nil && fn() != nil {
		pause(ctx, retryPause)
	}
}

// every calls fn at each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, fn func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fn()
		case <-ctx.Done():
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
