package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// fronts is what the fronts of a policy in health are decided from: nodes a, and b with
// an external address of the other family, too.
func fronts(s Seen) Front {
	if s.Policy.Spec.Front == nil {
		s.Policy.Spec.Front = &v1alpha1.Front{}
	}
	s.Policy.UID = "p1"
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	pool.Spec.Guardrails.DNSDomains = []v1alpha1.DNSDomain{"example.org"}
	return Front{Policy: s.Policy, Allocations: s.Allocations, Sight: s.sight(), Pools: []Pool{{NodePortPool: pool}}}
}

// directives are the lines of a file that name a server or where to listen.
func directives(data map[string]string) (out []string) {
	for _, text := range data {
		for line := range strings.SplitSeq(text, "\n") {
			line = strings.TrimSpace(line)
			for _, word := range []string{"server ", "listen ", "bind "} {
				if strings.HasPrefix(line, word) && line != "server {" {
					line, _, _ = strings.Cut(line, " max_fails")
					line, _, _ = strings.Cut(line, " check")
					out = append(out, strings.TrimSuffix(line, ";"))
				}
			}
		}
	}
	return out
}

func why(d Door) string {
	if d.Why == nil {
		return ""
	}
	return d.Why.Reason
}

func udp(s *Seen) {
	s.Allocations[0].Spec.Ports = append(s.Allocations[0].Spec.Ports, v1alpha1.ClaimedPort{Protocol: "UDP", Name: "quic", Port: 443})
}

func TestProxyFronts(t *testing.T) {
	distinctly := func(s *Seen) {
		s.Nodes[0].Status.Addresses[0].Address, s.Nodes[1].Status.Addresses[0].Address = "10.0.0.1", "10.0.0.2"
	}
	internal := func(s *Seen) {
		distinctly(s)
		for i := range s.Nodes {
			s.Nodes[i].Status.Addresses[0].Type = corev1.NodeInternalIP
		}
		address(corev1.NodeInternalIP, "2001:db8::1")(&s.Nodes[0])
	}
	for _, c := range []struct {
		name           string
		spoil          func(*Seen)
		nginx, haproxy string
		why            string
	}{
		{"each node by its first address", internal,
			"server 10.0.0.1:30007, server 10.0.0.2:30007, listen 443, listen [::]:443",
			"bind 0.0.0.0:443, bind [::]:443 v6only, server a 10.0.0.1:30007, server b 10.0.0.2:30007", ""},
		{"of the wanted type", func(s *Seen) {
			internal(s)
			s.Policy.Spec.Front = &v1alpha1.Front{Nginx: &v1alpha1.ProxyFront{AddressType: v1alpha1.ExternalIP}, HAProxy: &v1alpha1.ProxyFront{AddressType: v1alpha1.ExternalIP}}
		}, "server [2001:db8::b]:30007, listen 443, listen [::]:443", "bind 0.0.0.0:443, bind [::]:443 v6only, server b [2001:db8::b]:30007", ""},
		{"of the wanted family", func(s *Seen) {
			internal(s)
			s.Policy.Spec.Front = &v1alpha1.Front{IPFamilies: []v1alpha1.IPFamily{"IPv6"}}
		}, "server [2001:db8::1]:30007, listen [::]:443", "bind [::]:443 v6only, server a [2001:db8::1]:30007", ""},
		{"of the Service's family", func(s *Seen) { internal(s); s.Companion.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} },
			"server [2001:db8::1]:30007, listen [::]:443", "bind [::]:443 v6only, server a [2001:db8::1]:30007", ""},
		{"listens elsewhere", func(s *Seen) {
			internal(s)
			notReady(&s.Nodes[0])
			s.Policy.Spec.Front = &v1alpha1.Front{Ports: []v1alpha1.FrontPort{{Port: 80, Listen: 8080}, {Port: 443, Listen: 8443}}}
		}, "server 10.0.0.2:30007, listen 8443, listen [::]:8443", "bind 0.0.0.0:8443, bind [::]:8443 v6only, server b 10.0.0.2:30007", ""},
		{"UDP with nginx only", func(s *Seen) { internal(s); notReady(&s.Nodes[0]); udp(s) },
			"server 10.0.0.2:30007, listen 443, listen [::]:443, server 10.0.0.2:30007, listen 443 udp, listen [::]:443 udp",
			"bind 0.0.0.0:443, bind [::]:443 v6only, server b 10.0.0.2:30007", ""},
		{"two ports on one number", func(s *Seen) {
			internal(s)
			notReady(&s.Nodes[0])
			s.Allocations[0].Spec.Ports = append(s.Allocations[0].Spec.Ports, v1alpha1.ClaimedPort{Protocol: "TCP", Port: 80})
			s.Policy.Spec.Front = &v1alpha1.Front{Ports: []v1alpha1.FrontPort{{Port: 80, Listen: 443}}}
		}, "server 10.0.0.2:30007, listen 443, listen [::]:443", "bind 0.0.0.0:443, bind [::]:443 v6only, server b 10.0.0.2:30007", v1alpha1.ReasonInvalid},
		{"no address of the type", func(s *Seen) {
			distinctly(s)
			for i := range s.Nodes {
				s.Nodes[i].Status.Addresses[0].Type = corev1.NodeExternalIP
			}
		}, "", "bind abns", v1alpha1.ReasonNoAddresses},
		{"closed", func(s *Seen) { internal(s); s.close(0) }, "", "bind abns", ""},
		{"lockdown", func(s *Seen) { internal(s); s.Lockdown = true }, "", "bind abns", ""},
		{"nothing that a proxy carries", func(s *Seen) { internal(s); s.Allocations[0].Spec.Ports[0].Protocol = "SCTP" }, "", "bind abns", v1alpha1.ReasonInvalid},
		{"two nodes of one address", func(s *Seen) {
			internal(s)
			s.Nodes[1].Status.Addresses[0].Address = "10.0.0.1"
		}, "server 10.0.0.1:30007, listen 443, listen [::]:443", "bind 0.0.0.0:443, bind [::]:443 v6only, server a 10.0.0.1:30007", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			c.spoil(&seen)
			f := fronts(seen)
			ask := v1alpha1.ProxyFront{ConfigMap: "web", AddressType: v1alpha1.InternalIP}
			if given := f.Policy.Spec.Front.Nginx; given != nil {
				ask.AddressType = given.AddressType
			}
			nginx, haproxy := f.Nginx(&ask, nil), f.HAProxy(&ask, nil)
			if got := strings.Join(directives(nginx.Data), ", "); got != c.nginx || why(nginx) != c.why {
				t.Errorf("nginx: %s (%s)\nwant:  %s (%s)", got, why(nginx), c.nginx, c.why)
			}
			if got := strings.Join(directives(haproxy.Data), ", "); !strings.HasPrefix(got, c.haproxy) || why(haproxy) != c.why {
				t.Errorf("haproxy: %s (%s)\nwant:    %s (%s)", got, why(haproxy), c.haproxy, c.why)
			}
		})
	}
}

// A policy of UDP alone has nothing for HAProxy, and says so.
func TestHAProxyCarriesNoUDP(t *testing.T) {
	seen := healthy()
	udp(&seen)
	if d := fronts(seen).HAProxy(&v1alpha1.ProxyFront{ConfigMap: "web", AddressType: v1alpha1.ExternalIP}, nil); d.Why != nil || !strings.Contains(d.Note, "UDP") {
		t.Errorf("beside TCP: %+v %q", d.Why, d.Note)
	}
	seen.Allocations[0].Spec.Ports = seen.Allocations[0].Spec.Ports[1:]
	if d := fronts(seen).HAProxy(&v1alpha1.ProxyFront{ConfigMap: "web", AddressType: v1alpha1.ExternalIP}, nil); why(d) != v1alpha1.ReasonInvalid {
		t.Errorf("alone: %+v", d.Why)
	}
}

// What an object names stays while it answers: nodes that join a full front, and
// changes that every node has yet to follow, change no byte.
func TestAFrontIsAStableSample(t *testing.T) {
	seen := crowd(40)
	seen.Policy.Spec.Front = &v1alpha1.Front{MaxNodes: 5}
	ask := &v1alpha1.ProxyFront{ConfigMap: "web", AddressType: v1alpha1.InternalIP}
	write := func(have *corev1.ConfigMap) *corev1.ConfigMap {
		d := fronts(seen).Nginx(ask, have)
		if d.Unwritten && have != nil {
			return have
		}
		return d.ConfigMap(have)
	}
	same := func(what string, a, b *corev1.ConfigMap) {
		t.Helper()
		if a.Data[NginxKey] != b.Data[NginxKey] || a.Annotations[v1alpha1.AnnotationFrontNodes] != b.Annotations[v1alpha1.AnnotationFrontNodes] {
			t.Errorf("%s: %v\nwas %v", what, a.Annotations, b.Annotations)
		}
	}
	all := seen.Nodes
	seen.Nodes = all[:20]
	first := write(nil)
	if n := strings.Count(first.Data[NginxKey], "max_fails"); n != 5 {
		t.Fatalf("%d servers", n)
	}
	seen.Nodes = all
	same("after twenty joined", write(first), first)
	slices.Reverse(seen.Nodes)
	same("in another order", write(first), first)
	for i := range seen.Nodes {
		mark("89")(&seen.Nodes[i])
	}
	same("while every node is behind with a change", write(first), first)
	if d := fronts(seen).Nginx(ask, nil); !d.Unwritten || why(d) != v1alpha1.ReasonNoNodes {
		t.Errorf("while a new port is not enforced anywhere: %+v", d)
	}
	for i := range seen.Nodes {
		notReady(&seen.Nodes[i])
	}
	same("when no node at all is Ready", write(first), first)
	one := strings.Split(first.Annotations[v1alpha1.AnnotationFrontNodes], ",")[2]
	seen = crowd(40)
	seen.Policy.Spec.Front = &v1alpha1.Front{MaxNodes: 5}
	for i := range seen.Nodes {
		if seen.Nodes[i].Name == one {
			notReady(&seen.Nodes[i])
		}
	}
	after := strings.Split(write(first).Annotations[v1alpha1.AnnotationFrontNodes], ",")
	kept := slices.DeleteFunc(slices.Clone(after), func(n string) bool { return !strings.Contains(first.Annotations[v1alpha1.AnnotationFrontNodes], n) })
	if len(after) != 5 || len(kept) != 4 || slices.Contains(after, one) {
		t.Errorf("after %s died: %v, was %v", one, after, first.Annotations)
	}
}

func TestDNSFront(t *testing.T) {
	for _, c := range []struct {
		name, hostname, why, want string
		spoil                     func(*Seen)
	}{
		{"both families", "shop.example.org", "", "A 192.0.2.1 60, AAAA 2001:db8::b 60", nil},
		{"the domain itself", "example.org", "", "A 192.0.2.1 60, AAAA 2001:db8::b 60", nil},
		{"another domain", "shop.example.net", v1alpha1.ReasonHostnameRefused, "", nil},
		{"one that only ends alike", "shopexample.org", v1alpha1.ReasonHostnameRefused, "", nil},
		{"a pool that is gone", "shop.example.org", v1alpha1.ReasonHostnameRefused, "", func(s *Seen) { s.Allocations[0].Spec.Pool = "gone" }},
		{"one family", "shop.example.org", "", "AAAA 2001:db8::b 60", func(s *Seen) { s.Policy.Spec.Front = &v1alpha1.Front{IPFamilies: []v1alpha1.IPFamily{"IPv6"}} }},
		{"closed", "shop.example.org", "", "", func(s *Seen) { s.close(0) }},
		{"no such address", "shop.example.org", v1alpha1.ReasonNoAddresses, "", func(s *Seen) {
			for i := range s.Nodes {
				s.Nodes[i].Status.Addresses = nil
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			for i := range seen.Nodes {
				seen.Nodes[i].Status.Addresses[0].Type = corev1.NodeExternalIP
			}
			if c.spoil != nil {
				c.spoil(&seen)
			}
			d := fronts(seen).DNS(&v1alpha1.DNSFront{Hostname: c.hostname, TTLSeconds: 60, AddressType: v1alpha1.ExternalIP}, nil)
			var got []string
			for _, r := range d.Records {
				record := r.(map[string]any)
				for _, target := range record["targets"].([]any) {
					got = append(got, fmt.Sprintf("%s %s %d", record["recordType"], target, record["recordTTL"]))
				}
				if record["dnsName"] != c.hostname {
					t.Errorf("record %v", record)
				}
			}
			if text := strings.Join(got, ", "); text != c.want || why(d) != c.why {
				t.Errorf("%s (%s), want %s (%s)", text, why(d), c.want, c.why)
			}
		})
	}
}

// Whose an object is stands on it: the label and the owner. What others wrote beside
// stays, and a second time nothing is written.
func TestFrontObjects(t *testing.T) {
	f := fronts(healthy())
	door := f.Nginx(&v1alpha1.ProxyFront{ConfigMap: "web", AddressType: v1alpha1.ExternalIP}, nil)
	made := door.ConfigMap(nil)
	if !IsFront(made, "shop") || IsFront(made, "web") || made.OwnerReferences[0].UID != "p1" {
		t.Errorf("made %+v", made.ObjectMeta)
	}
	for what, spoil := range map[string]func(*corev1.ConfigMap){
		"without our label":      func(c *corev1.ConfigMap) { c.Labels = nil },
		"without an owner":       func(c *corev1.ConfigMap) { c.OwnerReferences = nil },
		"of another policy":      func(c *corev1.ConfigMap) { c.OwnerReferences[0].Name = "other" },
		"of another kind":        func(c *corev1.ConfigMap) { c.OwnerReferences[0].Kind = "Deployment" },
		"of another policy, too": func(c *corev1.ConfigMap) { c.Labels[v1alpha1.LabelFront] = "other" },
	} {
		other := made.DeepCopy()
		if spoil(other); IsFront(other, "shop") {
			t.Errorf("one %s is taken for ours", what)
		}
	}
	theirs := made.DeepCopy()
	theirs.Labels["team"], theirs.Data["more"] = "shop", "x"
	again := door.ConfigMap(theirs)
	if again.Labels["team"] != "shop" || len(again.Data) != 1 {
		t.Errorf("over it: %+v", again)
	}
	dns := f.DNS(&v1alpha1.DNSFront{Hostname: "shop.example.org", AddressType: v1alpha1.ExternalIP}, nil)
	endpoint := dns.Endpoint(nil)
	if !IsFront(endpoint, "shop") || endpoint.GetName() != "shop-nodeport" {
		t.Errorf("made %v", endpoint)
	}
	second := f.DNS(&v1alpha1.DNSFront{Hostname: "shop.example.org", AddressType: v1alpha1.ExternalIP}, endpoint)
	data, err := endpoint.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	read := &unstructured.Unstructured{} // as the API server returns it
	if err := read.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	if got := second.Endpoint(read); string(mustJSON(t, got)) != string(mustJSON(t, read)) {
		t.Errorf("a second time: %v, was %v", got, read)
	}
}

// Fronted tells what was done, in no other gate's way.
func TestFronted(t *testing.T) {
	for _, c := range []struct {
		name string
		seen *FrontSeen
		had  string
		want string
	}{
		{"nobody has looked", nil, "", "False Progressing"},
		{"looked before the last edit", &FrontSeen{Generation: 2}, "", "False Progressing"},
		{"a new manager has not looked", nil, "True OK", "True OK"},
		{"all is written", &FrontSeen{Generation: 3}, "", "True OK"},
		{"a name is taken", &FrontSeen{Generation: 3, Why: &Refusal{Reason: v1alpha1.ReasonFrontNameTaken, Message: "m"}}, "", "False FrontNameTaken Conflict"},
		{"no external-dns", &FrontSeen{Generation: 3, Why: &Refusal{Reason: v1alpha1.ReasonExternalDNSNotFound, Message: "m"}}, "True OK", "False ExternalDNSNotFound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			seen.Policy.Spec.Front = &v1alpha1.Front{Nginx: &v1alpha1.ProxyFront{ConfigMap: "web"}}
			seen.Front = c.seen
			if status, reason, had := strings.Cut(c.had, " "); had {
				seen.Policy.Status.Conditions = []metav1.Condition{{Type: v1alpha1.Fronted, Status: metav1.ConditionStatus(status), Reason: reason, Message: "m", ObservedGeneration: 3}}
			}
			status := Status(seen, metav1.NewTime(clock))
			f := meta.FindStatusCondition(status.Conditions, v1alpha1.Fronted)
			got := fmt.Sprintf("%s %s", f.Status, f.Reason)
			if meta.FindStatusCondition(status.Conditions, v1alpha1.Conflict) != nil {
				got += " Conflict"
			}
			if got != c.want || !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.Ready) {
				t.Errorf("%s, want %s; %+v", got, c.want, status.Conditions)
			}
			seen.Policy.Status, seen.Policy.Spec.Front = status, nil
			if again := Status(seen, metav1.NewTime(clock)); meta.FindStatusCondition(again.Conditions, v1alpha1.Fronted) != nil {
				t.Error("told of a policy without a front")
			}
		})
	}
}

// A name belongs to the oldest policy that may have it: the younger one would divert its
// clients. One that may not have it keeps nobody from it.
func TestAHostnameBelongsToTheOldestThatMayHaveIt(t *testing.T) {
	const hostname = "shop.example.org"
	for _, c := range []struct {
		name   string
		change func(*Rival)
		why    string
	}{
		{"older", func(*Rival) {}, v1alpha1.ReasonHostnameRefused},
		{"younger", func(r *Rival) { r.Policy.CreationTimestamp = metav1.NewTime(clock.Add(time.Hour)) }, ""},
		{"as old, and first by name", func(r *Rival) { r.Policy.CreationTimestamp = metav1.NewTime(clock) }, v1alpha1.ReasonHostnameRefused},
		{"older, of a pool without the domain", func(r *Rival) { r.Allocations[0].Spec.Pool = "gone" }, ""},
		{"older, without a port", func(r *Rival) { r.Allocations = nil }, ""},
		{"older, and closed", func(r *Rival) { r.Allocations[0].Spec.State = v1alpha1.AllocationClosed }, ""},
	} {
		seen := healthy()
		seen.Nodes[0].Status.Addresses[0].Type = corev1.NodeExternalIP
		seen.Policy.CreationTimestamp = metav1.NewTime(clock)
		f := fronts(seen)
		rival := Rival{Policy: seen.Policy.DeepCopy(), Allocations: slices.Clone(healthy().Allocations)}
		rival.Policy.Namespace, rival.Policy.CreationTimestamp = "accounts", metav1.NewTime(clock.Add(-24*365*time.Hour))
		c.change(&rival)
		f.Rivals = []Rival{rival}
		d := f.DNS(&v1alpha1.DNSFront{Hostname: hostname, TTLSeconds: 60, AddressType: v1alpha1.ExternalIP}, nil)
		if why(d) != c.why || (len(d.Records) > 0) != (c.why == "") {
			t.Errorf("%s: %s with %v, want %q", c.name, why(d), d.Records, c.why)
		}
	}
}
