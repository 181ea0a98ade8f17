package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
)

// Options are what controllers need from outside the cluster.
type Options struct {
	// Providers of clouds, by name.
	Providers map[v1alpha1.Provider]Connect
	// Owner signs cloud rules: the UID of the kube-system namespace, which is as
	// unique as the cluster and survives the manager's re-installation, behind the
	// cluster's name and a slash if it was given one.
	Owner string
	// Leading is asked before each call that changes something in a cloud.
	Leading func(context.Context) error
	// Namespace is our own: of the leader's Lease and of the holds.
	Namespace string
	// AgentImage is what agents run where nobody names another; "" if it is not known.
	AgentImage string
	// AskRightsEvery is how often it is looked whether a right that was missing has been
	// granted; a minute when zero.
	AskRightsEvery time.Duration
	// Refused counts the calls that clouds refused for their rate; nil where nobody counts.
	Refused func() map[cloud.API]int
	// Now is the clock; nil for the real one.
	Now func() time.Time
}

// Setup adds all controllers to the manager.
func Setup(ctx context.Context, mgr ctrl.Manager, o Options) error {
	registerMetrics()
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := addIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	c, live := mgr.GetClient(), mgr.GetAPIReader()
	recorder := mgr.GetEventRecorder("portreeve")
	rights := NewRights(c, o.Namespace, o.AskRightsEvery, o.Now)
	snapshot := Snapshot{
		Reader: c, Live: live, Cache: mgr.GetCache(), Listed: &Listed{}, ListedSets: &Listed{}, ListedGateways: &Listed{}, Resolved: &Resolved{},
		NodePorts: &NodePortRange{Client: c, Namespace: o.Namespace, Now: o.Now}, Rights: rights, Namespace: o.Namespace, Now: o.Now,
	}
	if err := metrics.Registry.Register(&census{snapshot: snapshot, elected: mgr.Elected(), refused: o.Refused, now: o.Now}); err != nil {
		return err
	}
	verdicts, refusals, clouds, fronts := NewVerdicts(), NewVerdicts(), NewClouds(), NewFronts()
	doors, err := NewDoors(mgr, rights, o.Now)
	if err != nil {
		return err
	}
	for _, controller := range []interface{ SetupWithManager(ctrl.Manager) error }{
		&Installation{Client: c, Snapshot: snapshot, Live: live, AgentImage: o.AgentImage, Now: o.Now},
		&NodeAddresses{Client: c, Snapshot: snapshot},
		&Pool{Client: c, Snapshot: snapshot, Live: live, Events: recorder, Now: o.Now},
		&Allocator{Client: c, Snapshot: snapshot, Verdicts: verdicts, Now: o.Now},
		&Allocation{Client: c, Snapshot: snapshot, Clouds: clouds, Events: recorder, Now: o.Now},
		&Exposure{Client: c, Snapshot: snapshot, Verdicts: verdicts, Refusals: refusals, Now: o.Now},
		&NetworkPolicy{Client: c, Snapshot: snapshot},
		&Hold{Client: c, Snapshot: snapshot, Now: o.Now},
		&GatewaySet{Client: c, Snapshot: snapshot, Now: o.Now},
		&CloudFirewall{Client: c, Snapshot: snapshot, Clouds: clouds, Providers: o.Providers, Owner: o.Owner, Leading: o.Leading, Now: o.Now, Events: recorder},
		&NodeDatapath{Client: c, Events: recorder, Now: o.Now},
		&Policy{Client: c, Snapshot: snapshot, Verdicts: verdicts, Refusals: refusals, Clouds: clouds, Fronts: fronts, Now: o.Now},
		&Front{Client: c, Snapshot: snapshot, Doors: doors, Seen: fronts, Now: o.Now},
	} {
		if err := controller.SetupWithManager(mgr); err != nil {
			return err
		}
	}
	return nil
}

// ClusterID reads the UID of the kube-system namespace.
func ClusterID(ctx context.Context, reader client.Reader) (string, error) {
	var namespace corev1.Namespace
	err := reader.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, &namespace)
	return string(namespace.UID), err
}
