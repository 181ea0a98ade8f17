package compile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// ending is what came of a scene.
type ending struct {
	Refusal     *Refusal                      `json:"refusal,omitempty"`
	Problems    []string                      `json:"problems,omitempty"`
	Allocations []v1alpha1.NodePortAllocation `json:"allocations,omitempty"`
	Unserved    []string                      `json:"unserved,omitempty"`
	Companion   *corev1.Service               `json:"companion,omitempty"`
	// Services that are not as they were.
	Services []*corev1.Service `json:"services,omitempty"`

	services map[string]*corev1.Service // all of them
	places   Places
}

func (e ending) render(t *testing.T) []byte {
	t.Helper()
	data, err := yaml.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (e ending) requireLines(t *testing.T, want []string) {
	t.Helper()
	got := e.lines()
	for _, kind := range []string{"companion ", "service ", "admits ", "cloud "} {
		ofKind := func(line string) bool { return strings.HasPrefix(line, kind) }
		if !slices.ContainsFunc(want, ofKind) {
			got = slices.DeleteFunc(got, ofKind)
		}
	}
	for _, line := range want {
		for i := range got {
			if (strings.HasPrefix(line, "problem ") || strings.HasPrefix(line, "refused ")) && strings.HasPrefix(got[i], line) {
				got[i] = line
				break
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("came of it:\n\t%s\nexpected:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func (e ending) lines() []string {
	out := slices.Clone(e.Unserved)
	if e.Refusal != nil {
		end := "stalled"
		if e.Refusal.Waits {
			end = "waits"
		}
		out = append(out, fmt.Sprintf("refused %s %s: %s", e.Refusal.Reason, end, e.Refusal.Message))
	}
	for _, p := range e.Problems {
		out = append(out, "problem "+p)
	}
	for i := range e.Allocations {
		out = append(out, describeAllocation(&e.Allocations[i])...)
		out = append(out, e.describeAdmitted(&e.Allocations[i])...)
		out = append(out, e.describeClouded(&e.Allocations[i])...)
	}
	if c := e.Companion; c != nil {
		out = append(out, describeCompanion(c)...)
	}
	for _, s := range e.services {
		if s.Labels[v1alpha1.LabelPolicy] == "" {
			out = append(out, describeService(s))
		}
	}
	return out
}

func describeAllocation(a *v1alpha1.NodePortAllocation) (out []string) {
	carrier := ""
	if a.Spec.Carrier == v1alpha1.ServiceInPlace {
		carrier = " in place"
	}
	if a.Spec.Adopted {
		carrier += ", adopted"
	}
	if a.Spec.State != v1alpha1.AllocationOpen {
		var protocols []string
		for _, p := range a.Spec.Protocols {
			protocols = append(protocols, string(p))
		}
		return []string{fmt.Sprintf("%s %s %s%s", a.Name, a.Spec.State, strings.Join(protocols, "+"), carrier)}
	}
	for _, p := range a.Spec.Ports {
		line := fmt.Sprintf("%s Open %s %s%s", a.Name, p.Protocol, nameOrPort(p), describeSources(p))
		for i, f := range a.Spec.CloudFirewalls {
			line += map[bool]string{true: " via ", false: ","}[i == 0] + string(f)
		}
		if a.Spec.NodeSelector != nil {
			line += " on " + metav1.FormatLabelSelector(a.Spec.NodeSelector)
		}
		out = append(out, line+carrier+describeGate(a))
	}
	return out
}

func describeSources(p v1alpha1.ClaimedPort) (line string) {
	for _, s := range p.Sources {
		line += " " + string(s)
	}
	for _, s := range p.AddressSets {
		line += " @" + string(s)
	}
	for _, id := range p.PrefixLists {
		line += " " + string(id)
	}
	for _, e := range p.Entities {
		line += " " + string(e)
	}
	for _, peer := range p.Peers {
		line += fmt.Sprintf(" %s within %s", peer.ID, joinNames(peer.Sources))
	}
	if p.World {
		line += " world"
	}
	if line == "" {
		return " nobody"
	}
	return line
}

// describeAdmitted says who may reach an allocation's ports now.
func (e ending) describeAdmitted(a *v1alpha1.NodePortAllocation) (out []string) {
	if a.Spec.State != v1alpha1.AllocationOpen {
		return nil
	}
	for _, p := range a.Spec.Ports {
		line := fmt.Sprintf("admits %s %s %s", a.Name, p.Protocol, nameOrPort(p))
		admitted := e.places.Admitted(a.Spec.Pool, p)
		for _, prefix := range admitted {
			line += " " + prefix.String()
		}
		switch {
		case len(admitted) == 0:
			line += " nobody"
		case slices.Equal(admitted, rule.World):
			line = fmt.Sprintf("admits %s %s %s everybody", a.Name, p.Protocol, nameOrPort(p))
		}
		out = append(out, line)
	}
	return out
}

// describeClouded says whom clouds are to admit to an allocation's ports now.
func (e ending) describeClouded(a *v1alpha1.NodePortAllocation) []string {
	if a.Spec.State != v1alpha1.AllocationOpen {
		return nil
	}
	line := "cloud " + a.Name
	for _, admission := range slices.SortedFunc(slices.Values(e.places.admissions(a)), CompareAdmissions) {
		if admission.Peer != "" {
			line += fmt.Sprintf(" %s:%s", admission.Protocol, admission.Peer)
		} else {
			line += fmt.Sprintf(" %s:%s", admission.Protocol, admission.Source)
		}
	}
	return []string{line}
}

func nameOrPort(p v1alpha1.ClaimedPort) string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.Itoa(int(p.Port))
}

func describeCompanion(c *corev1.Service) (out []string) {
	for _, p := range c.Spec.Ports {
		line := fmt.Sprintf("companion %d %s held", p.NodePort, p.Protocol)
		if !strings.HasPrefix(p.Name, closingPrefix) {
			line = fmt.Sprintf("companion %d %s %s %d -> %s", p.NodePort, p.Protocol, p.Name, p.Port, p.TargetPort.String())
		}
		out = append(out, line)
	}
	selected := "nobody"
	for _, key := range slices.Sorted(maps.Keys(c.Spec.Selector)) {
		selected = key + "=" + c.Spec.Selector[key]
	}
	return append(out, "companion selects "+selected)
}

func describeService(s *corev1.Service) string {
	line := fmt.Sprintf("service %s %s", s.Name, s.Spec.Type)
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			line += fmt.Sprintf(" %s/%s=%d", p.Name, protocolOf(p), p.NodePort)
		}
	}
	return line
}
