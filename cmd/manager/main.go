// Command manager is Portreeve's brain: it turns NodePortPolicies into port
// allocations, companion Services and cloud rules, and says in status what is
// proved to be in force. It runs anywhere in the cluster; one instance leads.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/controllers"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/version"
)

type options struct {
	metrics, health, namespace string
	metricsSecure              bool
	metricsCertificates        string // folder
	cluster, agentImage        string
	elect                      bool
	lease, rights              time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.metrics, "metrics-bind-address", ":8443", "address of /metrics; 0 for none")
	flag.BoolVar(&o.metricsSecure, "metrics-secure", true, "serve metrics over TLS, to those whom the API server lets get /metrics; false: to everybody, in plain text")
	flag.StringVar(&o.metricsCertificates, "metrics-cert-dir", "", "folder with tls.crt and tls.key for metrics, read again when they change; empty for a certificate that nobody has signed")
	flag.StringVar(&o.health, "health-probe-bind-address", ":8081", "address of /healthz and /readyz; 0 for none")
	flag.StringVar(&o.namespace, "namespace", "portreeve-system", "our own namespace: of the leader's Lease, and of the Services that hold free numbers")
	flag.StringVar(&o.cluster, "cluster-name", "", "name of this cluster, as Git has it, in the signature of its cloud rules: a copy of the cluster, restored elsewhere, then observes only until somebody confirms; set it before the first rule is written")
	flag.StringVar(&o.agentImage, "agent-image", os.Getenv("RELATED_IMAGE_AGENT"), "image of the agents where the Portreeve object names none; default $RELATED_IMAGE_AGENT")
	flag.BoolVar(&o.elect, "leader-elect", true, "elect a leader; only the leader writes")
	flag.DurationVar(&o.lease, "lease-duration", 15*time.Second, "how long a leader that is silent stays leader")
	flag.DurationVar(&o.rights, "rights-interval", time.Minute, "how often to look whether a right that some policies need, and that was missing, has been granted")
	printVersion := flag.Bool("version", false, "print the version and end")
	flag.Parse() // controller-runtime adds --kubeconfig
	if *printVersion {
		fmt.Println(version.Line("portreeve-manager"))
		return
	}

	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		log.Error("manager stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	config.QPS, config.UserAgent = -1, version.UserAgent("portreeve-manager") // the API server's priority and fairness paces us
	leader, err := newElection(config, o)
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(config, managerOptions(o, leader))
	if err != nil {
		return err
	}
	owner, err := controllers.ClusterID(ctx, mgr.GetAPIReader())
	if err != nil {
		return fmt.Errorf("read the cluster's id from namespace kube-system: %w", err)
	}
	if o.cluster != "" {
		if strings.ContainsFunc(o.cluster, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }) || len(o.cluster) > 63 {
			return fmt.Errorf("--cluster-name %q: write at most 63 lower-case letters, digits and dashes", o.cluster)
		}
		owner = o.cluster + "/" + owner
	}
	paces := cloud.NewPaces(cloud.SystemClock{})
	if err := controllers.Setup(ctx, mgr, controllers.Options{
		Providers: providers(paces), Refused: paces.Refused, Owner: owner, Leading: leader.check, Namespace: o.namespace, AgentImage: o.agentImage,
		AskRightsEvery: o.rights,
	}); err != nil {
		return err
	}
	if err := metrics.Registry.Register(version.Info()); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

func managerOptions(o options, leader *election) ctrl.Options {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // two kinds of one name: a mistake in the program itself
		}
	}
	options := ctrl.Options{
		Scheme:                 scheme,
		Metrics:                metricsOptions(o),
		HealthProbeBindAddress: o.health,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Node{}:               {Transform: withoutImages},
				&discoveryv1.EndpointSlice{}: {Transform: controllers.WithoutAddresses},
				&corev1.Pod{}: { // the agents', and of those no more than whether they work
					Namespaces: map[string]cache.Config{o.namespace: {}},
					Label:      compile.AgentPods.AsSelector(),
					Transform:  onlyReadiness,
				},
				&appsv1.DaemonSet{}: { // the agents', and no other
					Namespaces: map[string]cache.Config{o.namespace: {}},
					Field:      fields.OneTermEqualSelector("metadata.name", v1alpha1.AgentName),
				},
			},
		},
	}
	if o.elect {
		options.LeaderElection = true
		options.LeaderElectionResourceLockInterface = leader.lock
		options.LeaseDuration = &o.lease
		renew, retry := o.lease*2/3, o.lease/8
		options.RenewDeadline, options.RetryPeriod = &renew, &retry
		options.LeaderElectionReleaseOnCancel = true
	}
	return options
}

// onlyReadiness drops from a cached Pod all that nobody reads.
func onlyReadiness(o any) (any, error) {
	if pod, ok := o.(*corev1.Pod); ok {
		pod.ManagedFields, pod.OwnerReferences, pod.Annotations = nil, nil, nil
		pod.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName}
		pod.Status = corev1.PodStatus{Conditions: pod.Status.Conditions}
	}
	return o, nil
}

// withoutImages drops from a cached Node its largest part, which nobody reads.
func withoutImages(o any) (any, error) {
	if node, ok := o.(*corev1.Node); ok {
		node.Status.Images, node.ManagedFields = nil, nil
	}
	return o, nil
}
