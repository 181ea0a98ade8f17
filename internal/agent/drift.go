package agent

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
)

// driftInterval is how often the kernel is asked, cheaply, whether somebody may have
// changed our rules, so that a repair takes less than a second.
const driftInterval = 500 * time.Millisecond

// seldom is the time between two readings of the kernel, as a multiple of what one
// takes: a table that is not ours alone may have changed whenever anything has, a
// hundred times a minute beside a busy kube-proxy.
const seldom = 20

// unread says whether it is time to read the kernel whole, which is done every so
// often although it does not look as if anything had changed: a fingerprint may miss
// what was replaced by as much.
func (k *kernel) unread(every time.Duration) bool {
	_, tells := k.datapath.(datapath.Fingerprinter)
	return !tells || time.Since(k.read) >= every || k.disturbed()
}

// rested says whether the kernel may be read again without costing too much of the
// time: with thousands of distinct source sets one reading takes seconds, in which no
// change gets through.
func (k *kernel) rested() bool { return time.Since(k.read) >= seldom*k.reading }

// fingerprint remembers what the kernel is like while it is known to be right.
func (k *kernel) fingerprint() {
	if f, ok := k.datapath.(datapath.Fingerprinter); ok {
		k.print, k.printErr = f.Fingerprint()
	}
}

// disturbed says whether somebody may have changed our rules since they were last
// seen to be right.
func (k *kernel) disturbed() bool {
	f, ok := k.datapath.(datapath.Fingerprinter)
	if !ok || !k.sure || !k.rested() {
		return false
	}
	now, err := f.Fingerprint()
	if err != nil || k.printErr != nil {
		return k.printErr == nil // once; the next check says what is wrong
	}
	return now != k.print
}

// longestDamage is what the schema of a report allows.
const longestDamage = 1024

// repaired takes note of what somebody changed; nil: the kernel enforces something
// else, and is otherwise as we make it.
func (k *kernel) repaired(damage error) {
	next := &v1alpha1.Repairs{Count: 1, Last: metav1.Now(), Damage: "it admitted others than it was to"}
	if k.repairs != nil {
		next.Count += k.repairs.Count
	}
	if damage != nil {
		next.Damage = damage.Error()
	}
	next.Damage = next.Damage[:min(len(next.Damage), longestDamage)]
	k.repairs = next
}
