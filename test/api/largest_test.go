package api

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// list makes a list of n values.
func list(n int, value func(i int) any) []any {
	all := make([]any, n)
	for i := range all {
		all[i] = value(i)
	}
	return all
}

// longName is a name of 63 characters that ends in a number.
func longName(i int) any { return strings.Repeat("n", 60) + fmt.Sprintf("%03d", i) }

// listID and groupID are as long as an id may be.
func listID(i int) any { return "pl-" + strings.Repeat("a", 57) + fmt.Sprintf("%03d", i) }

func groupID(i int) any { return "sg-" + strings.Repeat("a", 58) + fmt.Sprintf("%03d", i) }

// longKey is a label key of 317 characters that ends in a number.
func longKey(i int) any { return strings.Repeat("k", 253) + "/" + longName(i).(string) }

// An object that fills every list to its limit is accepted: the rules stay within
// the API server's budget while they run, not only by its estimate.
func TestLargestObjectsAreAccepted(t *testing.T) {
	client := apiServer(t)
	tables := tables(t)
	cidr := func(i int) any { return fmt.Sprintf("2001:db8:%x:1111:2222:3333:4444:5555/128", i) }
	claimed := func(protocol string) any {
		return map[string]any{
			"protocol": protocol, "port": int64(53), "sources": list(256, cidr), "addressSets": list(64, longName), "entities": []any{"Cluster", "Nodes"},
			"prefixLists": list(64, listID), "peers": list(20, func(i int) any { return map[string]any{"id": groupID(i), "sources": list(64, cidr)} }),
		}
	}
	labels := map[string]any{}
	for i := range 16 {
		labels[longKey(i).(string)] = longName(i)
	}
	selector := map[string]any{"matchLabels": labels, "matchExpressions": list(16, func(i int) any {
		return map[string]any{"key": longKey(i), "operator": "NotIn", "values": list(64, longName)}
	})}
	largest := map[string]map[string]any{
		"NodePortPool": {
			"spec.ranges":                list(64, func(i int) any { return fmt.Sprintf("%d-%d", 30000+20*i, 30010+20*i) }),
			"spec.allocateTo.namespaces": list(256, longName),
			"spec.cloudFirewalls":        list(8, longName),
			"spec.reserved": list(64, func(i int) any {
				return map[string]any{"ports": fmt.Sprintf("%d-%d", 30009+20*i, 30010+20*i), "reason": strings.Repeat("r", 256)}
			}),
			"spec.defaultSources":               list(64, func(i int) any { return map[string]any{"cidr": cidr(i)} }),
			"spec.guardrails.allowedSources":    list(256, cidr),
			"spec.guardrails.addressSets":       list(64, longName),
			"spec.guardrails.prefixLists":       list(64, listID),
			"spec.guardrails.securityGroups":    list(20, groupID),
			"spec.guardrails.allowedNodes":      selector,
			"spec.allocateTo.namespaceSelector": selector,
		},
		"AddressSet": {
			"spec.cidrs":                        list(1000, cidr),
			"spec.allowedFor.namespaceSelector": selector,
		},
		"Portreeve": {
			"spec.failSafePorts":                    list(64, func(i int) any { return fmt.Sprintf("%d-%d", 10000+i, 65535-i) }),
			"spec.denyUndeclared.namespaceSelector": selector,
			"spec.clusterCIDRs":                     list(64, cidr),
			"spec.denyAddressSets":                  list(16, longName),
			"spec.nodeAddresses":                    list(64, cidr),
		},
		"NodePortPolicy": {
			"spec.ports": list(32, func(i int) any { return map[string]any{"name": longName(i), "nodePort": int64(30000 + i)} }),
			"spec.sources": list(256, func(i int) any {
				return map[string]any{
					"cidr": fmt.Sprintf("2001:db8:%x:1111:2222:3333::/96", i), "ports": list(32, longName), "securityGroup": groupID(i),
					"except": list(32, func(j int) any { return fmt.Sprintf("2001:db8:%x:1111:2222:3333:4444:%x/128", i, 0x5000+j) }),
				}
			}),
			"spec.cloudFirewalls": list(8, longName),
		},
		"NodePortAllocation": {
			"spec.protocols":      []any{"TCP", "UDP", "SCTP"},
			"spec.ports":          []any{claimed("TCP"), claimed("UDP"), claimed("SCTP")},
			"spec.cloudFirewalls": list(8, longName),
			"spec.nodeSelector":   selector,
		},
		"CloudFirewall": {
			"spec.groups": list(16, func(i int) any { return map[string]any{"id": fmt.Sprintf("sg-%017x", i)} }),
		},
	}
	for _, k := range kinds(t) {
		changes, ok := largest[k.String()]
		if !ok {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			object := runtime.DeepCopyJSON(tables[k.String()].Base)
			for at, value := range changes {
				if err := change(object, at, &value); err != nil {
					t.Fatal(err)
				}
			}
			u := &unstructured.Unstructured{Object: object}
			if _, err := resource(client, k, u.GetNamespace()).Create(t.Context(), u, dryCreate); err != nil {
				t.Error(err)
			}
		})
	}
}
