package agent

import (
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/carrier"
)

// bypassError: packets may come to pods around our rules.
type bypassError struct{ by carrier.Carrier }

func (e *bypassError) Error() string { return e.by.Trouble() }

func (e *bypassError) Unwrap() error { return datapath.ErrPreempted }

// mostWays is what the schema of a report allows.
const mostWays = 16

// lookAround asks the kernel who carries node ports, and what does so ahead of our hook.
// What a look did not see because it failed is not gone: then what the last whole one saw
// stands, and what this one saw ahead of our hook comes to it.
func (a *Agent) lookAround() {
	if a.config.Survey == nil {
		return
	}
	found, err := a.config.Survey()
	if err != nil && a.unseen == nil {
		a.log.Warn("who carries node ports around our rules can't be looked for", "error", err)
	}
	switch {
	case err == nil:
		a.whole = &found
	case a.whole != nil:
		ways := slices.DeleteFunc(slices.Clone(found.Ways), func(w v1alpha1.WayAround) bool { return slices.Contains(a.whole.Ways, w) })
		ways = slices.Concat(a.whole.Ways, ways)
		found = *a.whole
		found.Ways = ways[:min(len(ways), mostWays)]
	}
	a.found, a.unseen = &found, err
}

// recognize says from what was found, and from what the Node says, who carries node ports.
func (a *Agent) recognize(use inputs) {
	if a.found == nil {
		return
	}
	facts := *a.found
	if node := only[metav1.PartialObjectMetadata](use[kindNode]); node != nil {
		facts.GatewayMode = carrier.GatewayMode(node.Annotations[carrier.GatewayAnnotation])
	}
	if a.facts != nil && reflect.DeepEqual(facts, *a.facts) {
		return
	}
	before := a.carrier
	a.facts, a.carrier = &facts, carrier.Of(facts)
	switch trouble := a.carrier.Trouble(); {
	case trouble != "":
		a.log.Error("packets may come around our rules", "by", trouble)
	case before.Trouble() != "":
		a.kernel.due = true // what was in doubt is read back before it is vouched for
		a.log.Info("nothing carries packets around our rules any more", "carrier", a.carrier.Name)
	case before.Name != a.carrier.Name:
		a.log.Info("node ports are carried", "by", a.carrier.Name, "layer", a.carrier.Layer)
	}
}

// unserved says why the rules must not refuse whom whoever carries node ports has no pod
// for, "" where they may.
func (a *Agent) unserved() string {
	if err := a.kernel.opened(); err != nil || a.facts == nil {
		return "who carries node ports is not known" // yet
	}
	return a.carrier.Unserved(a.kernel.inUse)
}

// waits says why those are not refused where there are such ports: for that reason, or
// because the kernel can't.
func (a *Agent) waits(unserved string) string {
	if !a.compiler.Local() {
		return ""
	}
	if u, is := a.kernel.datapath.(datapath.Unserving); is && unserved == "" {
		if err := u.Unserved(); err != nil {
			return err.Error()
		}
	}
	return unserved
}

// bypassed is the error of a round whose rules are in force, and may be gone around.
func (a *Agent) bypassed() error {
	if a.carrier.Gate != carrier.Around {
		return nil
	}
	a.kernel.doubt = true
	return &bypassError{a.carrier}
}
