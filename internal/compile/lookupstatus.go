package compile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// lookupProblems says what the cloud could not find of what the policy's open ports name
// in a firewall, and what holds meanwhile; "" for nothing.
func (s Seen) lookupProblems(seen CloudSeen, firewall string) string {
	var problems []string
	for _, a := range s.open() {
		gated := slices.Contains(a.Spec.CloudFirewalls, v1alpha1.ObjectName(firewall))
		for _, port := range a.Spec.Ports {
			for _, group := range s.Places.peers(a, port) {
				if answer := seen.Lookups[string(group)]; gated && answer.Problem != "" {
					problems = append(problems, fmt.Sprintf("security group %s: %s", group, answer.Problem))
				}
			}
			for _, id := range port.PrefixLists {
				if answer := seen.Lookups[string(id)]; answer.Problem != "" {
					problems = append(problems, fmt.Sprintf("prefix list %s: %s", id, answer.Problem))
				}
			}
		}
	}
	problems = sortedSet(problems)
	return strings.Join(problems[:min(len(problems), maxListed)], "; ")
}

// unknownGroups names the security groups that none of the cloud firewalls of a port
// knows, so that nobody is admitted by them; "" for none.
func (s Seen) unknownGroups() string {
	var unknown []string
	for _, a := range s.open() {
		knows := func(group v1alpha1.SecurityGroupID) bool {
			return slices.ContainsFunc(a.Spec.CloudFirewalls, func(f v1alpha1.ObjectName) bool {
				seen, exists := s.Clouds[string(f)]
				return exists && !seen.Lookups[string(group)].Absent
			})
		}
		for _, port := range a.Spec.Ports {
			for _, group := range s.Places.peers(a, port) {
				if !knows(group) {
					unknown = append(unknown, string(group))
				}
			}
		}
	}
	if len(unknown) == 0 {
		return ""
	}
	return fmt.Sprintf("no cloud firewall of the policy knows security group %s, so nobody is admitted by it; correct the id, or name networks without it", strings.Join(sortedSet(unknown), ", "))
}

// listUnheard says whether the policy names a prefix list that a pool allows, and whose
// entries are about to come: somebody has yet to ask for it, or was answered just now.
func (s Seen) listUnheard() bool {
	if s.Wish == nil || s.Wish.Expired {
		return false
	}
	return slices.ContainsFunc(s.Policy.Spec.Sources, func(source v1alpha1.Source) bool {
		return source.PrefixList != "" && slices.ContainsFunc(s.Wish.Pools, func(pool string) bool {
			rails := s.Places.rails[pool]
			if _, known := s.Places.list(rails, source.PrefixList); known || !slices.Contains(rails.lists, source.PrefixList) {
				return false
			}
			return slices.ContainsFunc(rails.firewalls, func(f v1alpha1.ObjectName) bool {
				seen, exists := s.Clouds[string(f)]
				return exists && seen.Lookups[string(source.PrefixList)].Problem == ""
			})
		})
	})
}
