package agent

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/internal/rule"
)

// draw makes any set of rules that a node may have.
func draw(t *rapid.T) rule.Set {
	prefixes := func(label string) (out []netip.Prefix) {
		for range rapid.IntRange(0, 4).Draw(t, label) {
			if rapid.Bool().Draw(t, "v6") {
				a := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")))
				if !a.Is4In6() {
					out = append(out, netip.PrefixFrom(a, rapid.IntRange(0, 128).Draw(t, "bits")))
				}
				continue
			}
			a := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")))
			out = append(out, netip.PrefixFrom(a, rapid.IntRange(0, 32).Draw(t, "bits")))
		}
		return out
	}
	number := rapid.Uint16Range(30000, 30050)
	gates := map[rule.Port]rule.Terms{}
	for range rapid.IntRange(0, 20).Draw(t, "ports") {
		port := rule.Port{Protocol: rapid.SampledFrom(rule.Protocols).Draw(t, "protocol"), Number: number.Draw(t, "number")}
		gates[port] = rule.Terms{
			Sources: prefixes("sources"), Audited: prefixes("audited"), Refuse: rapid.Bool().Draw(t, "refuse"),
			Limits:  rule.Limits{Connections: rapid.Uint32().Draw(t, "connections"), PerSecond: rapid.Uint32().Draw(t, "rate"), Burst: rapid.Uint32().Draw(t, "burst")},
			Log:     rule.Log{Denied: rapid.Bool().Draw(t, "denied"), Accepted: rapid.Bool().Draw(t, "accepted"), PerSecond: rapid.Uint32().Draw(t, "lines")},
			Expires: rapid.Int64Min(0).Draw(t, "expires"),
		}
	}
	ranges := rule.NewPortRanges(rule.PortRange{First: number.Draw(t, "first"), Last: 30050})
	return rule.Build(ranges, gates).WithAudited(rule.NewPortRanges(rule.PortRange{First: number.Draw(t, "audited"), Last: 30060})).
		WithDenied(prefixes("denied")).WithAddresses(prefixes("addresses"))
}

func TestRulesComeBackFromTheDiskAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, file := draw(t), newRulesFile("")
		data, err := file.seal(keep("n1", 7, time.Unix(1, 0), want))
		if err != nil {
			t.Fatal(err)
		}
		var k kept
		if err := file.open(data, &k); err != nil {
			t.Fatal(err)
		}
		got, err := k.set("n1")
		if err != nil || !got.Equal(want) || !reflect.DeepEqual(got.Classes, want.Classes) || k.Seq != 7 || k.Saved != 1 {
			t.Fatalf("%v\n%+v\n%+v", err, got, want)
		}
		if _, err := k.set("n2"); err == nil {
			t.Fatal("another node took them")
		}
	})
}

// A field that is new must get its place in the file, and a higher version: an
// older agent would enforce the rules without it. Gate.Local has none: see kept.
func TestEveryFieldOfTheRulesIsKept(t *testing.T) {
	for of, want := range map[reflect.Type]int{
		reflect.TypeFor[rule.Set](): 6, reflect.TypeFor[rule.Gate](): 7, reflect.TypeFor[rule.Limits](): 3, reflect.TypeFor[rule.Log](): 3,
	} {
		if of.NumField() != want {
			t.Errorf("%s has %d fields, and %d of them are kept: see kept and keptPort", of, of.NumField(), want)
		}
	}
}

// lastRules admit the office to two numbers of ten.
func lastRules(t *testing.T) rule.Set {
	t.Helper()
	office := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	return rule.NewSet(ranged(t, "30000-30009"), map[rule.Port][]netip.Prefix{
		{Protocol: rule.TCP, Number: 30001}: office, {Protocol: rule.TCP, Number: 30002}: office,
	})
}

func TestRulesThatNoAgentWroteAreRefused(t *testing.T) {
	office := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	good := func() kept {
		return keep("n1", 1, time.Unix(1, 0), rule.NewSet(ranged(t, "30000-30099"), map[rule.Port][]netip.Prefix{{Protocol: rule.TCP, Number: 30080}: office}))
	}
	if _, err := good().set("n1"); err != nil {
		t.Fatal(err)
	}
	for sentence, spoil := range map[string]func(k *kept){
		"a class that holds another source":  func(k *kept) { k.Classes = map[rule.ClassID][]netip.Prefix{k.Ports[0].Class: rule.World} },
		"a class that is not there":          func(k *kept) { k.Classes = nil },
		"a network with host bits":           func(k *kept) { k.Denied = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} },
		"a network that is none":             func(k *kept) { k.Denied = []netip.Prefix{{}} },
		"a fail-safe port":                   func(k *kept) { k.Judged = []string{"22", "30000-30099"} },
		"ranges out of order":                func(k *kept) { k.Judged = []string{"30050-30099", "30000-30049"} },
		"no range":                           func(k *kept) { k.Judged = []string{"30000-"} },
		"an audited port that is not judged": func(k *kept) { k.Audited = []string{"30100"} },
		"a port that is not judged":          func(k *kept) { k.Ports[0].Port = "tcp/30100" },
		"a port twice":                       func(k *kept) { k.Ports = append(k.Ports, k.Ports[0]) },
		"a protocol that is none":            func(k *kept) { k.Ports[0].Port = "icmp/30080" },
		"a number that is none":              func(k *kept) { k.Ports[0].Port = "tcp/030080" },
	} {
		k := good()
		spoil(&k)
		if s, err := k.set("n1"); err == nil {
			t.Errorf("%s: read %+v", sentence, s)
		}
	}
}

func TestWhoseTheFileIs(t *testing.T) {
	file := newRulesFile(t.TempDir())
	if err := file.load(&kept{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := file.save(keep("n1", 1, time.Unix(1, 0), rule.Set{})); err != nil {
		t.Fatal(err)
	}
	if err := file.load(&kept{}); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(file.path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := file.load(&kept{}); !errors.Is(err, errRefused) || !strings.Contains(err.Error(), file.path) {
		t.Errorf("a file that anybody may write: %v", err)
	}
	if err := os.Remove(file.path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := file.load(&kept{}); !errors.Is(err, errRefused) {
		t.Errorf("a folder: %v", err)
	}
	if left, _ := filepath.Glob(file.path + ".*"); len(left) > 0 {
		t.Errorf("left behind %v", left)
	}
}

// FuzzRules: whatever is on the disk, it is read whole or refused, and never opens
// what its own words do not.
func FuzzRules(f *testing.F) {
	file := newRulesFile("")
	good, err := file.seal(keep("n1", 1, time.Unix(1, 0), rule.NewSet(ranged(f, "30000-30099"), map[rule.Port][]netip.Prefix{{Protocol: rule.TCP, Number: 30080}: rule.World})))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte("portreeve rules 1 \n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Once as it is, and once with a checksum that fits, to get past it.
		for _, sealed := range [][]byte{data, append([]byte(file.head(data)), data...)} {
			var k kept
			if file.open(sealed, &k) != nil {
				continue
			}
			s, err := k.set("")
			if err != nil {
				continue
			}
			if len(s.Judged.Intersect(rule.FailSafe)) > 0 {
				t.Errorf("judges fail-safe ports: %v", s.Judged)
			}
			for port := range s.Ports.All {
				if !s.Judged.Contains(port.Number) {
					t.Errorf("%s has a gate and is not judged", port)
				}
			}
			again, err := file.seal(keep(k.Node, k.Seq, time.Unix(k.Saved, 0), s))
			var k2 kept
			if err != nil || file.open(again, &k2) != nil {
				t.Fatalf("what was read can't be written: %v", err)
			}
			if s2, err := k2.set(""); err != nil || !s2.Equal(s) {
				t.Errorf("%v: %+v became %+v", err, s, s2)
			}
		}
	})
}

// FuzzNode: whatever is on the disk, reading it ends without a panic.
func FuzzNode(f *testing.F) {
	file := newNodeFile("")
	f.Add([]byte(`{"node":"n1","boot":{"id":"b"},"armed":["30000-30099"],"exempt":[{"protocol":"TCP","number":30050,"what":"x"}],"reserved":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m nodeMemory
		if file.open(append([]byte(file.head(data)), data...), &m) == nil && m.readable() == nil {
			m.exemptPorts()
			ranges(m.Armed)
		}
	})
}

// manyRules are 10,000 ports with 10 sources each, of 200 kinds; one port is of
// another kind.
func manyRules(t testing.TB, kind int) rule.Set {
	t.Helper()
	gates := map[rule.Port][]netip.Prefix{}
	for i := range 10_000 {
		if i == 0 {
			i = kind
		}
		var sources []netip.Prefix
		for j := range 10 {
			sources = append(sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i % 200), byte(j * 2), 0}), 24))
		}
		gates[rule.Port{Protocol: rule.TCP, Number: uint16(30000 + len(gates))}] = sources
	}
	return rule.NewSet(ranged(t, "30000-39999"), gates)
}

func BenchmarkKeep(b *testing.B) {
	s, file := manyRules(b, 0), newRulesFile(b.TempDir())
	for b.Loop() {
		if err := file.save(keep("n1", 1, time.Unix(1, 0), s)); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(file.path)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size()), "bytes")
}

func BenchmarkLoad(b *testing.B) {
	file := newRulesFile(b.TempDir())
	if err := file.save(keep("n1", 1, time.Unix(1, 0), manyRules(b, 0))); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := loadRules(file, "n1"); err != nil {
			b.Fatal(err)
		}
	}
}
