package cloud_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	benchPorts  = 2768
	benchCIDRs  = 10
	benchGroups = 16
)

// spread are the grants of all ports, each with the networks of its team.
func spread(team func(port int) int) (out []cloud.Grant) {
	for port := range benchPorts {
		for i := range benchCIDRs {
			t := team(port)
			source := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(t >> 4), byte(t<<4) + byte(i), 0}), 25)
			number := uint16(30000 + port)
			out = append(out, cloud.Grant{
				Rule: rule.Rule{Protocol: rule.TCP, Ports: rule.PortRange{First: number, Last: number}, Source: source},
				Pool: "web", Description: fmt.Sprintf("team %d", t),
			})
		}
	}
	return out
}

func benchWant(grants []cloud.Grant) cloud.Want {
	w := cloud.Want{Owner: ours, Grants: grants, Limits: cloud.Count{IPv4: 60, IPv6: 60}, Pools: map[string]cloud.Pool{
		"web": {Ports: rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30000 + benchPorts - 1})},
	}}
	for i := range benchGroups {
		w.Groups = append(w.Groups, fmt.Sprintf("sg-%d", i))
	}
	return w
}

func emptyGroups() map[string][]cloud.Rule {
	have := map[string][]cloud.Rule{}
	for i := range benchGroups {
		have[fmt.Sprintf("sg-%d", i)] = []cloud.Rule{}
	}
	return have
}

// settled is what the groups hold when the plan was carried out.
func settled(want cloud.Want) map[string][]cloud.Rule {
	have, made := emptyGroups(), 0
	for _, g := range cloud.Plan(want, have, cloud.Capabilities{}).Groups {
		for _, a := range g.Add {
			made++
			have[g.ID] = append(have[g.ID], cloud.Rule{ID: fmt.Sprint("sgr-", made), Rule: a.Rule, Owner: ours})
		}
	}
	return have
}

// The wishes of a cluster in which each of 20 teams has its ports side by side, one in
// which teams got theirs in any order, and one in which no two ports admit the same.
var benchWishes = []struct {
	name string
	team func(port int) int
}{
	{"20 teams side by side", func(port int) int { return port * 20 / benchPorts }},
	{"20 teams in any order", func(port int) int { return port * 7919 % 20 }},
	{"each port by itself", func(port int) int { return port }},
}

// A plan that compares everything with everything takes sixty times as long for eight
// times the ports, on any machine: the better part of a minute here, where a second is
// what it takes. What else the machine does may lengthen one try, and hardly all of them.
func TestAPlanThatFitsNowhereDoesNotTakeForEver(t *testing.T) {
	const most = 20
	want := benchWant(spread(benchWishes[2].team))
	want.Coarsen = true
	took := func(ports int) time.Duration {
		some := want
		some.Grants = want.Grants[:ports*benchCIDRs]
		began := time.Now()
		changes := cloud.Plan(some, emptyGroups(), cloud.Capabilities{})
		if len(changes.Overflow) > 0 || len(changes.Coarse) == 0 {
			t.Errorf("of %d ports %d rules overflow, %d are coarse", ports, len(changes.Overflow), len(changes.Coarse))
		}
		return time.Since(began)
	}
	var tries []string
	for range 3 {
		few, all := took(benchPorts/8), took(benchPorts)
		t.Logf("an eighth of the ports takes %s, all of them %s", few, all)
		if all < most*few {
			return
		}
		tries = append(tries, fmt.Sprintf("%s and then %s", few, all))
	}
	t.Errorf("eight times the ports take more than %d times as long: %s", most, strings.Join(tries, ", "))
}

func BenchmarkPlan(b *testing.B) {
	for _, w := range benchWishes {
		want := benchWant(spread(w.team))
		have := settled(want)
		changed := want
		changed.Grants = want.Grants[benchCIDRs:]
		coarse := want
		coarse.Coarsen = true
		for _, c := range []struct {
			name string
			want cloud.Want
			have map[string][]cloud.Rule
		}{{"first", want, emptyGroups()}, {"steady", want, have}, {"one port less", changed, have}, {"coarsen", coarse, have}} {
			b.Run(w.name+"/"+c.name, func(b *testing.B) {
				for range b.N {
					cloud.Plan(c.want, c.have, cloud.Capabilities{})
				}
			})
		}
	}
}
