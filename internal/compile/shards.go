package compile

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// shardSize bounds an AddressSet of the manager's own: what comes or goes rewrites one
// small object.
const shardSize = 100

// family is AddressSets of the manager's own that together hold one list of networks.
type family struct {
	// name of the set of a number; has says whether a set is one of the family's, and
	// number which.
	name   func(n int) string
	has    func(*v1alpha1.AddressSet) bool
	number func(*v1alpha1.AddressSet) int
	// labels and annotations of all of them.
	labels, annotations map[string]string
}

// shardNumber reads the number at the end of a set's name; -1 for what is none.
func shardNumber(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || strconv.Itoa(n) != digits {
		return -1
	}
	return n
}

// holding returns the family's sets as they must be to hold the prefixes, given all
// AddressSets that there are. A prefix stays in the set it is in, so one that comes or
// goes changes one set. A set that has become empty stays: nodes prove that they have
// read a change, and could not prove a deletion.
func (f family) holding(prefixes []netip.Prefix, have []v1alpha1.AddressSet) []v1alpha1.AddressSet {
	homeless := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		homeless[p] = true
	}
	own, taken := map[int]*v1alpha1.AddressSet{}, map[string]bool{}
	var numbers []int
	for i := range have {
		taken[have[i].Name] = true
		if f.has(&have[i]) {
			n := f.number(&have[i])
			numbers, own[n] = append(numbers, n), &have[i]
		}
	}
	slices.Sort(numbers)
	held := map[int][]netip.Prefix{}
	for _, n := range numbers {
		for _, c := range own[n].Spec.CIDRs {
			if p, ok := parseCIDR(c); ok && homeless[p] && len(held[n]) < shardSize {
				held[n] = append(held[n], p)
				delete(homeless, p)
			}
		}
	}
	rest := make([]netip.Prefix, 0, len(homeless))
	for p := range homeless {
		rest = append(rest, p)
	}
	slices.SortFunc(rest, rule.ComparePrefixes)
	for _, n := range numbers {
		room := min(shardSize-len(held[n]), len(rest))
		held[n], rest = append(held[n], rest[:room]...), rest[room:]
	}
	for n := 0; len(rest) > 0; n++ {
		if taken[f.name(n)] {
			continue
		}
		size := min(shardSize, len(rest))
		numbers, held[n], rest = append(numbers, n), rest[:size], rest[size:]
	}
	slices.Sort(numbers)
	out := make([]v1alpha1.AddressSet, len(numbers))
	for i, n := range numbers {
		out[i] = f.set(n, held[n])
	}
	return out
}

// set is one of the family's.
func (f family) set(n int, prefixes []netip.Prefix) v1alpha1.AddressSet {
	slices.SortFunc(prefixes, rule.ComparePrefixes)
	return v1alpha1.AddressSet{
		ObjectMeta: metav1.ObjectMeta{Name: f.name(n), Labels: maps.Clone(f.labels), Annotations: maps.Clone(f.annotations)},
		Spec:       v1alpha1.AddressSetSpec{CIDRs: spell(prefixes)},
	}
}
