package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// failing is what go test -json says of a package whose TestA passes and whose others
// fail with what they say.
func failing(path, says string, tests ...string) string {
	var b strings.Builder
	pkg := module + "/" + path
	fmt.Fprintf(&b, `{"Action":"run","Package":%q,"Test":"TestA"}{"Action":"pass","Package":%[1]q,"Test":"TestA"}`, pkg)
	for _, test := range tests {
		fmt.Fprintf(&b, `{"Action":"run","Package":%q,"Test":%q}`, pkg, test)
		fmt.Fprintf(&b, `{"Action":"output","Package":%q,"Test":%q,"Output":%q}`, pkg, test, "--- FAIL: "+test+"\n")
		fmt.Fprintf(&b, `{"Action":"output","Package":%q,"Test":%q,"Output":%q}`, pkg, test, "    a_test.go:1: "+says+"\n")
		fmt.Fprintf(&b, `{"Action":"fail","Package":%q,"Test":%q}`, pkg, test)
	}
	fmt.Fprintf(&b, `{"Action":"output","Package":%q,"Output":%q}`, pkg, "FAIL\t"+pkg+"\t0.01s\n")
	fmt.Fprintf(&b, `{"Action":"fail","Package":%q}`, pkg)
	return b.String()
}

func TestOnlyAMomentsFailureIsForgiven(t *testing.T) {
	for _, c := range []struct {
		name          string
		events        string
		passes        int // of those that are run again
		again, failed int
	}{
		{"that passes three times more", failing("test/e2e", "too late", "TestB"), 3, 1, 0},
		{"that fails once more", failing("test/e2e", "too late", "TestB"), 2, 1, 1},
		{"two tests", failing("test/e2e", "too late", "TestB", "TestC"), 6, 1, 0},
		{"three tests", failing("test/e2e", "too late", "TestB", "TestC", "TestD"), 9, 0, 3},
		{"three tests in two packages", failing("test/e2e", "too late", "TestB", "TestC") + failing("lab", "too late", "TestD"), 9, 0, 3},
		{"a packet that passed", failing("test/e2e", "BREACH: answered", "TestB"), 3, 0, 1},
		{"a data race", failing("cloud", "WARNING: DATA RACE", "TestB"), 3, 0, 1},
		{"a package that looks for packets", failing("datapath/nftables", "too late", "TestB"), 3, 0, 1},
		{"a package that died", strings.Replace(failing("test/e2e", "panic: nil", "TestB"), `"Action":"fail"`, `"Action":"output"`, 1), 3, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said bytes.Buffer
			whole := newTally(&said)
			whole.again, whole.flags = true, []string{"-p=1"}
			if err := whole.read(strings.NewReader(c.events)); err != nil {
				t.Fatal(err)
			}
			again := 0
			err := whole.settle(func(once *tally, s suspended) error {
				again++
				if !slices.Equal(s.flags, []string{"-p=1"}) {
					t.Errorf("run again with %v", s.flags)
				}
				once.passed, once.failed = c.passes, timesAgain*len(s.tests)-c.passes
				return nil
			})
			if err != nil || again != c.again || whole.failed != c.failed {
				t.Fatalf("%v; %d packages again, %d failed; want %d, %d; said:\n%s", err, again, whole.failed, c.again, c.failed, said.String())
			}
			whole.close()
			if named := strings.Contains(said.String(), "UNSTEADY"); named != (c.again > 0 && c.failed == 0) {
				t.Errorf("called unsteady: %t; said:\n%s", named, said.String())
			}
			if !strings.Contains(said.String(), "a_test.go:1: ") {
				t.Errorf("says nothing of how it failed:\n%s", said.String())
			}
		})
	}
}
