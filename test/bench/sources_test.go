package bench

import (
	"flag"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/internal/rule"
)

// gate is one port and who may knock.
type gate struct {
	number  uint16
	sources []netip.Prefix
}

const (
	judged       = "10000-39999"
	firstNumber  = 10_000
	sourcesEach  = 10
	distinctSets = 300
	// streamExposure is the exposure of the long connections.
	streamExposure = firstNumber
)

// sizes are the numbers of exposures, ascending.
var sizes = flag.String("exposures", "10,1000,10000", "how many exposures the benchmarks of datapaths load, ascending")

// withoutSlow leaves out what takes more than a minute to load.
var withoutSlow = flag.Bool("without-slow", false, "leave kube-proxy's nftables mode out at the largest size")

func exposureCounts(b *testing.B) []int {
	b.Helper()
	var out []int
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		must(b, err)
		out = append(out, n)
	}
	return out
}

// someGates makes n of them that share so many distinct sets of sources.
func someGates(n, distinct int) []gate {
	rng := rand.New(rand.NewPCG(1, 2))
	sets := make([][]netip.Prefix, distinct)
	for i := range sets {
		sets[i] = anySources(rng)
	}
	out := make([]gate, n)
	for i := range out {
		out[i] = gate{number: uint16(firstNumber + i), sources: sets[i%distinct]}
	}
	return out
}

// anySources draws networks of the lengths that people write, and one that alice is
// in, which stands anywhere among them.
func anySources(rng *rand.Rand) []netip.Prefix {
	lengths := []int{16, 20, 24, 24, 28, 32}
	out := make([]netip.Prefix, sourcesEach)
	for i := range out {
		address := netip.AddrFrom4([4]byte{byte(100 + rng.IntN(80)), byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))})
		out[i] = netip.PrefixFrom(address, lengths[rng.IntN(len(lengths))]).Masked()
	}
	out[rng.IntN(len(out))] = netip.PrefixFrom(netip.MustParseAddr(aliceAddress), 16).Masked()
	return out
}

// setOf is what a node must enforce for the exposures.
func setOf(gates []gate) rule.Set {
	terms := make(map[rule.Port]rule.Terms, len(gates))
	for _, e := range gates {
		terms[rule.Port{Protocol: rule.TCP, Number: e.number}] = rule.Terms{Sources: e.sources}
	}
	ranges, err := rule.ParsePortRanges([]string{judged})
	if err != nil {
		panic(err)
	}
	return rule.Build(ranges, terms)
}
