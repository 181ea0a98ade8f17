package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/internal/version"
)

// reader reads a cluster. What it may not read is an error: what is not seen is never
// taken for not being there.
type reader struct {
	client.Reader
	system string
}

func (p *plugin) reader() (reader, error) {
	config, err := p.flags.ToRESTConfig()
	if err != nil {
		return reader{}, err
	}
	config.QPS, config.UserAgent = -1, version.UserAgent("kubectl-portreeve") // a dozen calls
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return reader{}, err
		}
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	return reader{c, p.system}, err
}

// list reads all objects of a kind.
func (r reader) list(ctx context.Context, what string, list client.ObjectList, options ...client.ListOption) error {
	err := r.List(ctx, list, options...)
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("list %s: %w (the ClusterRole portreeve-auditor allows it)", what, err)
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", what, err)
	}
	return nil
}

// cluster reads the reports of nodes before what they are compared with.
func (r reader) cluster(ctx context.Context) (explain.Cluster, error) {
	var (
		datapaths     v1alpha1.NodeDatapathList
		allocations   v1alpha1.NodePortAllocationList
		sets          v1alpha1.AddressSetList
		gateways      v1alpha1.GatewaySetList
		pools         v1alpha1.NodePortPoolList
		policies      v1alpha1.NodePortPolicyList
		firewalls     v1alpha1.CloudFirewallList
		installations v1alpha1.PortreeveList
		nodes         corev1.NodeList
		services      corev1.ServiceList
	)
	for _, kind := range []struct {
		name string
		list client.ObjectList
	}{
		{"nodedatapaths", &datapaths}, {"nodeportallocations", &allocations}, {"addresssets", &sets}, {"gatewaysets", &gateways}, {"nodeportpools", &pools},
		{"nodeportpolicies", &policies}, {"cloudfirewalls", &firewalls}, {"portreeves", &installations}, {"nodes", &nodes}, {"services", &services},
	} {
		if err := r.list(ctx, kind.name, kind.list); err != nil {
			return explain.Cluster{}, err
		}
	}
	c := explain.Cluster{
		Pools: pools.Items, Allocations: allocations.Items, AddressSets: sets.Items, GatewaySets: gateways.Items, Policies: policies.Items, Firewalls: firewalls.Items,
		Datapaths: datapaths.Items, Nodes: nodes.Items, Services: services.Items,
		Listed: allocations.ResourceVersion, ListedSets: sets.ResourceVersion, ListedGateways: gateways.ResourceVersion,
		Namespace: r.system, Now: time.Now(),
	}
	for i := range installations.Items {
		if installations.Items[i].Name == v1alpha1.InstallationName {
			c.Installation = &installations.Items[i]
		}
	}
	return c, nil
}

func (r reader) audit(ctx context.Context) (explain.Report, error) {
	c, err := r.cluster(ctx)
	if err != nil {
		return explain.Report{}, err
	}
	return explain.Audit(c), nil
}

func (r reader) explain(ctx context.Context, q explain.Question) (explain.Answer, error) {
	c, err := r.cluster(ctx)
	if err != nil {
		return explain.Answer{}, err
	}
	for _, service := range explain.Carriers(c, q) {
		var slices discoveryv1.EndpointSliceList
		err := r.list(ctx, "endpointslices", &slices, client.InNamespace(service.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service.Name})
		if err != nil {
			return explain.Answer{}, err
		}
		c.Slices = append(c.Slices, slices.Items...)
	}
	return explain.Explain(c, q)
}
