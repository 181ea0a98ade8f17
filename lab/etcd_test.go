package lab_test

import (
	"context"
	"net/netip"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/portreeve/portreeve/lab"
)

// Whichever way resource versions go, after a restore the cluster is as it was at
// the backup, and all that belongs to the lab works on.
func TestRestoreTakesTheClusterBackAndItWorksOn(t *testing.T) {
	t.Run("backwards", func(t *testing.T) { restore(t, lab.RestoreOptions{}) })
	t.Run("bumped", func(t *testing.T) { restore(t, lab.RestoreOptions{BumpRevision: 1_000_000_000}) })
}

func restore(t *testing.T, options lab.RestoreOptions) {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	c := start(t, lab.Options{Nodes: 2, KubeProxy: lab.NFTables, ControllerManager: true, Scheduler: true})
	admin, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	client, err := c.AddClient("client")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddPod(ctx, c.Node("n1"), "shop", "shop-1", selector); err != nil {
		t.Fatal(err)
	}
	expose(t, c, 30080)
	flow := lab.Flow{To: netip.AddrPortFrom(c.Node("n2").Addrs[0], 30080)}
	eventually(t, client.Namespace, flow, lab.Answered)
	pod, err := admin.CoreV1().Pods("shop").Get(ctx, "shop-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	informer := follow(t, admin)

	backup, err := c.Backup(ctx)
	if err != nil {
		t.Fatal(err)
	}
	late := changeEverything(t, c, admin)
	eventually(t, client.Namespace, flow, lab.Refused)
	before := revision(t, admin)
	begin := time.Now()
	if err := c.Restore(ctx, backup, options); err != nil {
		t.Fatal(err)
	}
	t.Logf("restored in %s", time.Since(begin).Round(10*time.Millisecond))

	after := revision(t, admin)
	t.Logf("resource version %d before and %d after", before, after)
	if forward := after > before; forward != (options.BumpRevision > 0) {
		t.Errorf("resource versions went from %d to %d", before, after)
	}
	if _, err := admin.CoreV1().ConfigMaps("shop").Get(ctx, "after", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a ConfigMap made after the backup: %v", err)
	}
	if got, err := admin.CoreV1().Pods("shop").Get(ctx, "shop-1", metav1.GetOptions{}); err != nil || got.UID != pod.UID {
		t.Errorf("the pod of the backup: %v, %v", got, err)
	}
	for _, n := range []*lab.Node{c.Node("n1"), c.Node("n2"), late} {
		flow.To = netip.AddrPortFrom(n.Addrs[0], 30080)
		eventually(t, client.Namespace, flow, lab.Answered)
	}
	seeScheduled(t, c, admin)
	seeFollowed(t, admin, informer, options)
}

// changeEverything undoes what the backup holds, and adds to it.
func changeEverything(t *testing.T, c *lab.Cluster, admin kubernetes.Interface) *lab.Node {
	t.Helper()
	after := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "after"}}
	if _, err := admin.CoreV1().ConfigMaps("shop").Create(t.Context(), after, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// So many writes that those of the new start don't catch up.
	for i := range 300 {
		after.Data = map[string]string{"write": strconv.Itoa(i)}
		if _, err := admin.CoreV1().ConfigMaps("shop").Update(t.Context(), after, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.CoreV1().Services("shop").Delete(t.Context(), "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// The same name, another pod.
	if out, err := c.Kubectl(t.Context(), "-n", "shop", "delete", "pod", "shop-1", "--timeout="+soon.String()); err != nil {
		t.Fatal(out, err)
	}
	if _, err := c.AddPod(t.Context(), c.Node("n1"), "shop", "shop-1", selector); err != nil {
		t.Fatal(err)
	}
	late, err := c.AddNode(t.Context(), "late")
	if err != nil {
		t.Fatal(err)
	}
	return late
}

// revision is etcd's, as all see it.
func revision(t *testing.T, admin kubernetes.Interface) int64 {
	t.Helper()
	list, err := admin.CoreV1().ConfigMaps("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseInt(list.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// seeScheduled sees that the scheduler, a kubelet and the namespace's controllers
// take on new work.
func seeScheduled(t *testing.T, c *lab.Cluster, admin kubernetes.Interface) {
	t.Helper()
	out, err := c.Kubectl(t.Context(), "-n", "shop", "run", "new", "--image", lab.EchoImage)
	if err != nil {
		t.Fatal(out, err)
	}
	if out, err = c.Kubectl(t.Context(), "-n", "shop", "wait", "--for=condition=Ready", "pod/new", "--timeout="+soon.String()); err != nil {
		t.Error(out, err)
	}
	nodes, err := admin.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 3 {
		t.Errorf("nodes: %v, %v; want 3", nodes, err)
	}
}

// follow is a plain informer, kept through the restore.
func follow(t *testing.T, admin kubernetes.Interface) cache.SharedIndexInformer {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(admin, 0, informers.WithNamespace("shop"))
	informer := factory.Core().V1().ConfigMaps().Informer()
	factory.Start(t.Context().Done())
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("the informer does not sync")
	}
	return informer
}

// seeFollowed sees what an informer makes of the restore. After a bump its watch
// ends with 410 and it lists anew. Without, its watch goes on from a version of
// the future: no error ever comes, what was undone stays in its store, and what is
// written until the version has caught up is never seen.
func seeFollowed(t *testing.T, admin kubernetes.Interface, informer cache.SharedIndexInformer, options lab.RestoreOptions) {
	t.Helper()
	fresh := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}}
	if _, err := admin.CoreV1().ConfigMaps("shop").Create(t.Context(), fresh, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	look := func() (stale, seen bool) {
		_, stale, _ = informer.GetStore().GetByKey("shop/after")
		_, seen, _ = informer.GetStore().GetByKey("shop/fresh")
		return stale, seen
	}
	if options.BumpRevision == 0 {
		time.Sleep(5 * time.Second) // it would be as blind in five minutes
		if stale, seen := look(); !stale || seen {
			t.Errorf("an informer at %s: undone still there %t, new seen %t; the lab does not show what goes wrong without a bump",
				informer.LastSyncResourceVersion(), stale, seen)
		}
		return
	}
	for deadline := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		stale, seen := look()
		if seen && !stale {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("an informer at %s: undone still there %t, new seen %t", informer.LastSyncResourceVersion(), stale, seen)
		}
	}
}
