package compile

import (
	"slices"
	"testing"

	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func TestNumbersOf(t *testing.T) {
	pool := func(ranges v1alpha1.PortRange, unclaimed v1alpha1.Unclaimed) v1alpha1.NodePortPool {
		return v1alpha1.NodePortPool{
			Spec:   v1alpha1.NodePortPoolSpec{Ranges: []v1alpha1.PortRange{ranges}, Unclaimed: unclaimed, Reserved: []v1alpha1.ReservedPorts{{Ports: "30005"}}},
			Status: v1alpha1.NodePortPoolStatus{Armed: []string{"30000-30029"}},
		}
	}
	pools := []v1alpha1.NodePortPool{
		pool("30000-30009", v1alpha1.UnclaimedDrop), pool("30010-30019", v1alpha1.UnclaimedAudit),
		pool("30020-30039", v1alpha1.UnclaimedIgnore), // of which only ten are armed
	}
	pools[1].Spec.Grandfather = ptr.To(false)
	installation := &v1alpha1.Portreeve{Spec: v1alpha1.PortreeveSpec{FailSafePorts: []v1alpha1.PortSpan{"30007"}}}
	n := NumbersOf(pools, installation)
	for _, c := range []struct {
		what      string
		got, want []string
	}{
		{"armed", n.Armed.Strings(), []string{"30000-30004", "30006", "30008-30029"}},
		{"dropped", n.Dropped.Strings(), []string{"30000-30004", "30006", "30008-30009"}},
		{"lenient", n.Lenient.Strings(), []string{"30000-30004", "30006", "30008-30009", "30020-30029"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s %v, want %v", c.what, c.got, c.want)
		}
	}
	installation.Spec.Lockdown = true
	if got := NumbersOf(pools, installation).Dropped; !slices.Equal(got, n.Armed) {
		t.Errorf("in lockdown dropped %v, want all that are armed", got)
	}
}
