package compile

import (
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/test/health"
)

func TestInstallationStatus(t *testing.T) {
	for _, c := range []struct {
		name     string
		lockdown bool
		seen     InstallationSeen
		guard    v1alpha1.GuardMode
		numbers  string
		want     string
		says     string
	}{
		{"in force", false, InstallationSeen{Guard: v1alpha1.GuardEnforce, NodePorts: rule.NewPortRanges(rule.PortRange{First: 30000, Last: 32767})}, v1alpha1.GuardEnforce, "30000-32767", "Ready OK", "as wished"},
		{"the range is not known", false, InstallationSeen{Guard: v1alpha1.GuardAudit}, v1alpha1.GuardAudit, "", "Ready OK", "as wished"},
		{"lockdown", true, InstallationSeen{Guard: v1alpha1.GuardAudit}, v1alpha1.GuardAudit, "", "Ready Lockdown", "set spec.lockdown to false"},
		{"the guard is refused", false, InstallationSeen{Guard: v1alpha1.GuardEnforce, Unguarded: "forbidden"}, v1alpha1.GuardOff, "", "Stalled Denied", "forbidden"},
		{"the guard is refused in lockdown", true, InstallationSeen{Guard: v1alpha1.GuardEnforce, Unguarded: "forbidden"}, v1alpha1.GuardOff, "", "Stalled Denied", "forbidden"},
	} {
		t.Run(c.name, func(t *testing.T) {
			object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName, Generation: 4}}
			object.Spec.Lockdown = c.lockdown
			object.Status.ObservedGeneration = -1
			status := InstallationStatus(object, c.seen, metav1.NewTime(clock))
			if status.Guard != c.guard || status.NodePortRange != c.numbers || status.ObservedGeneration != 4 {
				t.Errorf("status %+v", status)
			}
			if got := theOneOf(t, status.Conditions, 4); got != c.want {
				t.Errorf("conditions %q, want %q", got, c.want)
			}
			health.Check(t, &v1alpha1.Portreeve{ObjectMeta: object.ObjectMeta, Status: status}, health.Of(c.want))
			if m := meta.FindStatusCondition(status.Conditions, v1alpha1.Ready).Message; !strings.Contains(m, c.says) {
				t.Errorf("Ready says %q, nothing of %q", m, c.says)
			}
			object.Status = status
			later := InstallationStatus(object, InstallationSeen{Guard: v1alpha1.GuardAudit}, metav1.NewTime(clock.Add(time.Minute)))
			ready := meta.FindStatusCondition(later.Conditions, v1alpha1.Ready)
			if healed := !strings.HasPrefix(c.want, "Ready"); ready.LastTransitionTime.Time.Equal(clock) == healed {
				t.Errorf("later: %+v", ready)
			}
		})
	}
}

// theOneOf returns which one of Ready, Reconciling and Stalled is True, and its reason.
func theOneOf(t *testing.T, conditions []metav1.Condition, generation int64) string {
	t.Helper()
	var holds []string
	for _, kind := range []string{v1alpha1.Ready, v1alpha1.Reconciling, v1alpha1.Stalled} {
		c := meta.FindStatusCondition(conditions, kind)
		if c == nil || c.ObservedGeneration != generation {
			t.Fatalf("condition %s is %+v", kind, c)
		}
		if c.Status == metav1.ConditionTrue {
			holds = append(holds, kind+" "+c.Reason)
		}
	}
	if len(holds) != 1 {
		t.Fatalf("of Ready, Reconciling and Stalled these are True: %q", holds)
	}
	return holds[0]
}

func TestLimits(t *testing.T) {
	object := func(numbers v1alpha1.PortSpan, safe ...v1alpha1.PortSpan) *v1alpha1.Portreeve {
		return &v1alpha1.Portreeve{Spec: v1alpha1.PortreeveSpec{NodePortRange: numbers, FailSafePorts: safe}}
	}
	for _, c := range []struct {
		name    string
		object  *v1alpha1.Portreeve
		found   string
		numbers []string
		safe    []string
	}{
		{"nothing is known", nil, "", nil, nil},
		{"the range was found", nil, "30000-32767", []string{"30000-32767"}, nil},
		{"the range was given", object("20000-20099"), "30000-32767", []string{"20000-20099"}, nil},
		{"the range was not given", object("", "9100"), "30000-32767", []string{"30000-32767"}, []string{"9100"}},
		{"a range that can't be read is not known", object("x"), "30000-32767", nil, nil},
		{"a fail-safe port that can't be read does not expose its neighbours", object("", "9100", "x", "9101-9103", "8-7"), "", nil, []string{"9100-9103"}},
	} {
		limits := NewLimits(c.object, c.found)
		if !slices.Equal(limits.NodePorts.Strings(), c.numbers) || !slices.Equal(limits.FailSafe.Strings(), c.safe) {
			t.Errorf("%s: %+v", c.name, limits)
		}
	}
}

func TestInstallationSaysWhichDeniedSetsItDoesNotKnow(t *testing.T) {
	object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName, Generation: 4}}
	object.Spec.DenyAddressSets = []v1alpha1.ObjectName{"bad", "worse"}
	for _, c := range []struct {
		seen       InstallationSeen
		want, says string
	}{
		{InstallationSeen{AddressSets: []string{"bad", "office", "worse"}}, "Ready OK", "as wished"},
		{InstallationSeen{AddressSets: []string{"bad", "office"}}, "Reconciling AddressSetNotFound", `spec.denyAddressSets names ["worse"]`},
		{InstallationSeen{}, "Reconciling AddressSetNotFound", `names ["bad" "worse"]`},
		{InstallationSeen{Unguarded: "forbidden"}, "Stalled Denied", "forbidden"},
	} {
		status := InstallationStatus(object, c.seen, metav1.NewTime(clock))
		if got := theOneOf(t, status.Conditions, 4); got != c.want {
			t.Errorf("conditions %q, want %q", got, c.want)
		}
		health.Check(t, &v1alpha1.Portreeve{ObjectMeta: object.ObjectMeta, Status: status}, health.Of(c.want))
		if m := meta.FindStatusCondition(status.Conditions, v1alpha1.Ready).Message; !strings.Contains(m, c.says) {
			t.Errorf("Ready says %q, nothing of %q", m, c.says)
		}
	}
}
