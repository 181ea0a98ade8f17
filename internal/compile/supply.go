package compile

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/ports"
)

// Supply is what the pools have to hand out: the numbers that are armed.
func Supply(pools []Pool) []ports.Pool {
	out := make([]ports.Pool, len(pools))
	for i, p := range pools {
		out[i] = ports.Pool{
			Name: p.Name, Ranges: p.Armed, BySource: p.Spec.Placement == v1alpha1.PlacementBySource,
			Quota: int(p.Spec.Quota.PerNamespace), Used: map[string]int{},
		}
	}
	return out
}

// SourceKey names whom the ports of a number admit, by content; "" if nobody. Numbers
// side by side with equal keys share cloud rules.
func SourceKey(claimed []v1alpha1.ClaimedPort) string {
	type admits struct {
		Protocol v1alpha1.Protocol
		Sources  []v1alpha1.CIDR
		Sets     []v1alpha1.ObjectName
		Entities []v1alpha1.Entity
		World    bool
		Lists    []v1alpha1.PrefixListID
		Peers    []v1alpha1.Peer
	}
	var all []admits
	for _, p := range claimed {
		if p.World || len(p.Sources)+len(p.Peers) > 0 || namesPlaces(p) {
			all = append(all, admits{p.Protocol, p.Sources, p.AddressSets, p.Entities, p.World, p.PrefixLists, p.Peers})
		}
	}
	if len(all) == 0 {
		return ""
	}
	key, err := json.Marshal(all)
	if err != nil {
		return "" // strings and a bool: it can't be
	}
	return string(key)
}

// SourceKey names whom a wanted number is to admit in the preferred pool.
func (w *Wish) SourceKey(wanted Number) string {
	if len(w.Pools) == 0 {
		return ""
	}
	return SourceKey(w.Claim(wanted, w.Pools[0]).Ports)
}

// Remembered lists the numbers that served a wanted one before, as far as others than
// the register know: the Service that carries the policy's ports (nil when there is
// none), then the policy's own status. It is for the day on which the register was
// lost.
func Remembered(wanted Number, policy *v1alpha1.NodePortPolicy, carrier *corev1.Service) []uint16 {
	var out []uint16
	add := func(number int32) {
		if n := uint16(number); n != 0 && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	for _, w := range wanted.Ports {
		if carrier == nil {
			break
		}
		for _, p := range carrier.Spec.Ports {
			if p.Port == w.Port && string(protocolOf(p)) == string(w.Protocol) && !strings.HasPrefix(p.Name, closingPrefix) {
				add(p.NodePort)
			}
		}
	}
	for _, w := range wanted.Ports {
		for _, p := range policy.Status.Allocations {
			if p.Port == w.Port && p.Protocol == string(w.Protocol) {
				add(p.NodePort)
			}
		}
	}
	return out
}
