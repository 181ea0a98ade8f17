package compile

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

func setOf(name string, cidrs ...v1alpha1.CIDR) v1alpha1.AddressSet {
	return v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.AddressSetSpec{CIDRs: cidrs}}
}

func nodeSet(n int, cidrs ...v1alpha1.CIDR) v1alpha1.AddressSet {
	set := setOf(nodeSetName(n), cidrs...)
	set.Labels = map[string]string{v1alpha1.LabelEntity: string(v1alpha1.EntityNodes)}
	return set
}

func railed(g v1alpha1.Guardrails) []v1alpha1.NodePortPool {
	return []v1alpha1.NodePortPool{{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.NodePortPoolSpec{Guardrails: g}}}
}

func texts(prefixes []netip.Prefix) (out []string) {
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}

// Each guard-rail at its edge: what just fits stands, what just does not is dropped
// alone.
func TestGuardRailsAtTheirEdges(t *testing.T) {
	for _, c := range []struct {
		name  string
		rails v1alpha1.Guardrails
		own   []v1alpha1.CIDR
		sets  [][]v1alpha1.CIDR
		want  string
	}{
		{"no rails", v1alpha1.Guardrails{}, []v1alpha1.CIDR{"10.0.0.0/9"}, [][]v1alpha1.CIDR{{"12.0.0.0/6", "2000::/3"}}, "10.0.0.0/9 12.0.0.0/6 2000::/3"},
		{"the widest IPv4", v1alpha1.Guardrails{WidestIPv4: ptr.To[int32](16)}, nil, [][]v1alpha1.CIDR{{"10.8.0.0/16", "2000::/3"}}, "10.8.0.0/16 2000::/3"},
		{"wider than the widest IPv4", v1alpha1.Guardrails{WidestIPv4: ptr.To[int32](17)}, nil, [][]v1alpha1.CIDR{{"10.8.0.0/16", "2000::/3"}}, "2000::/3"},
		{"the widest IPv6", v1alpha1.Guardrails{WidestIPv6: ptr.To[int32](48)}, nil, [][]v1alpha1.CIDR{{"10.0.0.0/8", "2001:db8::/48"}}, "10.0.0.0/8 2001:db8::/48"},
		{"wider than the widest IPv6", v1alpha1.Guardrails{WidestIPv6: ptr.To[int32](49)}, nil, [][]v1alpha1.CIDR{{"10.0.0.0/8", "2001:db8::/48"}}, "10.0.0.0/8"},
		{"two sets make one too wide", v1alpha1.Guardrails{WidestIPv4: ptr.To[int32](24)}, nil, [][]v1alpha1.CIDR{{"192.0.2.0/24"}, {"192.0.3.0/24", "203.0.113.0/24"}}, "203.0.113.0/24"},
		{"a set within the networks", v1alpha1.Guardrails{WidestIPv4: ptr.To[int32](16)}, []v1alpha1.CIDR{"10.0.0.0/8"}, [][]v1alpha1.CIDR{{"10.8.0.0/16"}}, "10.0.0.0/8"},
		{"as many addresses", v1alpha1.Guardrails{MaxAddresses: ptr.To[int64](257)}, []v1alpha1.CIDR{"203.0.113.7/32"}, [][]v1alpha1.CIDR{{"192.0.2.0/24"}}, "192.0.2.0/24 203.0.113.7/32"},
		{"one address more", v1alpha1.Guardrails{MaxAddresses: ptr.To[int64](256)}, []v1alpha1.CIDR{"203.0.113.7/32"}, [][]v1alpha1.CIDR{{"192.0.2.0/24"}, {"203.0.113.7/32"}}, "203.0.113.7/32"},
		{"a set that overflows leaves room to the next", v1alpha1.Guardrails{MaxAddresses: ptr.To[int64](256)}, nil, [][]v1alpha1.CIDR{{"192.0.2.0/23"}, {"203.0.113.0/24"}}, "203.0.113.0/24"},
		{"as many networks", v1alpha1.Guardrails{MaxCIDRs: ptr.To[int32](2)}, []v1alpha1.CIDR{"203.0.113.7/32"}, [][]v1alpha1.CIDR{{"192.0.2.0/24", "192.0.3.0/24"}}, "192.0.2.0/23 203.0.113.7/32"},
		{"one network more", v1alpha1.Guardrails{MaxCIDRs: ptr.To[int32](2)}, []v1alpha1.CIDR{"203.0.113.7/32"}, [][]v1alpha1.CIDR{{"192.0.2.0/24", "192.0.4.0/24"}}, "203.0.113.7/32"},
		{"networks beyond the rails were judged before", v1alpha1.Guardrails{MaxCIDRs: ptr.To[int32](1), WidestIPv4: ptr.To[int32](24), MaxAddresses: ptr.To[int64](1), AllowedSources: []v1alpha1.CIDR{"192.0.2.0/24"}}, []v1alpha1.CIDR{"10.8.0.0/16", "10.16.0.0/16"}, [][]v1alpha1.CIDR{{"192.0.2.0/24"}}, "10.8.0.0/16 10.16.0.0/16"},
		{"the allowed sources", v1alpha1.Guardrails{AllowedSources: []v1alpha1.CIDR{"10.0.0.0/9", "10.128.0.0/9"}}, nil, [][]v1alpha1.CIDR{{"10.0.0.0/8", "192.0.2.0/24"}}, "10.0.0.0/8"},
		{"allowed sources of the other family", v1alpha1.Guardrails{AllowedSources: []v1alpha1.CIDR{"2001:db8::/32"}}, nil, [][]v1alpha1.CIDR{{"10.0.0.0/8", "2001:db8:7::/48"}}, "2001:db8:7::/48"},
		{"allowed sources that can't be read", v1alpha1.Guardrails{AllowedSources: []v1alpha1.CIDR{"x"}}, []v1alpha1.CIDR{"203.0.113.7/32"}, [][]v1alpha1.CIDR{{"10.0.0.0/8"}}, "203.0.113.7/32"},
		{"a network and a set make the world", v1alpha1.Guardrails{}, []v1alpha1.CIDR{"::/1"}, [][]v1alpha1.CIDR{{"8000::/1", "10.0.0.0/8"}}, "10.0.0.0/8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			port := v1alpha1.ClaimedPort{Protocol: "TCP", Sources: c.own}
			var sets []v1alpha1.AddressSet
			for i, cidrs := range c.sets {
				name := string(rune('a' + i))
				sets = append(sets, setOf(name, cidrs...))
				port.AddressSets = append(port.AddressSets, v1alpha1.ObjectName(name))
			}
			got := strings.Join(texts(NewPlaces(railed(c.rails), sets).Admitted("web", port)), " ")
			if got != c.want {
				t.Errorf("admits %q, want %q", got, c.want)
			}
		})
	}
}

// What nobody knows admits nobody; the networks of the allocation itself stand.
func TestPlacesThatKnowNothing(t *testing.T) {
	port := v1alpha1.ClaimedPort{Sources: []v1alpha1.CIDR{"10.8.0.0/16"}, AddressSets: []v1alpha1.ObjectName{"office"}}
	for name, places := range map[string]Places{
		"zero": {}, "no pool": NewPlaces(nil, []v1alpha1.AddressSet{setOf("office", "192.0.2.0/24")}), "no set": NewPlaces(railed(v1alpha1.Guardrails{}), nil),
	} {
		if got := texts(places.Admitted("web", port)); !slices.Equal(got, []string{"10.8.0.0/16"}) {
			t.Errorf("%s: admits %q", name, got)
		}
		if got := places.Admitted("web", v1alpha1.ClaimedPort{World: true}); !slices.Equal(got, rule.World) {
			t.Errorf("%s: the world is %v", name, got)
		}
	}
}

// A message has an end: long lists are named in part.
func TestProblemsStayShort(t *testing.T) {
	wide := setOf("office")
	for i := range 200 {
		wide.Spec.CIDRs = append(wide.Spec.CIDRs, v1alpha1.CIDR(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 17).String()))
	}
	entries := []candidate{{what: "sources[0].addressSet \"office\"", set: "office", prefixes: NewPlaces(nil, []v1alpha1.AddressSet{wide}).sets["office"].prefixes}}
	_, problems := NewPlaces(railed(v1alpha1.Guardrails{AllowedSources: []v1alpha1.CIDR{"192.0.2.0/24"}}), nil).rails["web"].judge("https", entries)
	if len(problems) != 1 || len(problems[0]) > 300 || !strings.Contains(problems[0], "and 196 more") {
		t.Errorf("problems %q", problems)
	}
}

func FuzzSelectors(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"matchLabels":{"team":"payments"}}`, `{"matchExpressions":[{"key":"team","operator":"In","values":["payments"]}]}`,
		`{"matchExpressions":[{"key":"team","operator":"Near","values":["payments"]}]}`, `{"matchExpressions":[{"key":"team","operator":"In"}]}`,
		`{"matchExpressions":[{"key":"team","operator":"Exists","values":["x"]}]}`, `{"matchLabels":{"-":"-"}}`, `{"matchLabels":{"team":"a b"}}`, `{"matchExpressions":[{"operator":"DoesNotExist"}]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var selector metav1.LabelSelector
		if json.Unmarshal([]byte(text), &selector) != nil {
			return
		}
		read, err := metav1.LabelSelectorAsSelector(&selector)
		for _, set := range []labels.Set{nil, {"team": "payments"}, {"team": ""}, {"role": "edge", "team": "till"}} {
			got := selects(&selector).Matches(set)
			if err != nil && got {
				t.Fatalf("%s can't be read (%v) and selects %v", text, err, set)
			}
			if err == nil && got != read.Matches(set) {
				t.Fatalf("%s selects %v: %v", text, set, got)
			}
		}
	})
}

func FuzzCIDR(f *testing.F) {
	for _, seed := range []string{
		"10.8.0.0/16", "10.8.0.7/16", "2001:db8::/32", "0.0.0.0/0", "::/0", "::ffff:10.0.0.0/104", "::ffff:0:0/96", "fe80::1%eth0/64", "fe80::%eth0/64", "10.0.0.0", "10.0.0.0/33",
		"10.0.0.0/-1", "10.0.0.0/08", "010.0.0.0/8", "", "/", "x/8", "::/129", " 10.0.0.0/8", "2001:DB8::/32", "::10.0.0.0/104", "::/1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cidr := v1alpha1.CIDR(text)
		prefix, ok := parseCIDR(cidr)
		admitted := parseSources([]v1alpha1.CIDR{cidr})
		if !ok {
			if len(admitted) > 0 {
				t.Fatalf("%q can't be read and admits %v", text, admitted)
			}
			return
		}
		if a := prefix.Addr(); !prefix.IsValid() || a.Is4In6() || a.Zone() != "" {
			t.Fatalf("%q is read as %v", text, prefix)
		}
		if again, ok := parseCIDR(v1alpha1.CIDR(prefix.String())); !ok || again != prefix {
			t.Fatalf("%q: %v does not come back, but %v", text, prefix, again)
		}
		if want := prefix.Masked(); prefix.Bits() > 0 && !slices.Equal(admitted, []netip.Prefix{want}) || prefix.Bits() == 0 && len(admitted) > 0 {
			t.Fatalf("%q admits %v", text, admitted)
		}
		if again := parseSources(spell(admitted)); !slices.Equal(again, admitted) {
			t.Fatalf("%q: %v does not come back, but %v", text, admitted, again)
		}
	})
}
