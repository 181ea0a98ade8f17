package compile

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// exposed is the gate of what carries the ports, and of the NetworkPolicy behind them.
func (s Seen) exposed() gate {
	g := s.carried()
	if !g.passed || len(s.open()) == 0 {
		return g
	}
	nowhere, misplaced := s.sight().podless(s.open())
	if misplaced != nil {
		return waiting(v1alpha1.Exposed, v1alpha1.ReasonNoEndpoints, s.misplaced(misplaced))
	}
	behind, said := s.restricted()
	if behind != nil {
		return *behind
	}
	if said != "" {
		g.message += "; " + said
	}
	if nowhere != nil {
		g.message += fmt.Sprintf("; no pod is ready for port %s, so every node refuses", nowhere.Name)
	}
	return g
}

// misplaced says that pods are ready, but on none of the nodes that answer on the number.
func (s Seen) misplaced(a *v1alpha1.NodePortAllocation) string {
	next := "move a pod to one of the nodes that answer, or set externalTrafficPolicy: Cluster"
	if a.Spec.Gateways != nil {
		return fmt.Sprintf("no active gateway has a ready pod for port %s, whose externalTrafficPolicy is Local, so every node refuses; see kubectl get gwset, and %s", a.Name, next)
	}
	return fmt.Sprintf("none of the nodes that answer on port %s, whose externalTrafficPolicy is Local, has a ready pod, so every node refuses; %s", a.Name, next)
}

func (s Seen) carried() gate {
	name := s.Policy.Name + v1alpha1.CompanionSuffix
	open := s.open()
	inPlace := slices.DeleteFunc(slices.Clone(open), func(a *v1alpha1.NodePortAllocation) bool { return a.Spec.Carrier != v1alpha1.ServiceInPlace })
	switch {
	case len(open) == 0 && s.idle():
		return passed(v1alpha1.Exposed, v1alpha1.ReasonNotRequired, "no port is open")
	case len(open) == 0:
		return waiting(v1alpha1.Exposed, v1alpha1.ReasonProgressing, "waits for its ports")
	case len(inPlace) > 0: // and others while it is on its way from one carrier to another
		if g := s.exposedInPlace(inPlace); !g.passed || len(inPlace) == len(open) {
			return g
		}
		open = slices.DeleteFunc(open, func(a *v1alpha1.NodePortAllocation) bool { return a.Spec.Carrier == v1alpha1.ServiceInPlace })
	}
	return s.exposedByCompanion(open, name)
}

func (s Seen) exposedByCompanion(open []*v1alpha1.NodePortAllocation, name string) gate {
	switch {
	case s.Companion == nil && s.Unexposed != nil:
		return stalled(v1alpha1.Exposed, s.Unexposed.Reason, s.Unexposed.Message)
	case s.Companion == nil:
		return waiting(v1alpha1.Exposed, v1alpha1.ReasonProgressing, fmt.Sprintf("waits for Service %s", name))
	case !IsCompanion(s.Companion, s.Policy.Name):
		return stalled(v1alpha1.Exposed, v1alpha1.ReasonServiceNameTaken, fmt.Sprintf(
			"Service %s exists and is not ours; rename or delete it, or rename the policy", name))
	case s.Service == nil:
		return waiting(v1alpha1.Exposed, v1alpha1.ReasonServiceNotFound, fmt.Sprintf(
			"Service %s does not exist, so Service %s holds the ports without endpoints; create it", s.Policy.Spec.ServiceRef.Name, name))
	case len(s.Companion.Spec.Selector) == 0:
		return waiting(v1alpha1.Exposed, v1alpha1.ReasonProgressing, fmt.Sprintf("Service %s has no selector yet", name))
	}
	if want := trafficAsked(open).orDefault(); trafficOf(&s.Companion.Spec) != want {
		return waiting(v1alpha1.Exposed, v1alpha1.ReasonProgressing, fmt.Sprintf("waits for Service %s to say %s", name, want))
	}
	carried := carriedBy(s.Companion)
	for _, a := range open {
		if !containsAll(carried[NumberOf(a)], a.Spec.Protocols) {
			return waiting(v1alpha1.Exposed, v1alpha1.ReasonProgressing, fmt.Sprintf("waits for Service %s to carry node port %s", name, a.Name))
		}
	}
	return passed(v1alpha1.Exposed, v1alpha1.ReasonOK, fmt.Sprintf("Service %s carries the ports", name))
}

func (s Seen) exposedInPlace(open []*v1alpha1.NodePortAllocation) gate {
	name := open[0].Spec.Claim.Service
	switch {
	case s.Unexposed != nil:
		return stalled(v1alpha1.Exposed, s.Unexposed.Reason, s.Unexposed.Message)
	case s.Service == nil:
		return waiting(v1alpha1.Exposed, v1alpha1.ReasonServiceNotFound, fmt.Sprintf("Service %s does not exist; create it", name))
	}
	if want := trafficAsked(open); !want.said(&s.Service.Spec) {
		return waiting(v1alpha1.Exposed, v1alpha1.ReasonProgressing, fmt.Sprintf("waits for Service %s to say %s; if somebody else writes it again and again, take it out there", name, want))
	}
	carried := Held(s.Service)
	for _, a := range open {
		if !containsAll(carried[NumberOf(a)], a.Spec.Protocols) {
			return waiting(v1alpha1.Exposed, v1alpha1.ReasonProgressing, fmt.Sprintf("waits for Service %s to carry node port %s", name, a.Name))
		}
	}
	return passed(v1alpha1.Exposed, v1alpha1.ReasonOK, fmt.Sprintf("Service %s carries the ports in place", name))
}

// carriedBy returns the node ports that a companion serves, not merely holds.
func carriedBy(companion *corev1.Service) map[uint16][]v1alpha1.Protocol {
	serving := corev1.Service{}
	for _, p := range companion.Spec.Ports {
		if !strings.HasPrefix(p.Name, closingPrefix) {
			serving.Spec.Ports = append(serving.Spec.Ports, p)
		}
	}
	return Held(&serving)
}

// IsCompanion says whether a Service is the companion of the named policy: it
// has its name, carries our label and is owned by an allocation. A copy of one
// under another name is somebody else's.
func IsCompanion(service *corev1.Service, policy string) bool {
	return service.Name == policy+v1alpha1.CompanionSuffix && service.Labels[v1alpha1.LabelPolicy] == policy &&
		slices.ContainsFunc(service.OwnerReferences, func(o metav1.OwnerReference) bool {
			return o.APIVersion == v1alpha1.GroupVersion.String() && o.Kind == "NodePortAllocation"
		})
}
