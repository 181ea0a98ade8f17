package main

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What tally prints is what go test itself prints of the same packages.
func TestTallySaysWhatGoTestSays(t *testing.T) {
	plain := gotestIn(t, "testdata", "./...")
	var said bytes.Buffer
	tally := newTally(&said)
	if err := tally.read(strings.NewReader(gotestIn(t, "testdata", "-json", "./..."))); err != nil {
		t.Fatal(err)
	}
	// go test ends with a bare FAIL of its own, for which the closing line stands.
	want := lines(strings.TrimSuffix(plain, "FAIL\n"))
	if got := lines(said.String()); !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	said.Reset()
	tally.note = "a note"
	tally.close()
	const closing = `skipped 1: no reason to run
skipped 1: this kernel has no IPv6
4 passed, 3 failed, 2 skipped (1 for want of IPv6); a note
`
	if said.String() != closing {
		t.Errorf("closing lines:\n%swant:\n%s", said.String(), closing)
	}
}

// A package that ends without a word from any test is a failure too.
func TestPackageThatDiesCountsAsFailed(t *testing.T) {
	var said bytes.Buffer
	tally := newTally(&said)
	const died = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: dead\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.01s\n"}
{"Action":"fail","Package":"p"}
`
	if err := tally.read(strings.NewReader(died)); err != nil {
		t.Fatal(err)
	}
	if tally.failed != 1 || said.String() != "panic: dead\nFAIL\tp\t0.01s\n" {
		t.Errorf("%d failed, said %q", tally.failed, said.String())
	}
}

// gotestIn is what go test prints there; whether it passes is all one.
func gotestIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"test"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out)
}

var duration = regexp.MustCompile(`\d+\.\d+s|\(cached\)`)

// lines are sorted, since packages end in any order.
func lines(s string) []string {
	l := strings.Split(duration.ReplaceAllString(strings.TrimSpace(s), "TIME"), "\n")
	slices.Sort(l)
	return l
}
