package compile

import (
	"fmt"
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
	// AddressSets are the names of those that there are.
	AddressSets []string
	// Agents is how far the DaemonSet of the agents is, nil if the manager runs none.
	Agents *v1alpha1.AgentStatus
	// AgentsRolled says that all nodes have theirs, Ready.
	AgentsRolled bool
	// AgentsRefused says why the API server did not take the DaemonSet, "" if it did.
	AgentsRefused string
}

// InstallationStatus computes the status of the Portreeve object.
func InstallationStatus(object *v1alpha1.Portreeve, seen InstallationSeen, now metav1.Time) v1alpha1.PortreeveStatus {
	status := v1alpha1.PortreeveStatus{
		NodePortRange: strings.Join(seen.NodePorts.Strings(), ", "), Guard: seen.Guard, Agent: seen.Agents,
		ObservedGeneration: object.Generation, Conditions: slices.Clone(object.Status.Conditions),
	}
	g := passed(v1alpha1.Accepted, v1alpha1.ReasonOK, "as wished")
	if seen.Unguarded != "" {
		status.Guard = v1alpha1.GuardOff
		g = stalled(v1alpha1.Accepted, v1alpha1.ReasonDenied, "the guard could not be put in force: "+seen.Unguarded+"; give the manager the rights of config/rbac")
	}
	unknown := slices.DeleteFunc(slices.Clone(object.Spec.DenyAddressSets), func(name v1alpha1.ObjectName) bool {
		return slices.Contains(seen.AddressSets, string(name))
	})
	gates := []gate{g}
	if len(unknown) > 0 {
		gates = append(gates, waiting(v1alpha1.Accepted, v1alpha1.ReasonAddressSetNotFound, fmt.Sprintf(
			"spec.denyAddressSets names %q, of which there is no AddressSet, so nobody is denied by that name, except by nodes that knew it; create it, or take it off the list", unknown)))
	}
	if agents, ours := agentsGate(object, seen); ours {
		gates = append(gates, agents)
	}
	for _, c := range summary(gates) {
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
