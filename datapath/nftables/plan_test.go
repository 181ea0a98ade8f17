package nftables

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/internal/rule"
)

var anyGate = rapid.Custom(func(t *rapid.T) rule.Gate {
	class := rapid.SampledFrom([]rule.ClassID{"", "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"})
	number := rapid.Uint32Range(0, 3)
	return rule.Gate{
		Class: class.Draw(t, "class"), Audit: class.Draw(t, "audit"),
		Limits: rule.Limits{Connections: number.Draw(t, "connections"), PerSecond: number.Draw(t, "per second"), Burst: number.Draw(t, "burst")},
		Log:    rule.Log{Denied: rapid.Bool().Draw(t, "denied"), Accepted: rapid.Bool().Draw(t, "accepted"), PerSecond: rapid.Uint32().Draw(t, "lines")},
	}
})

// The next agent knows what a chain ought to hold by its name alone.
func TestTheNameOfAChainSaysTheGate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gate := anyGate.Draw(t, "gate")
		if gate.Log.Denied || gate.Log.Accepted {
			name := chainOf(gate)
			if got, ok := gateOf(name); !ok || got != gate {
				t.Fatalf("%s reads %+v, %v", name, got, ok)
			}
			if len(name) > 200 { // the kernel takes 255, and a comment holds a time besides
				t.Fatalf("%s is too long", name)
			}
		}
	})
	for _, name := range []string{"", "judge", "gatekeeper", "gate.limits-1", "gate.log-denied-x", "gate.class-1.class-2", "gate.whatever"} {
		if g, ok := gateOf(name); ok {
			t.Errorf("%q reads %+v", name, g)
		}
	}
}

// anySet draws sets of few numbers and sources, which meet all the time.
var anySet = rapid.Custom(func(t *rapid.T) rule.Set {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		if last := rapid.ByteMax(7).Draw(t, "last"); rapid.Bool().Draw(t, "IPv4") {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 248 + last}), rapid.SampledFrom([]int{0, 1, 29, 30, 31, 32}).Draw(t, "bits")).Masked()
		}
		last := rapid.ByteMax(7).Draw(t, "last of IPv6")
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x20, 15: last}), rapid.SampledFrom([]int{0, 1, 125, 126, 127, 128}).Draw(t, "bits")).Masked()
	})
	ranges := rapid.Custom(func(t *rapid.T) rule.PortRange {
		first := rapid.SampledFrom([]uint16{1, 2, 3, 4, 5, 65530, 65534}).Draw(t, "first")
		return rule.PortRange{First: first, Last: max(first, rapid.SampledFrom([]uint16{2, 4, 6, 65534, 65535}).Draw(t, "last"))}
	})
	terms := map[rule.Port]rule.Terms{}
	for range rapid.IntRange(0, 6).Draw(t, "ports") {
		port := rule.Port{Protocol: rapid.SampledFrom(rule.Protocols).Draw(t, "protocol"), Number: rapid.Uint16Range(1, 4).Draw(t, "number")}
		gate := anyGate.Draw(t, "gate")
		terms[port] = rule.Terms{
			Sources: rapid.SliceOfN(prefix, 0, 3).Draw(t, "sources"), Audited: rapid.SliceOfN(prefix, 0, 2).Draw(t, "audited sources"),
			Limits: gate.Limits, Log: rule.Log{Denied: gate.Log.Denied, Accepted: gate.Log.Accepted, PerSecond: gate.Log.PerSecond % 9},
			Expires: rapid.SampledFrom([]int64{0, 0, 1, 4000000000}).Draw(t, "expires"), Local: rapid.Bool().Draw(t, "local"),
		}
	}
	s := rule.Build(rule.NewPortRanges(rapid.SliceOfN(ranges, 0, 3).Draw(t, "judged")...), terms)
	return s.WithAudited(rule.NewPortRanges(rapid.SliceOfN(ranges, 0, 2).Draw(t, "audited")...)).
		WithDenied(rapid.SliceOfN(prefix, 0, 2).Draw(t, "denied")).WithAddresses(rapid.SliceOfN(prefix, 0, 2).Draw(t, "addresses"))
})

// What is written as spans is read as what it was.
func TestSpansReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := state{Set: anySet.Draw(t, "set")}
		for name, spans := range s.spans() {
			var listed []kernelElement
			for _, e := range rapid.Permutation(spanElements(spans)).Draw(t, name) {
				listed = append(listed, kernelElement{key: e.key, end: e.end})
			}
			read, err := spansOf(name, listed)
			if err != nil || fmt.Sprint(read) != fmt.Sprint(spans) {
				t.Fatalf("%s: %q reads %q, %v", name, spans, read, err)
			}
		}
		if got := numbersOf(numberSpans(s.Judged)); fmt.Sprint(got) != fmt.Sprint(s.Judged) {
			t.Fatalf("%v reads %v", s.Judged, got)
		}
		for _, f := range families {
			if want, got := f.of(s.Denied), rule.Canonical(prefixesOf(prefixSpans(f.of(s.Denied)))); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%v reads %v", want, got)
			}
		}
	})
}

// What a change counts as needed is what a load of the new state needs.
func TestAChangeCountsWhatIsNeeded(t *testing.T) {
	now := time.Unix(1000, 0)
	rapid.Check(t, func(t *rapid.T) {
		have := state{Set: anySet.Draw(t, "have")}
		_, n, err := load(tableName, have, 0, false, now)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			want := state{Set: anySet.Draw(t, "want")}
			if _, err := planChange(tableName, have, want, n).batches(have, want, now); err != nil {
				t.Fatal(err)
			}
			_, fresh, err := load(tableName, want, 0, false, now)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(n, fresh) {
				t.Fatalf("needs %v, and from scratch %v", n, fresh)
			}
			have = want
		}
		steps, err := planChange(tableName, have, have, n).batches(have, have, now)
		if err != nil || len(steps) > 0 {
			t.Fatalf("no change takes %d transactions, %v", len(steps), err)
		}
	})
}

// A table that is made beside another one is made whole, and the other is not touched.
func TestALoadNamesItsOwnTableOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, _, err := load(nextName, state{Set: anySet.Draw(t, "want")}, 0, rapid.Bool().Draw(t, "replace"), time.Unix(1000, 0))
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range b.messages {
			const table = 1 // the attribute, in each kind of message
			if name := text(valueOf(attributes(m), table)); name != nextName {
				t.Fatalf("message %d of %d is about table %q", i, len(b.messages), name)
			}
		}
	})
}

// FuzzRead: whatever the kernel might say, reading it ends without a panic.
func FuzzRead(f *testing.F) {
	f.Add([]byte{12, 0, 1, 0x80, 8, 0, 1, 0, 1, 2, 3, 4})
	f.Add([]byte{8, 0, 1, 0, 'c', 't', 0, 0})
	f.Fuzz(func(_ *testing.T, message []byte) {
		e := parseElement(message)
		_, _ = spansOf("any", []kernelElement{e, e})
		s := state{}
		_ = s.takePorts(portTables{open: []kernelElement{e}, ends: []kernelElement{e}}, time.Unix(0, 0))
		sameExpression(message, message)
		sameExpression(message[len(message)/2:], message)
	})
}
