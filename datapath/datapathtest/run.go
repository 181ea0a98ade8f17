package datapathtest

import (
	"os"
	"testing"

	"github.com/portreeve/portreeve/datapath"
)

// Open makes the datapath under test in the network namespace of the calling
// thread. Every call of its methods will be made there too.
type Open func(t *testing.T) datapath.Datapath

// Subject is a datapath under test.
type Subject struct {
	Open Open
	// Damage maps what a foreign hand may do, as a sentence, to the commands
	// that do it to this datapath on the node.
	Damage map[string][][]string
	// Logged counts the packets that the datapath on the node has logged since
	// it was first synced. Without it nobody asks whether any were.
	Logged func(t *testing.T, node *Namespace) int
}

// Run holds the subject to the contract of datapath.Datapath. It needs root, and
// fails without; without IPv6 it leaves that family out and says so.
func Run(t *testing.T, s Subject) {
	if os.Geteuid() != 0 {
		t.Fatal("sending packets between network namespaces needs root")
	}
	if !hasIPv6 {
		t.Log("SKIPPED: every case in IPv6: this kernel has none")
	}
	for _, c := range cases() {
		t.Run(c.sentence, func(t *testing.T) {
			t.Parallel()
			w := NewWorld(t, s.Open)
			w.logged = s.Logged
			c.run(w)
		})
	}
	for sentence, commands := range s.Damage {
		t.Run("damage is found and repaired: "+sentence, func(t *testing.T) {
			t.Parallel()
			damaged(NewWorld(t, s.Open), commands)
		})
	}
}

type testCase struct {
	sentence string
	run      func(w *World)
}

func cases() []testCase {
	return []testCase{
		{"an admitted source is answered and nobody else", admission},
		{"protocols on one number have sources of their own", protocolsApart},
		{"the world may be admitted", worldAdmitted},
		{"fragments are judged as the packet they make", fragments},
		{"a listener of the node itself is judged", hostListener},
		{"a link-local address of the node is judged", linkLocal},
		{"traffic on lo is not judged", loopback},
		{"addresses of kube-ipvs0 are not judged", virtualAddresses},
		{"a connection nobody tracks is judged at its SYN", untracked},
		{"a pool may be the whole range of numbers", wholeRange},
		{"replies of masqueraded connections are never hurt", masqueradeTrap},
		{"an audited number passes everybody, and the one beside it does not", audited},
		{"an audited number that is enforced again cuts whom it does not admit", auditEnds},
		{"what nobody admits is logged once, and not without end", auditLogs},
		{"no sync that audits or stops auditing drops whom both admit", auditNoGap},
		{"a revoked source is cut mid-connection", cutMidConnection},
		{"the sweep ends what was cut and spares the rest", sweepEnds},
		{"the sweep finds every protocol and counts", sweepCounts},
		{"the sweep spares a connection to someone else's equal port", sweepSparesUnrelated},
		{"the sweep spares what never was judged", sweepSparesUnjudged},
		{"what others own stays byte-identical", foreignUntouched},
		{"a second sync writes nothing", syncTwice},
		{"have reads back what sync wrote", readsBack},
		{"the first sync drops nothing that it admits", firstSync},
		{"a restart takes over without a gap", restart},
		{"no sync drops what old and new admit or admits what neither does", noGap},
		{"nothing is enforced before the first sync", inertBefore},
	}
}
