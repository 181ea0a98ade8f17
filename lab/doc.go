// Package lab is a Kubernetes cluster of network namespaces on one machine, for
// the demo, the end-to-end tests and the benchmarks alike: real etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler and kube-proxy, real
// packets; only the kubelet is ours (kubelet.go), and small.
//
//	 <name>-vpc: a bridge, and nothing else. 10.99.0.0/24, fd00:99::/64
//	───┬──────────────┬──────────────┬────────────────┬──────────────────
//	   │eth0 .1       │eth0 .11      │eth0 .12        │eth0 .101
//	<name>-cp      <name>-n1      <name>-n2        <name>-office
//	etcd           kube-proxy     kube-proxy       a client, with any
//	kube-apiserver agent          agent            further addresses
//	controllers      │pod1          │pod1          (203.0.113.0/24, ...)
//	manager          │eth0          │eth0
//	              <name>-n1-shop-a  ...            pods 10.244.<node>.0/24,
//	                                                    fd00:244:<node>::/64
//
// Invariants:
//
//   - Nothing depends on, or alters, an address, port or sysctl of the host's
//     own network namespace. No namespace has an uplink, and only pods have a
//     default route, which ends at their node. So labs run side by side,
//     differing by name alone, and nothing in them can reach the world.
//   - Whatever a lab makes on the machine (namespaces, processes, folders) is
//     written to its journal before or as it is made. Close undoes the journal;
//     [Sweep], which every [Start] begins with, undoes the journals of labs whose
//     owner is dead. Processes are killed by recorded id and start time alone.
//   - The calling process stays in the host's namespace. It reaches into the
//     lab by entering a namespace on a locked thread just long enough to make a
//     socket there ([Namespace.DialContext], [Namespace.Listen]), so client-go
//     works from a test as ever.
//
// A package of end-to-end tests shares one lab:
//
//	var cluster *lab.Cluster
//
//	func TestMain(m *testing.M) {
//		os.Exit(func() int {
//			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
//			defer cancel()
//			var err error
//			cluster, err = lab.Start(ctx, lab.Options{Nodes: 3, KubeProxy: lab.NFTables, ControllerManager: true})
//			if err != nil {
//				fmt.Fprintln(os.Stderr, err)
//				return 1
//			}
//			cluster.CloseOnInterrupt()
//			defer cluster.Close()
//			return m.Run()
//		}())
//	}
//
// A zero [Options] starts etcd and kube-apiserver only, in about three seconds:
// enough for tests of validation, RBAC and single controllers.
package lab
