package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Output      string
	FailedBuild string
}

// tally turns go test's events back into the lines that go test prints without
// -json and -v, and counts tests. Where a test has subtests, these count in
// its place.
type tally struct {
	out                     io.Writer
	passed, failed, skipped int
	skips                   map[string]int // by reason
	note                    string         // for the closing line

	again     bool     // whether a failure may be a moment's
	flags     []string // of the go test that is read
	suspended []suspended
	unsteady  []string // packages and tests

	packages map[string]*pkg
	builds   map[string]string // compilers' output by import path
}

// pkg is a package whose tests are running.
type pkg struct {
	output  []event
	outcome map[string]string // test -> action that ended it
	parents map[string]bool   // tests that have subtests
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, skips: map[string]int{}, packages: map[string]*pkg{}, builds: map[string]string{}}
}

// read takes the events of one go test.
func (t *tally) read(r io.Reader) error {
	dec := json.NewDecoder(r)
	for {
		var e event
		switch err := dec.Decode(&e); err {
		case nil:
			t.take(e)
		case io.EOF:
			return nil
		default:
			return fmt.Errorf("go test -json: %w", err)
		}
	}
}

func (t *tally) take(e event) {
	p := t.packages[e.Package]
	if p == nil {
		p = &pkg{outcome: map[string]string{}, parents: map[string]bool{}}
		t.packages[e.Package] = p
	}
	switch e.Action {
	case "build-output":
		t.builds[e.ImportPath] += e.Output
	case "output":
		p.output = append(p.output, e)
	case "run":
		if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
			p.parents[e.Test[:i]] = true
		}
	case "pass", "fail", "skip":
		if e.Test != "" {
			p.outcome[e.Test] = e.Action
			return
		}
		t.finish(p, e)
		delete(t.packages, e.Package)
	}
}

// count counts the tests of a package that has ended.
func (t *tally) count(p *pkg) {
	for test, outcome := range p.outcome {
		switch {
		case outcome == "skip":
			t.skipped++
			t.skips[p.reason(test)]++
		case outcome == "fail" && !p.failedBelow(test):
			t.failed++
		case outcome == "pass" && !p.parents[test]:
			t.passed++
		}
	}
}

// finish counts and prints a package that has ended with e.
func (t *tally) finish(p *pkg, e event) {
	if t.suspends(p, e) {
		return
	}
	before := t.failed
	t.count(p)
	if e.Action == "fail" && t.failed == before {
		t.failed++ // it didn't compile, or died outside any test
	}
	fmt.Fprint(t.out, t.builds[e.FailedBuild])
	delete(t.builds, e.FailedBuild)
	for _, o := range p.output {
		if p.shown(o, e.Action == "fail") {
			fmt.Fprint(t.out, indent(o), o.Output)
		}
	}
}

// shown says whether go test prints this output: of a package that passed only
// the result line, of one that failed all that its passing tests didn't write.
func (p *pkg) shown(o event, failed bool) bool {
	if o.Test == "" && !failed {
		return strings.HasPrefix(o.Output, "ok ") || strings.HasPrefix(o.Output, "? ")
	}
	outcome := p.outcome[o.Test]
	return failed && outcome != "pass" && outcome != "skip" && !strings.HasPrefix(o.Output, "=== ")
}

// indent is what go test puts before the lines of subtests, and -json leaves out.
func indent(o event) string {
	if strings.HasPrefix(o.Output, "--- ") || strings.HasPrefix(o.Output, "    ") {
		return strings.Repeat("    ", strings.Count(o.Test, "/"))
	}
	return ""
}

func (p *pkg) failedBelow(test string) bool {
	for name, outcome := range p.outcome {
		if outcome == "fail" && strings.HasPrefix(name, test+"/") {
			return true
		}
	}
	return false
}

// where is how testing begins what a test logs: "    file_test.go:12: ".
var where = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// reason is the last thing that a test said, which is why it skipped itself.
func (p *pkg) reason(test string) string {
	var said []string
	for _, o := range p.output {
		if o.Test != test || strings.HasPrefix(o.Output, "--- ") || strings.HasPrefix(o.Output, "=== ") {
			continue
		}
		if prefix := where.FindString(o.Output); prefix != "" {
			said, o.Output = nil, o.Output[len(prefix):]
		}
		said = append(said, strings.Fields(o.Output)...)
	}
	return cmp.Or(strings.Join(said, " "), "no reason given")
}

// close prints what was skipped, and the counts as the last line.
func (t *tally) close() {
	reasons := slices.SortedFunc(maps.Keys(t.skips), func(a, b string) int {
		return cmp.Or(cmp.Compare(t.skips[b], t.skips[a]), cmp.Compare(a, b))
	})
	noIPv6 := 0
	for _, reason := range reasons {
		if strings.Contains(reason, "no IPv6") {
			noIPv6 += t.skips[reason]
		}
		fmt.Fprintf(t.out, "skipped %d: %s\n", t.skips[reason], reason)
	}
	t.unsteadily(t.out)
	line := fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
	if noIPv6 > 0 {
		line += fmt.Sprintf(" (%d for want of IPv6)", noIPv6)
	}
	if len(t.unsteady) > 0 {
		line += fmt.Sprintf("; %d of them UNSTEADY", len(t.unsteady))
	}
	if t.note != "" {
		line += "; " + t.note
	}
	fmt.Fprintln(t.out, line)
}
