package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// List is a prefix list as it is looked up through one cloud firewall.
type List struct {
	Firewall v1alpha1.ObjectName
	ID       v1alpha1.PrefixListID
}

// setName begins the names of the AddressSets with the list's entries. The firewall's
// name may be as long as theirs, so it stands there as a hash.
func (l List) setName() string {
	hash := sha256.Sum256([]byte(string(l.Firewall) + "/" + string(l.ID)))
	return fmt.Sprintf("portreeve-%s-%s-", l.ID, hex.EncodeToString(hash[:5]))
}

// ListID returns the id of the prefix list some of whose entries the manager keeps in the
// AddressSet. It takes both name and label, so that nobody's own set is taken for one by
// accident. Agents have no annotations: whose list it is the name must say as well.
func ListID(set *v1alpha1.AddressSet) (v1alpha1.PrefixListID, bool) {
	id := set.Labels[v1alpha1.LabelPrefixList]
	base, digits := listSetName(set.Name)
	return v1alpha1.PrefixListID(id), id != "" && shardNumber(digits) >= 0 && strings.HasPrefix(base, "portreeve-"+id+"-")
}

// listSetName splits the name of a set into what names the list, and the number.
func listSetName(name string) (base, digits string) {
	i := strings.LastIndexByte(name, '-') + 1
	return name[:i], name[i:]
}

// Has says whether the AddressSet is one of the list's.
func (l List) Has(set *v1alpha1.AddressSet) bool {
	id, is := ListID(set)
	base, _ := listSetName(set.Name)
	return is && id == l.ID && base == l.setName()
}

func (l List) number(set *v1alpha1.AddressSet) int {
	_, digits := listSetName(set.Name)
	return shardNumber(digits)
}

// Usable returns, canonically, the entries of a prefix list that can be sources, and
// says what not: a list of networks does not open the world.
func (l List) Usable(entries []netip.Prefix) (usable []netip.Prefix, problem string) {
	entries = slices.DeleteFunc(slices.Clone(entries), func(p netip.Prefix) bool { return !p.IsValid() || p.Addr().Is4In6() })
	all := rule.Canonical(entries)
	usable = withoutWorld(all)
	if len(usable) < len(all) {
		problem = "its entries add up to the whole world, which only entity World may open, and admit nobody; write narrower entries"
	}
	return usable, problem
}

// Sets returns the AddressSets that must hold the entries of the list, given all that
// there are. There is at least one, which says that the list is known, if it is empty.
func (l List) Sets(entries []netip.Prefix, have []v1alpha1.AddressSet) []v1alpha1.AddressSet {
	f := family{
		name:        func(n int) string { return fmt.Sprintf("%s%d", l.setName(), n) },
		has:         l.Has,
		number:      l.number,
		labels:      map[string]string{v1alpha1.LabelPrefixList: string(l.ID)},
		annotations: map[string]string{v1alpha1.AnnotationCloudFirewall: string(l.Firewall)},
	}
	sets := f.holding(entries, have)
	if len(sets) > 0 {
		return sets
	}
	n := 0
	for slices.ContainsFunc(have, func(s v1alpha1.AddressSet) bool { return s.Name == f.name(n) }) {
		n++
	}
	return []v1alpha1.AddressSet{f.set(n, nil)}
}

// Lookups are what a cloud firewall is asked for: what its groups' rules name, and what
// policies of its pools do.
type Lookups struct {
	// Lists and Groups are sorted.
	Lists  []v1alpha1.PrefixListID
	Groups []v1alpha1.SecurityGroupID
	// Orphans are lists whose sets stay although no pool knows them: an open allocation
	// names them, and its pool is not there.
	Orphans []v1alpha1.PrefixListID
}

// LookupsOf returns what the cloud firewall is to be asked for. named says whether a
// policy names a prefix list: of those that pools only allow, nobody needs to know.
func LookupsOf(firewall string, pools []v1alpha1.NodePortPool, named func(v1alpha1.PrefixListID) bool, allocations []v1alpha1.NodePortAllocation) Lookups {
	var l Lookups
	held := map[v1alpha1.PrefixListID]bool{}
	for i := range allocations {
		a := &allocations[i]
		if a.Spec.State != v1alpha1.AllocationOpen {
			continue
		}
		known := slices.ContainsFunc(pools, func(p v1alpha1.NodePortPool) bool { return p.Name == a.Spec.Pool })
		gated := slices.Contains(a.Spec.CloudFirewalls, v1alpha1.ObjectName(firewall))
		for _, port := range a.Spec.Ports {
			for _, id := range port.PrefixLists {
				held[id] = true
				if !known {
					l.Orphans = append(l.Orphans, id)
				}
			}
			for _, peer := range port.Peers {
				if gated {
					l.Groups = append(l.Groups, peer.ID)
				}
			}
		}
	}
	for i := range pools {
		if !slices.Contains(pools[i].Spec.CloudFirewalls, v1alpha1.ObjectName(firewall)) {
			continue
		}
		for _, id := range pools[i].Spec.Guardrails.PrefixLists {
			if held[id] || named(id) {
				l.Lists = append(l.Lists, id)
			}
		}
	}
	l.Lists, l.Groups, l.Orphans = sortedSet(l.Lists), sortedSet(l.Groups), sortedSet(l.Orphans)
	return l
}

// Keeps says whether the sets of a prefix list are still good for something.
func (l Lookups) Keeps(id v1alpha1.PrefixListID) bool {
	return slices.Contains(l.Lists, id) || slices.Contains(l.Orphans, id)
}

// list returns the entries of a prefix list as the pool's cloud firewalls know it,
// within no guard-rail yet. known is false while none of them does.
func (p Places) list(r rails, id v1alpha1.PrefixListID) (entries place, known bool) {
	for _, firewall := range r.firewalls {
		if of, is := p.lists[List{firewall, id}.setName()]; is {
			known = true
			entries.prefixes = append(entries.prefixes, of.prefixes...)
			entries.version = newest(entries.version, of.version)
		}
	}
	return entries, known
}

// listCandidate resolves a source that names a prefix list, or says why it admits nobody.
func (p Places) listCandidate(field string, id v1alpha1.PrefixListID, r rails) (candidate, string) {
	what := fmt.Sprintf("%s.prefixList %q", field, id)
	entries, known := p.list(r, id)
	switch {
	case !slices.Contains(r.lists, id):
		return candidate{}, fmt.Sprintf("%s is not allowed in pool %s and admits nobody; ask the platform team to list it in guardrails.prefixLists", what, r.pool)
	case len(r.firewalls) == 0:
		return candidate{}, fmt.Sprintf("%s can't be looked up and admits nobody, because pool %s has no cloud firewall; name networks or an AddressSet", what, r.pool)
	case !known:
		return candidate{}, fmt.Sprintf("%s is not known to cloud firewall %s and admits nobody; correct the id, or see status.lookups there", what, joinNames(r.firewalls))
	}
	return candidate{what: what, list: id, prefixes: entries.prefixes}, ""
}

func joinNames[T ~string](names []T) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n)
	}
	return strings.Join(texts, ", ")
}
