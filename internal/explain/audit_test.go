package explain

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

func exposed(name string, nodePort int32) corev1.Service {
	s := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "old", Name: name}}
	s.Spec.Type, s.Spec.Ports = corev1.ServiceTypeNodePort, []corev1.ServicePort{{Port: 80, NodePort: nodePort}}
	return s
}

func TestAuditFinds(t *testing.T) {
	const everybody = "0.0.0.0/0 ::/0"
	for _, test := range []struct {
		name   string
		change func(*Cluster)
		want   []string // besides the policy's port: finding, ports, holder, node, by whom
	}{
		{"nothing else", func(*Cluster) {}, nil},
		{"what is held is nobody's", func(c *Cluster) {
			hold := exposed(compile.HoldOf(30005), 30005)
			hold.Namespace, hold.Labels = c.Namespace, map[string]string{v1alpha1.LabelHold: "true"}
			c.Services = append(c.Services, hold)
		}, nil},
		{"a Service outside of pools", func(c *Cluster) { c.Services = append(c.Services, exposed("wiki", 31000)) }, []string{"Undeclared 31000 old/wiki  " + everybody}},
		{"a Service on a reserved number", func(c *Cluster) {
			c.Pools[0].Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30005", Reason: "legacy"}}
			c.Services = append(c.Services, exposed("wiki", 30005))
		}, []string{"Undeclared 30005 old/wiki  " + everybody}},
		{"a Service in a pool that is not armed", func(c *Cluster) {
			c.Pools[0].Status.Armed = []string{"30000"}
			c.Services = append(c.Services, exposed("wiki", 30005))
		}, []string{"Undeclared 30005 old/wiki  " + everybody}},
		{"a Service in a pool, which is dropped", func(c *Cluster) { c.Services = append(c.Services, exposed("wiki", 30005)) }, []string{"Foreign 30005 old/wiki  "}},
		{"what stood there before", func(c *Cluster) {
			a := *c.Allocations[0].DeepCopy()
			a.Name, a.Spec.State, a.Spec.Grandfathered, a.Spec.Claim = "30005", v1alpha1.AllocationForeign, true, v1alpha1.Claim{Namespace: "old", Service: "wiki"}
			c.Allocations, c.Services = append(c.Allocations, a), append(c.Services, exposed("wiki", 30005))
		}, []string{"Grandfathered 30005 old/wiki  " + everybody}},
		{"a squatter in the register", func(c *Cluster) {
			a := *c.Allocations[0].DeepCopy()
			a.Name, a.Spec.State, a.Spec.Claim = "30005", v1alpha1.AllocationForeign, v1alpha1.Claim{Namespace: "old", Service: "wiki"}
			c.Allocations, c.Services = append(c.Allocations, a), append(c.Services, exposed("wiki", 30005))
		}, []string{"Foreign 30005 old/wiki  "}},
		{"another holder than the register has", func(c *Cluster) { c.Services = append(c.Services, exposed("wiki", 30000)) }, []string{"Hijacked 30000 old/wiki  203.0.113.0/24"}},
		{"an external address that is a node's", func(c *Cluster) {
			s := exposed("grab", 0)
			s.Spec.Type, s.Spec.Ports[0].Port, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, 30000, []string{"192.0.2.1"}
			c.Services = append(c.Services, s)
		}, []string{"Hijacked 30000 old/grab  203.0.113.0/24"}},
		{"an external address, outside of pools", func(c *Cluster) {
			s := exposed("grab", 0)
			s.Spec.Type, s.Spec.Ports[0].Port, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, 31000, []string{"192.0.2.1"}
			c.Services = append(c.Services, s)
		}, []string{"Undeclared 31000 old/grab  " + everybody}},
		{"what is shadowed", func(c *Cluster) {
			c.Policies[0].Status.Allocations = []v1alpha1.AllocatedPort{{Protocol: "TCP", NodePort: 30000}}
			c.Policies[0].Status.Conditions = append(c.Policies[0].Status.Conditions, metav1.Condition{Type: v1alpha1.Shadowed, Status: metav1.ConditionTrue})
		}, []string{"Shadowed 30000 shop/shop  203.0.113.0/24"}},
		{"a node that nobody filters", func(c *Cluster) { c.Datapaths = c.Datapaths[:1] }, []string{"Ungated   n2 " + everybody}},
		{"a node that lags", func(c *Cluster) { c.Datapaths[1].Status.Marks.Allocations = "9" }, []string{"Unproved   n2 "}},
		{"a node that has not heard the Portreeve object", func(c *Cluster) {
			c.Installation = installation(func(*v1alpha1.PortreeveSpec) {})
			c.Datapaths[1].Status.Marks.Installation = "8"
		}, []string{"Unproved   n2 "}},
		{"a node that has not heard a pool", func(c *Cluster) { c.Datapaths[1].Status.Marks.Pools = "4" }, []string{"Unproved   n2 "}},
		{"a node that has not heard an AddressSet", func(c *Cluster) {
			c.AddressSets[0].ResourceVersion, c.Datapaths[0].Status.Marks.AddressSets, c.ListedSets = "60", "60", "60"
			c.Allocations[0].Spec.Ports[0].AddressSets = []v1alpha1.ObjectName{"scanners"}
		}, []string{"Unproved   n2 "}},
		{"a node that judged by other labels", func(c *Cluster) {
			c.Allocations[0].Spec.NodeSelector = &v1alpha1.LabelSelector{}
			c.Datapaths[1].Status.NodeLabels = "others"
		}, []string{"Unproved   n2 "}},
		{"a node that says more than was read", func(c *Cluster) { c.Datapaths[1].Status.Marks.Allocations = "70" }, []string{"Unproved   n2 "}},
		{"a node that can't enforce one number", func(c *Cluster) {
			c.Datapaths[1].Status.Exceptions = []v1alpha1.PortException{{Port: 30000, Reason: "a source can't be read"}}
		}, []string{"Unproved 30000  n2 203.0.113.0/24"}},
		{"a node that is not Ready, and nobody knows", func(c *Cluster) { c.Datapaths, c.Nodes[1].Status.Conditions = c.Datapaths[:1], nil }, []string{"Unproved   n2 "}},
		{"a node that is not Ready, and lags", func(c *Cluster) {
			c.Datapaths[1].Status.Marks.Allocations, c.Nodes[1].Status.Conditions = "9", nil
		}, []string{"Unproved   n2 "}},
		{"a node that is not Ready, and had proved it", func(c *Cluster) { c.Nodes[1].Status.Conditions = nil }, nil},
		{"a node that is out of service", func(c *Cluster) {
			c.Datapaths, c.Nodes[1].Status.Conditions = c.Datapaths[:1], nil
			c.Nodes[1].Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}
		}, nil},
		{"a listener of a node", func(c *Cluster) {
			c.Datapaths[0].Status.Exceptions = []v1alpha1.PortException{{Port: 30005, Reason: "exempt"}}
		}, []string{"Exempt 30005  n1 " + everybody}},
		{"a pool that audits free numbers", func(c *Cluster) { c.Pools[0].Spec.Unclaimed = v1alpha1.UnclaimedAudit }, []string{"Audited 30001-30009   " + everybody}},
		{"a pool that ignores them", func(c *Cluster) { c.Pools[0].Spec.Unclaimed = v1alpha1.UnclaimedIgnore }, []string{"Ignored 30001-30009   " + everybody}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := town()
			test.change(&c)
			report := Audit(c)
			var have []string
			for _, l := range report.Lines {
				holder := l.Namespace + "/" + l.Policy
				if l.Policy == "" || l.Finding == FindingHijacked || l.Finding == FindingForeign {
					holder = l.Namespace + "/" + l.Service
				}
				have = append(have, fmt.Sprintf("%s %s %s %s %s", l.Finding, l.Ports, strings.TrimSuffix(holder, "/"), l.Node, strings.Join(l.ReachableBy, " ")))
			}
			const own = "Open 30000 shop/shop  203.0.113.0/24"
			want := append(slices.Clone(test.want), own)
			slices.Sort(have)
			slices.Sort(want)
			if !slices.Equal(have, want) {
				t.Errorf("have %q, want %q", have, want)
			}
			for _, f := range Findings {
				if found := slices.ContainsFunc(report.Lines, func(l Line) bool { return l.Finding == f }); report.Has([]Finding{f}) != found {
					t.Errorf("--fail-on %s: %t, want %t", f, !found, found)
				}
			}
		})
	}
}

// The three forms say the same.
func TestAuditIsWritten(t *testing.T) {
	c := town()
	c.Services = append(c.Services, exposed("wiki", 31000))
	c.Datapaths = c.Datapaths[:1]
	c.Datapaths[0].Status.Exceptions = []v1alpha1.PortException{{Port: 30005, Reason: "=1+1"}}
	report := Audit(c)
	var table, sheet strings.Builder
	if err := report.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteCSV(&sheet); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(sheet.String())).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(table.String(), "\n"); lines != len(report.Lines)+1 || len(rows) != lines {
		t.Errorf("%d lines and %d rows of %d", lines, len(rows), len(report.Lines))
	}
	if strings.Contains(sheet.String(), ",=1+1") || !strings.Contains(table.String(), "everybody") {
		t.Errorf("%s\n%s", sheet.String(), table.String())
	}
	data, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(data, &again); err != nil || len(again.Lines) != len(report.Lines) || again.Kind != "PortreeveAudit" || again.Version != "v1" {
		t.Errorf("%s: %v", data, err)
	}
}
