package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/front"
)

// defaultFrontNodes is what the API server fills in for front.maxNodes.
const defaultFrontNodes = 16

// The keys of the ConfigMaps.
const (
	NginxKey   = "stream.conf"
	HAProxyKey = "haproxy.cfg"
)

// DNSEndpoint is the kind of external-dns.
var DNSEndpoint = schema.GroupVersionKind{Group: "externaldns.k8s.io", Version: "v1alpha1", Kind: "DNSEndpoint"}

// Front is what the fronts of a policy are decided from.
type Front struct {
	Policy *v1alpha1.NodePortPolicy
	// Allocations of the policy, Open and Closed.
	Allocations []v1alpha1.NodePortAllocation
	Sight       Sight
	Pools       []Pool
	// Rivals are the other policies that want to publish the same name.
	Rivals []Rival
}

// Rival is another policy that wants to publish the same name, with its allocations.
type Rival struct {
	Policy      *v1alpha1.NodePortPolicy
	Allocations []v1alpha1.NodePortAllocation
}

// Door is one object of a front as it must be.
type Door struct {
	// ObjectMeta says where it is and whose; Data or Records are all its content.
	metav1.ObjectMeta
	Data    map[string]string
	Records []any
	// Why says what is wrong with it, nil if nothing is.
	Why *Refusal
	// Note says what is left out of it, "" if nothing is.
	Note string
	// Unwritten: nothing can be said yet that is worth a write.
	Unwritten bool
}

// Listed is which nodes and numbers an object names now, by its annotations; nothing if
// there is none.
type Listed struct{ nodes, ports []string }

// ListedIn reads the annotations of one of our objects.
func ListedIn(have metav1.Object) Listed {
	if have == nil {
		return Listed{}
	}
	annotations := have.GetAnnotations()
	return Listed{nodes: words(annotations[v1alpha1.AnnotationFrontNodes]), ports: words(annotations[v1alpha1.AnnotationFrontPorts])}
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func (l Listed) has(n NodeReport, number uint16) bool {
	return slices.Contains(l.nodes, n.Name) && slices.Contains(l.ports, strconv.Itoa(int(number)))
}

// FrontName is the name of a policy's DNSEndpoint.
func FrontName(policy string) string { return policy + v1alpha1.CompanionSuffix }

// IsFront says whether an object was made for the fronts of the named policy.
func IsFront(o metav1.Object, policy string) bool {
	return o.GetLabels()[v1alpha1.LabelFront] == policy && slices.ContainsFunc(o.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
		return r.APIVersion == v1alpha1.GroupVersion.String() && r.Kind == "NodePortPolicy" && r.Name == policy
	})
}

// Nginx returns the ConfigMap for nginx; have is what is there of ours, nil if nothing.
func (f Front) Nginx(want *v1alpha1.ProxyFront, have *corev1.ConfigMap) Door {
	door, listeners := f.proxied(want, have)
	door.Data = map[string]string{NginxKey: front.Nginx(f.Policy.Namespace, f.Policy.Name, listeners)}
	return door
}

// HAProxy returns the ConfigMap for HAProxy.
func (f Front) HAProxy(want *v1alpha1.ProxyFront, have *corev1.ConfigMap) Door {
	door, listeners := f.proxied(want, have)
	door.Data = map[string]string{HAProxyKey: front.HAProxy(f.Policy.Namespace, f.Policy.Name, listeners)}
	udp := func(l front.Listener) bool { return l.Protocol == front.UDP }
	if slices.ContainsFunc(listeners, udp) {
		door.Note = fmt.Sprintf("HAProxy carries TCP only, so what is UDP is not in ConfigMap %s", want.ConfigMap)
		if door.Why == nil && !slices.ContainsFunc(listeners, func(l front.Listener) bool { return !udp(l) }) {
			door.Why = &Refusal{Reason: v1alpha1.ReasonInvalid, Message: "front.haproxy: HAProxy carries TCP only, and the policy has no such port; use front.nginx"}
		}
	}
	return door
}

func (f Front) proxied(want *v1alpha1.ProxyFront, have *corev1.ConfigMap) (Door, []front.Listener) {
	var there metav1.Object
	if have != nil {
		there = have
	}
	picked := f.pick(want.AddressType, ListedIn(there))
	listeners, why := f.listeners(picked)
	door := f.door(string(want.ConfigMap), picked, there)
	door.Why = cmp.Or(why, door.Why)
	return door, listeners
}

// DNS returns the DNSEndpoint. Without an address it has no record: one without targets
// would get the default ones of external-dns.
func (f Front) DNS(want *v1alpha1.DNSFront, have *unstructured.Unstructured) Door {
	var there metav1.Object
	if have != nil {
		there = have
	}
	picked := f.pick(want.AddressType, ListedIn(there))
	why := f.refuseHostname(want.Hostname)
	if why != nil {
		picked = nil
	}
	door := f.door(FrontName(f.Policy.Name), picked, there)
	door.Why = cmp.Or(why, door.Why)
	door.Records = []any{}
	for _, kind := range []string{"A", "AAAA"} {
		var targets []netip.Addr
		for _, p := range picked {
			for _, a := range p.addresses {
				if a.Is4() == (kind == "A") && !slices.Contains(targets, a) {
					targets = append(targets, a)
				}
			}
		}
		if len(targets) == 0 {
			continue
		}
		slices.SortFunc(targets, netip.Addr.Compare)
		texts := make([]any, len(targets))
		for i, t := range targets {
			texts[i] = t.String()
		}
		door.Records = append(door.Records, map[string]any{
			"dnsName": want.Hostname, "recordType": kind, "recordTTL": int64(want.TTLSeconds), "targets": texts,
		})
	}
	return door
}

// refuseHostname says why a name may not be published: whoever may write policies must
// not get every name that external-dns can write, nor one that is another's. Of two that
// may both have it, it is the older one's, since the younger would divert its clients.
func (f Front) refuseHostname(hostname string) *Refusal {
	if a := f.unpublished(f.open(), hostname); a != nil {
		return &Refusal{Reason: v1alpha1.ReasonHostnameRefused, Message: fmt.Sprintf(
			"front.dns.hostname %q lies in no domain that pool %s allows, so it is not published; ask the platform team to list its domain in guardrails.dnsDomains", hostname, a.Spec.Pool)}
	}
	for _, r := range f.Rivals {
		if open := (Seen{Allocations: r.Allocations}).open(); len(open) > 0 && f.unpublished(open, hostname) == nil && elder(r.Policy, f.Policy) {
			return &Refusal{Reason: v1alpha1.ReasonHostnameRefused, Message: fmt.Sprintf(
				"front.dns.hostname %q is published for NodePortPolicy %s/%s, which is older; choose another name", hostname, r.Policy.Namespace, r.Policy.Name)}
		}
	}
	return nil
}

// unpublished is the first of the allocations whose pool allows no domain of the name.
func (f Front) unpublished(open []*v1alpha1.NodePortAllocation, hostname string) *v1alpha1.NodePortAllocation {
	for _, a := range open {
		var domains []v1alpha1.DNSDomain // none where the pool is gone
		for _, p := range f.Pools {
			if p.Name == a.Spec.Pool {
				domains = p.Spec.Guardrails.DNSDomains
			}
		}
		if !slices.ContainsFunc(domains, func(d v1alpha1.DNSDomain) bool {
			return hostname == string(d) || strings.HasSuffix(hostname, "."+string(d))
		}) {
			return a
		}
	}
	return nil
}

// elder says whether a is the older one.
func elder(a, b *v1alpha1.NodePortPolicy) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name)) < 0
}

func (f Front) open() []*v1alpha1.NodePortAllocation {
	return Seen{Allocations: f.Allocations}.open()
}

// door is an object without its content.
func (f Front) door(name string, picked []pick, have metav1.Object) Door {
	d := Door{ObjectMeta: metav1.ObjectMeta{
		Namespace: f.Policy.Namespace, Name: name, Labels: map[string]string{v1alpha1.LabelFront: f.Policy.Name},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodePortPolicy", Name: f.Policy.Name, UID: f.Policy.UID}},
	}}
	var nodes, ports []string
	for _, p := range picked {
		nodes = append(nodes, p.node)
		for _, t := range p.ports {
			ports = append(ports, t.allocation.Name)
		}
	}
	slices.Sort(ports)
	d.Annotations = map[string]string{v1alpha1.AnnotationFrontNodes: strings.Join(nodes, ","), v1alpha1.AnnotationFrontPorts: strings.Join(slices.Compact(ports), ",")}
	if len(picked) > 0 {
		return d
	}
	switch {
	case len(f.open()) == 0 || f.Sight.Lockdown: // as wished
	case f.blind() && have != nil:
		d.Unwritten = true
		d.Why = &Refusal{Reason: v1alpha1.ReasonNoNodes, Message: fmt.Sprintf("no node at all is Ready, so %s goes on naming the last that were", name), Waits: true}
	case f.podless() && have != nil:
		d.Unwritten = true
		d.Why = &Refusal{Reason: v1alpha1.ReasonNoEndpoints, Message: fmt.Sprintf("no pod is ready for it, so %s goes on naming the last nodes that had one", name), Waits: true}
	case f.answers():
		d.Why = &Refusal{Reason: v1alpha1.ReasonNoAddresses, Message: fmt.Sprintf("no node that answers has an address of the wanted type and family for %s; set another addressType, or leave out ipFamilies", name), Waits: true}
	default:
		d.Unwritten = have == nil // it is opening, and will be there at once
		d.Why = &Refusal{Reason: v1alpha1.ReasonNoNodes, Message: fmt.Sprintf("no node answers, so %s names none; see HostEnforced and Exposed", name), Waits: true}
	}
	return d
}

// blind says that no node that could enforce is Ready: then it is the cluster that has
// lost sight of its nodes, and clients may well reach them still.
func (f Front) blind() bool {
	return !slices.ContainsFunc(f.Sight.Nodes, func(n NodeReport) bool { return Enforceable(n.Node) && Ready(n.Node) })
}

func (f Front) answers() bool {
	return slices.ContainsFunc(f.open(), func(a *v1alpha1.NodePortAllocation) bool {
		return len(f.Sight.Answering(a, func(NodeReport, uint16) bool { return false })) > 0
	})
}

// podless says that a Local port has no pod on any node: then all nodes refuse, and which
// of them are named makes no difference.
func (f Front) podless() bool {
	nowhere, misplaced := f.Sight.podless(f.open())
	return nowhere != nil && misplaced == nil
}

// Waiting says whether a node may begin to answer by its next report.
func (f Front) Waiting() bool {
	return slices.ContainsFunc(f.open(), func(a *v1alpha1.NodePortAllocation) bool {
		return slices.ContainsFunc(f.Sight.Nodes, func(n NodeReport) bool {
			return Answering(n, a, f.Sight.Proof.Gateways) && f.Sight.Proof.Missing(n, a) != ""
		})
	})
}
