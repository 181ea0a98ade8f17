package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/portreeve/portreeve/datapath/bypass"
)

// A tc program may be named by up to 256 bytes of any kind. A report with such a name would
// be refused, and the last one, which knows of no program, would stand.
func TestNamesOfProgramsFitIntoAReport(t *testing.T) {
	for name, want := range map[string]string{
		"cil_from_netdev":              "cil_from_netdev",
		strings.Repeat("a", 64):        strings.Repeat("a", 64),
		strings.Repeat("a", 255):       strings.Repeat("a", 64),
		strings.Repeat("a", 63) + "éé": strings.Repeat("a", 63) + "é",
		"prog\xff\xfe:[ingress]":       "prog?:[ingress]",
	} {
		got := wayOf(bypass.Way{Interface: "eth0", Hook: "tc", Program: name})
		if got.Program != want || !utf8.ValidString(got.Program) || got.Interface != "eth0" || got.Hook != "tc" {
			t.Errorf("%q: %+v, want the program %q", name, got, want)
		}
	}
}
