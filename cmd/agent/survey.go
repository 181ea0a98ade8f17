package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath/bypass"
	"github.com/portreeve/portreeve/datapath/survey"
)

// What the schema of a report allows.
const (
	mostWays        = 16
	mostAddresses   = 16
	mostSubnets     = 16
	mostMasquerades = 16
	longestProgram  = 64 // characters
)

// survey returns what looks for who carries node ports on the node, and for what may do
// so around the backends' hooks.
func (o options) survey() func() (v1alpha1.NodeFacts, error) {
	surveyor := survey.New()
	return func() (v1alpha1.NodeFacts, error) {
		seen, err := surveyor.Look()
		ways, unseen := bypass.Find(o.harmless)
		facts := v1alpha1.NodeFacts{
			ProxyMode: seen.ProxyMode, Links: seen.Links, Chains: seen.Chains,
			Masquerades:        seen.Masquerades[:min(len(seen.Masquerades), mostMasquerades)],
			NodePortAddresses:  texts(seen.NodePortAddresses, mostAddresses),
			CentralizedSubnets: texts(seen.Centralized, mostSubnets),
			DistributedSubnets: texts(seen.Distributed, mostSubnets),
		}
		for _, rules := range seen.KubeProxy {
			facts.KubeProxy = append(facts.KubeProxy, v1alpha1.KubeProxyRules(rules))
		}
		for _, w := range ways[:min(len(ways), mostWays)] {
			facts.Ways = append(facts.Ways, wayOf(w))
		}
		return facts, errors.Join(err, unseen)
	}
}

// wayOf has the name of the program fit into a report: whoever attaches a program to tc
// may name it by 256 bytes of any kind, and a report that is refused leaves the last one
// standing, which may know of no program.
func wayOf(w bypass.Way) v1alpha1.WayAround {
	name := []rune(strings.ToValidUTF8(w.Program, "?"))
	return v1alpha1.WayAround{Interface: w.Interface, Hook: w.Hook, Program: string(name[:min(len(name), longestProgram)])}
}

func texts[T fmt.Stringer](values []T, most int) (out []string) {
	for _, v := range values[:min(len(values), most)] {
		out = append(out, v.String())
	}
	return out
}
