package compile

import (
	"bufio"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// TestNodeScenarios sends the packets of each scenario through the compiled
// rules. A scenario holds in/*.yaml, packets and, if there are any, the port
// numbers of the problems; all of them are written by hand.
func TestNodeScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/node/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			runNodeScenario(t, archive)
		})
	}
}

func runNodeScenario(t *testing.T, archive *txtar.Archive) {
	var pools []v1alpha1.NodePortPool
	var allocations []v1alpha1.NodePortAllocation
	var packets, problems []string
	for _, f := range archive.Files {
		switch {
		case f.Name == "packets":
			packets = lines(f.Data)
		case f.Name == "problems":
			problems = lines(f.Data)
		case strings.HasPrefix(f.Name, "in/"):
			for doc := range strings.SplitSeq(string(f.Data), "\n---\n") {
				readObject(t, doc, &pools, &allocations)
			}
		default:
			t.Fatalf("unknown file %s", f.Name)
		}
	}
	if len(packets) == 0 {
		t.Fatal("no packets")
	}
	set, found := Node(pools, allocations)
	for _, packet := range packets {
		sent, want, _ := strings.Cut(packet, " -> ")
		if got := verdict(t, set, sent); got != want {
			t.Errorf("%s -> %s, want %s", sent, got, want)
		}
	}
	var ports []string
	for _, p := range found {
		ports = append(ports, strconv.Itoa(int(p.Port)))
	}
	if !slices.Equal(ports, problems) {
		t.Errorf("problems %v, want ports %v", found, problems)
	}
}

func readObject(t *testing.T, doc string, pools *[]v1alpha1.NodePortPool, allocations *[]v1alpha1.NodePortAllocation) {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
		t.Fatal(err)
	}
	switch kind.Kind {
	case "NodePortPool":
		*pools = append(*pools, v1alpha1.NodePortPool{})
		if err := yaml.UnmarshalStrict([]byte(doc), &(*pools)[len(*pools)-1]); err != nil {
			t.Fatal(err)
		}
	case "NodePortAllocation":
		*allocations = append(*allocations, v1alpha1.NodePortAllocation{})
		if err := yaml.UnmarshalStrict([]byte(doc), &(*allocations)[len(*allocations)-1]); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("unknown kind %q", kind.Kind)
	}
}

// verdict of a packet, spelled "203.0.113.7 tcp/30080".
func verdict(t *testing.T, set rule.Set, packet string) string {
	source, rest, _ := strings.Cut(packet, " ")
	protocol, number, _ := strings.Cut(rest, "/")
	addr, err := netip.ParseAddr(source)
	if err != nil {
		t.Fatalf("packet %q: %v", packet, err)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		t.Fatalf("packet %q: %v", packet, err)
	}
	switch port := (rule.Port{Protocol: rule.Protocol(strings.ToUpper(protocol)), Number: uint16(n)}); {
	case !slices.Contains(rule.Protocols, port.Protocol):
		t.Fatalf("packet %q: unknown protocol", packet)
		return ""
	case !set.Judged.Contains(port.Number):
		return "not judged"
	case set.Admits(port, addr):
		return "pass"
	}
	return "drop"
}

func lines(data []byte) (out []string) {
	s := bufio.NewScanner(strings.NewReader(string(data)))
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// TestNodeForAnyInput feeds whatever an API server with a broken schema, or a
// newer manager, could send.
func TestNodeForAnyInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools := rapid.SliceOfN(rapid.Custom(anyPool), 0, 5).Draw(t, "pools")
		allocations := rapid.SliceOfN(rapid.Custom(anyAllocation), 0, 8).Draw(t, "allocations")
		set, problems := Node(pools, allocations)

		again, problemsAgain := Node(rapid.Permutation(pools).Draw(t, "p"), rapid.Permutation(allocations).Draw(t, "a"))
		if !set.Equal(again) || !maps.EqualFunc(set.Classes, again.Classes, slices.Equal) || !slices.Equal(problems, problemsAgain) {
			t.Fatalf("the order of the input shows:\n%v %v\n%v %v", set, problems, again, problemsAgain)
		}
		if len(set.Judged.Intersect(rule.FailSafe)) > 0 {
			t.Fatalf("judges a fail-safe port: %v", set.Judged)
		}
		for _, port := range set.SortedPorts() {
			if len(set.Sources(port)) > 0 && !mayAdmit(allocations, port, slices.ContainsFunc(set.Sources(port), isWorld)) {
				t.Fatalf("%s admits %v", port, set.Sources(port))
			}
		}
		for i := range allocations {
			if n := claimedNumber(&allocations[i]); n != 0 && !rule.FailSafe.Contains(n) && !set.Judged.Contains(n) {
				t.Fatalf("allocation %d is not judged", n)
			}
		}
	})
}

func isWorld(p netip.Prefix) bool { return p.Bits() == 0 }

// mayAdmit says whether exactly one allocation claims the port, in a state that
// lets anybody in; the world only if grandfathered.
func mayAdmit(allocations []v1alpha1.NodePortAllocation, port rule.Port, world bool) bool {
	claims, admits := 0, false
	for _, a := range allocations {
		if claimedNumber(&a) != port.Number {
			continue
		}
		claims++
		admits = a.Spec.State == v1alpha1.AllocationOpen && !world ||
			a.Spec.State == v1alpha1.AllocationForeign && a.Spec.Grandfathered
	}
	return claims == 1 && admits
}

func anyPool(t *rapid.T) v1alpha1.NodePortPool {
	ranges := rapid.SliceOfN(rapid.SampledFrom([]string{"30000-30009", "30005-30020", "30007", "1-65535", "20-30", "", "x", "9-1", "70000", "-"}), 0, 4)
	p := v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(rapid.IntRange(0, 99).Draw(t, "name"))}}
	for _, r := range ranges.Draw(t, "ranges") {
		p.Spec.Ranges = append(p.Spec.Ranges, v1alpha1.PortRange(r))
	}
	p.Status.Armed = ranges.Draw(t, "armed")
	return p
}

func anyAllocation(t *rapid.T) v1alpha1.NodePortAllocation {
	protocol := rapid.SampledFrom([]v1alpha1.Protocol{"TCP", "UDP", "SCTP", "ICMP", ""})
	a := v1alpha1.NodePortAllocation{}
	a.Name = rapid.SampledFrom([]string{"30000", "30005", "30006", "30007", "40000", "22", "0", "", "030005", "x", "70000"}).Draw(t, "name")
	a.Spec.State = rapid.SampledFrom([]v1alpha1.AllocationState{"Open", "Open", "Closed", "Foreign", "", "Later"}).Draw(t, "state")
	a.Spec.Grandfathered = rapid.Bool().Draw(t, "grandfathered")
	a.Spec.Protocols = rapid.SliceOfN(protocol, 0, 3).Draw(t, "protocols")
	for _, p := range rapid.SliceOfN(protocol, 0, 3).Draw(t, "ports") {
		port := v1alpha1.ClaimedPort{Protocol: p}
		for _, s := range rapid.SliceOfN(rapid.SampledFrom([]string{
			"203.0.113.0/24", "203.0.113.9/24", "0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/0", "::/0", "::/1", "8000::/1",
			"2001:db8::/48", "::ffff:10.0.0.0/104", "10.0.0.0", "", "x/8", "fe80::1%eth0/64",
		}), 0, 5).Draw(t, "sources") {
			port.Sources = append(port.Sources, v1alpha1.CIDR(s))
		}
		a.Spec.Ports = append(a.Spec.Ports, port)
	}
	return a
}
