package explain

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// Cluster is what was read of a cluster. Datapaths must have been read before all else: a
// node that says it has more than was listed is not believed.
type Cluster struct {
	Pools       []v1alpha1.NodePortPool
	Allocations []v1alpha1.NodePortAllocation
	AddressSets []v1alpha1.AddressSet
	GatewaySets []v1alpha1.GatewaySet
	Policies    []v1alpha1.NodePortPolicy
	Firewalls   []v1alpha1.CloudFirewall
	Datapaths   []v1alpha1.NodeDatapath
	// Installation is nil where there is none.
	Installation *v1alpha1.Portreeve
	Nodes        []corev1.Node
	Services     []corev1.Service
	// Slices are those of the Services that Carriers names.
	Slices []discoveryv1.EndpointSlice
	// Listed, ListedSets and ListedGateways are the resource versions of the lists of
	// allocations, AddressSets and GatewaySets.
	Listed, ListedSets, ListedGateways string
	// Namespace is Portreeve's own.
	Namespace string
	Now       time.Time
}

// view is a Cluster, resolved.
type view struct {
	Cluster
	pools      []compile.Pool
	places     compile.Places
	proof      compile.Proof
	nodes      []compile.NodeReport // by name
	poolsIn    compile.Objects
	setsIn     compile.Objects
	gatewaysIn compile.Objects
	policies   map[string]*v1alpha1.NodePortPolicy // by namespace/name
	numbers    map[string]*v1alpha1.NodePortAllocation
	services   map[string]*corev1.Service // by namespace/name
	// addresses of all nodes, as they are written and in their usual spelling.
	addresses map[string]bool
}

func resolve(c Cluster) *view {
	v := &view{
		Cluster: c, policies: map[string]*v1alpha1.NodePortPolicy{}, numbers: map[string]*v1alpha1.NodePortAllocation{},
		services: map[string]*corev1.Service{}, addresses: map[string]bool{},
	}
	found := ""
	if c.Installation != nil {
		found = c.Installation.Status.NodePortRange
	}
	v.pools = compile.Owned(c.Pools, compile.NewLimits(c.Installation, found))
	v.places = compile.NewPlaces(c.Pools, c.AddressSets).Within(c.Installation)
	v.proof = compile.Proof{Listed: c.Listed, ListedSets: c.ListedSets, ListedGateways: c.ListedGateways, Gateways: compile.GatewaySets{}, Places: v.places}
	for i := range c.GatewaySets {
		v.proof.Gateways[v1alpha1.ObjectName(c.GatewaySets[i].Name)] = &c.GatewaySets[i]
	}
	if c.Installation != nil {
		v.proof.Installation = c.Installation.ResourceVersion
	}
	v.poolsIn, v.setsIn, v.gatewaysIn = objects(c.Pools), objects(c.AddressSets), objects(c.GatewaySets)
	for i := range c.Policies {
		v.policies[c.Policies[i].Namespace+"/"+c.Policies[i].Name] = &c.Policies[i]
	}
	for i := range c.Allocations {
		v.numbers[c.Allocations[i].Name] = &c.Allocations[i]
	}
	for i := range c.Services {
		v.services[c.Services[i].Namespace+"/"+c.Services[i].Name] = &c.Services[i]
	}
	reports := map[string]*v1alpha1.NodeDatapath{}
	for i := range c.Datapaths {
		reports[c.Datapaths[i].Name] = &c.Datapaths[i]
	}
	for i := range c.Nodes {
		v.nodes = append(v.nodes, compile.NodeReport{Node: &c.Nodes[i], Datapath: reports[c.Nodes[i].Name]})
		for _, a := range c.Nodes[i].Status.Addresses {
			v.addresses[a.Address] = true
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				v.addresses[ip.String()] = true
			}
		}
	}
	slices.SortFunc(v.nodes, func(a, b compile.NodeReport) int { return cmp.Compare(a.Name, b.Name) })
	return v
}

func objects[T any, P interface {
	*T
	metav1.Object
}](list []T) compile.Objects {
	var out []metav1.Object
	for i := range list {
		out = append(out, P(&list[i]))
	}
	return compile.ObjectsOf(out...)
}

// allocation of a number, nil if there is none.
func (v *view) allocation(number uint16) *v1alpha1.NodePortAllocation {
	return v.numbers[strconv.Itoa(int(number))]
}

func (v *view) policyOf(a *v1alpha1.NodePortAllocation) *v1alpha1.NodePortPolicy {
	if a == nil || a.Spec.Claim.Policy == "" {
		return nil
	}
	return v.policies[a.Spec.Claim.Namespace+"/"+a.Spec.Claim.Policy]
}

func (v *view) service(namespace, name string) *corev1.Service { return v.services[namespace+"/"+name] }

// lockdown says whether the installation closes everything.
func (v *view) lockdown() bool { return v.Installation != nil && v.Installation.Spec.Lockdown }

// nodePorts is the API server's range, as far as it is known.
func (v *view) nodePorts() rule.PortRanges {
	text := ""
	if v.Installation != nil {
		text = cmp.Or(v.Installation.Status.NodePortRange, string(v.Installation.Spec.NodePortRange))
	}
	r, err := rule.ParsePortRange(cmp.Or(text, "30000-32767"))
	if err != nil {
		r = rule.PortRange{First: 30000, Last: 32767}
	}
	return rule.NewPortRanges(r)
}
