package carrier

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Nodes may refuse for want of a pod beside a kube-proxy that works ahead of INPUT, and
// beside nobody else. By iptables not beside one whose rules are elsewhere.
func TestWhoLeavesItToUsWhomItHasNoPodFor(t *testing.T) {
	may := []string{
		"a-rule-of-somebody-else-that-masquerades-leaves-no-promise", "antrea-leaves-node-ports-to-kube-proxy",
		"calico-with-iptables-leaves-node-ports-to-kube-proxy", "cilium-beside-kube-proxy-stands-in-no-clients-way",
		"kube-ovn-whose-subnets-are-not-known-depends", "kube-ovn-with-centralized-subnets-and-no-ipvs-promises-nothing",
		"kube-proxy-with-iptables-masquerades-unless-local", "kube-proxy-with-nftables-masquerades-unless-local",
		"kube-ovn-with-distributed-subnets-keeps-the-address-when-local", "rules-that-kube-proxy-left-behind-do-not-count",
		"the-aws-vpc-cni-leaves-node-ports-to-kube-proxy",
	}
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var facts v1alpha1.NodeFacts
		if err := yaml.UnmarshalStrict(archive.Files[0].Data, &facts); err != nil {
			t.Fatal(err)
		}
		c := Of(facts)
		if why := c.Unserved(v1alpha1.FirewallNFTables); (why == "") != slices.Contains(may, name) {
			t.Errorf("%s: by nftables %q", name, why)
		}
		elsewhere := slices.Contains(facts.KubeProxy, v1alpha1.KubeProxyNFTables)
		if why := c.Unserved(v1alpha1.FirewallIPTables); (why == "") != (slices.Contains(may, name) && !elsewhere) {
			t.Errorf("%s: by iptables %q", name, why)
		}
	}
}
