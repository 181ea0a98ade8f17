package compile

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// InstallationSeen is what the status of the Portreeve object is computed from.
type InstallationSeen struct {
	// Guard that was put in force.
	Guard v1alpha1.GuardMode
	// Unguarded says why the guard could not be put in force, "" if it was.
	Unguarded string
	// NodePorts is the API server's range, empty when it is not known.
	NodePorts rule.PortRanges
}

// InstallationStatus computes the status of the Portreeve object.
func InstallationStatus(object *v1alpha1.Portreeve, seen InstallationSeen, now metav1.Time) v1alpha1.PortreeveStatus {
	status := v1alpha1.PortreeveStatus{
		NodePortRange: strings.Join(seen.NodePorts.Strings(), ", "), Guard: seen.Guard,
		ObservedGeneration: object.Generation, Conditions: slices.Clone(object.Status.Conditions),
	}
	g := passed(v1alpha1.Accepted, v1alpha1.ReasonOK, "as wished")
	if seen.Unguarded != "" {
		status.Guard = v1alpha1.GuardOff
		g = stalled(v1alpha1.Accepted, v1alpha1.ReasonDenied, "the guard could not be put in force: "+seen.Unguarded+"; give the manager the rights of config/rbac")
	}
	for _, c := range summary([]gate{g}) {
		if c.kind == v1alpha1.Ready && c.passed {
			c.message = g.message
			if object.Spec.Lockdown {
				c.reason, c.message = v1alpha1.ReasonLockdown, "lockdown: nodes admit nobody to any port of any pool; set spec.lockdown to false to open them again"
			}
		}
		setCondition(&status.Conditions, c, object.Generation, now)
	}
	return status
}
