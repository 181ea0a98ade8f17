package compile

import (
	"bufio"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// TestNodeScenarios sends the packets of each scenario through the compiled
// rules. A scenario holds in/*.yaml (pools, allocations, AddressSets, the Portreeve
// object, the node for its labels), packets and, if there are any, exempt ports and the
// port numbers of the problems; now, if it matters, the time; and gates, which say what
// else ports ask of connections; all of them are written by hand.
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
	var in NodeInput
	var packets, problems, gates []string
	for _, f := range archive.Files {
		switch {
		case f.Name == "packets":
			packets = lines(f.Data)
		case f.Name == "exempt":
			for _, line := range lines(f.Data) {
				in.Exempt = append(in.Exempt, readPort(t, line))
			}
		case f.Name == "problems":
			problems = lines(f.Data)
		case f.Name == "gates":
			gates = append([]string{}, lines(f.Data)...)
		case f.Name == "now":
			in.Now = timeOf(t, f.Data)
		case strings.HasPrefix(f.Name, "in/"):
			for doc := range strings.SplitSeq(string(f.Data), "\n---\n") {
				readNodeInput(t, doc, &in)
			}
		default:
			t.Fatalf("unknown file %s", f.Name)
		}
	}
	if len(packets) == 0 {
		t.Fatal("no packets")
	}
	set, found := Node(in)
	for _, packet := range packets {
		sent, want, _ := strings.Cut(packet, " -> ")
		if got := verdict(t, set, sent); got != want {
			t.Errorf("%s -> %s, want %s", sent, got, want)
		}
	}
	if got := gatesOf(set); gates != nil && !slices.Equal(got, gates) {
		t.Errorf("gates %q, want %q", got, gates)
	}
	var ports []string
	for _, p := range found {
		ports = append(ports, strconv.Itoa(int(p.Port)))
	}
	if !slices.Equal(ports, problems) {
		t.Errorf("problems %v, want ports %v", found, problems)
	}
}

func readNodeInput(t *testing.T, doc string, in *NodeInput) {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
		t.Fatal(err)
	}
	switch kind.Kind {
	case "NodePortPool":
		in.Pools = with(in.Pools, decode[v1alpha1.NodePortPool](t, doc))
	case "NodePortAllocation":
		in.Allocations = with(in.Allocations, decode[v1alpha1.NodePortAllocation](t, doc))
	case "AddressSet":
		in.AddressSets = with(in.AddressSets, decode[v1alpha1.AddressSet](t, doc))
	case "Portreeve":
		in.Installation = ptr.To(decode[v1alpha1.Portreeve](t, doc))
	case "GatewaySet":
		in.GatewaySets = with(in.GatewaySets, decode[v1alpha1.GatewaySet](t, doc))
	case "Node":
		node := decode[corev1.Node](t, doc)
		in.Node, in.Labels = node.Name, node.Labels
	default:
		t.Fatalf("unknown kind %q", kind.Kind)
	}
}

// with adds objects to others, as the API server has them.
func with[T any, P interface {
	*T
	metav1.Object
}](to Objects, objects ...T) Objects {
	for i := range objects {
		to = to.With(Name(P(&objects[i]).GetName()), P(&objects[i]))
	}
	return to
}

// verdict of a packet, spelled "203.0.113.7 tcp/30080".
func verdict(t *testing.T, set rule.Set, packet string) string {
	source, rest, _ := strings.Cut(packet, " ")
	addr, err := netip.ParseAddr(source)
	if err != nil {
		t.Fatalf("packet %q: %v", packet, err)
	}
	switch port := readPort(t, rest); {
	case !set.Judged.Contains(port.Number):
		return "not judged"
	case !set.Admits(port, addr):
		if rule.Covers(set.Refused(port), netip.PrefixFrom(addr, addr.BitLen())) {
			return "refuse"
		}
		return "drop"
	case set.Audited.Contains(port.Number):
		return "pass, audited"
	case rule.Covers(set.Sources(port), netip.PrefixFrom(addr, addr.BitLen())):
		return "pass"
	}
	return "pass, audited"
}

// readPort reads "tcp/30080".
func readPort(t *testing.T, text string) rule.Port {
	t.Helper()
	protocol, number, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	port := rule.Port{Protocol: rule.Protocol(strings.ToUpper(protocol)), Number: uint16(n)}
	if err != nil || !slices.Contains(rule.Protocols, port.Protocol) {
		t.Fatalf("%q is no port: %v", text, err)
	}
	return port
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
