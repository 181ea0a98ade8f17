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
			c.run(NewWorld(t, s.Open))
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
		{"every address of the node is judged, or those that the set names", someAddresses},
		{"host ports and addresses of load balancers are not judged", otherDNAT},
		{"a path's smaller packets are negotiated through a node port", pathMTU},
		{"a denied source is dropped on every judged number", denied},
		{"a source that comes to be denied is cut, and another is not", deniedCut},
		{"no sync that denies or stops denying drops whom both admit", deniedNoGap},
		{"whom a gate refuses is told so at once, and nobody else is", refusal},
		{"a source that comes to be refused is told so mid-connection", refusedMidConnection},
		{"who finds nobody behind a local port is told so at once, and nobody else is", unserved},
		{"who may not come in is not told whether a local port has a pod", unservedGates},
		{"an audited source passes beside those who are admitted", auditedSource},
		{"a source has so many connections to a port at a time", limitsConnections},
		{"a source begins so many connections to a port a second", limitsPerSecond},
		{"limits that are set on a busy port cut nobody", limitsBegin},
		{"a connection that nobody answers is one connection", oneWay},
		{"an access ends at its second by itself", expires},
		{"an access that has ended stays ended until it is prolonged", expiresProlonged},
		{"an access of years outlasts what the kernel can count", expiresFar},
		{"what a gate drops is logged if it says so", logsDenied},
		{"what a gate lets in is logged if it says so", logsAccepted},
		{"what only auditing lets in is logged", logsAudited},
		{"nobody can make a port write more lines than it may", logsBounded},
		{"replies of masqueraded connections are never hurt", masqueradeTrap},
		{"an audited number passes everybody, and the one beside it does not", audited},
		{"an audited number that is enforced again cuts whom it does not admit", auditEnds},
		{"what nobody admits on an audited number is logged once", auditLogs},
		{"no sync that audits or stops auditing drops whom both admit", auditNoGap},
		{"a revoked source is cut mid-connection", cutMidConnection},
		{"the sweep ends what was cut and spares the rest", sweepEnds},
		{"the sweep finds every protocol and counts", sweepCounts},
		{"the sweep spares a connection to someone else's equal port", sweepSparesUnrelated},
		{"the sweep spares what never was judged", sweepSparesUnjudged},
		{"a server of the node that goes on talking brings nobody back", serverTalks},
		{"the sweep ends what has expired or come to be denied", sweepEnded},
		{"a port handed to another team cuts the first and never lets it to the second", handedOver},
		{"what others own stays byte-identical", foreignUntouched},
		{"a second sync writes nothing", syncTwice},
		{"have reads back what sync wrote", readsBack},
		{"have reads back gates, whom the set denies and where it judges", readsBackGates},
		{"no sync that changes gates drops whom both admit", gatesNoGap},
		{"the first sync drops nothing that it admits", firstSync},
		{"a restart takes over without a gap", restart},
		{"no sync drops what old and new admit or admits what neither does", noGap},
		{"nothing is enforced before the first sync", inertBefore},
	}
}
