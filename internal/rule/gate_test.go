package rule

import (
	"net/netip"
	"testing"
)

// A gate is Local only where somebody passes it: who does not, is told nothing.
func TestOnlyWhoPassesIsToldThatNobodyIsThere(t *testing.T) {
	port := Port{TCP, 30000}
	sources := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		name  string
		terms Terms
		want  bool
	}{
		{"admits", Terms{Sources: sources, Local: true}, true},
		{"audits", Terms{Audited: sources, Local: true}, true},
		{"admits, and is not", Terms{Sources: sources}, false},
		{"closed", Terms{Local: true}, false},
		{"closed, and logs", Terms{Local: true, Log: Log{Denied: true}}, false},
		{"refuses all", Terms{Sources: sources, Refuse: true, Local: true}, false},
	} {
		s := Build(nil, map[Port]Terms{port: c.terms})
		if got := s.Ports.Get(port).Local; got != c.want {
			t.Errorf("%s: Local is %v", c.name, got)
		}
		if c.terms.Local = !c.terms.Local; s.Equal(Build(nil, map[Port]Terms{port: c.terms})) != (c.terms.Refuse || len(c.terms.Sources)+len(c.terms.Audited) == 0) {
			t.Errorf("%s: whether sets are equal is not whether they do the same", c.name)
		}
	}
}
