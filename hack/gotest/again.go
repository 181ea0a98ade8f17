package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// A test that failed is run three times more, alone, and if it passes each time it is
// called unsteady rather than failed: its first output is shown, it is named in the
// closing line, and somebody has to look into it. What runs real kernels, control planes
// and other people's programs by the hour meets a moment now and then that nobody wrote
// down. There is no second chance where chance must not matter: for a data race, a panic,
// a packet that passed and must not have (breach), in the packages that look for just
// that, in a soak, and for more than two tests in a run.
const (
	mostUnsteady = 2
	timesAgain   = 3
	// breach begins what a test says of a packet that was let through.
	breach = "BREACH"
)

// exact are the packages whose failures stand, however rare.
var exact = []string{"datapath", "hack", "test/churn", "test/crash", "test/model"}

// suspended is a package that failed, until it is known whether it will again.
type suspended struct {
	*pkg
	end   event    // with which it ended
	tests []string // that failed, without their subtests
	flags []string // of its go test
}

// suspends takes a failure for one that may be a moment's.
func (t *tally) suspends(p *pkg, end event) bool {
	path := strings.TrimPrefix(end.Package, module+"/")
	tests := p.failedTests()
	if !t.again || end.Action != "fail" || len(tests) == 0 || len(tests) > mostUnsteady || slices.ContainsFunc(exact, func(e string) bool {
		return path == e || strings.HasPrefix(path, e+"/")
	}) {
		return false
	}
	for _, o := range p.output {
		for _, grave := range []string{"WARNING: DATA RACE", "panic: ", breach} {
			if strings.Contains(o.Output, grave) {
				return false
			}
		}
	}
	t.suspended = append(t.suspended, suspended{pkg: p, end: end, tests: tests, flags: t.flags})
	return true
}

// failedTests are those that failed, without their subtests, sorted.
func (p *pkg) failedTests() (tests []string) {
	for test, outcome := range p.outcome {
		if outcome == "fail" && !strings.Contains(test, "/") {
			tests = append(tests, test)
		}
	}
	slices.Sort(tests)
	return tests
}

// settle decides what was suspended; run runs the tests of a package once more, as often
// as timesAgain says, and counts them.
func (t *tally) settle(run func(t *tally, s suspended) error) error {
	held, number := t.suspended, 0
	t.suspended, t.again = nil, false
	for _, s := range held {
		number += len(s.tests)
	}
	for _, s := range held {
		if number > mostUnsteady {
			t.finish(s.pkg, s.end)
			continue
		}
		fmt.Fprintf(t.out, "failed, now %d times more: %s %s\n", timesAgain, s.end.Package, strings.Join(s.tests, " "))
		once := newTally(t.out)
		if err := run(once, s); err != nil {
			return err
		}
		if once.failed > 0 || once.passed < timesAgain*len(s.tests) {
			t.finish(s.pkg, s.end)
			continue
		}
		t.forgive(s)
	}
	return nil
}

// forgive counts the package as passed, and says how its tests had failed.
func (t *tally) forgive(s suspended) {
	for _, test := range s.tests {
		t.unsteady = append(t.unsteady, strings.TrimPrefix(s.end.Package, module+"/")+" "+test)
	}
	for _, o := range s.output {
		if s.shown(o, true) && o.Test != "" {
			fmt.Fprint(t.out, "unsteady | ", indent(o), strings.TrimRight(o.Output, "\n"), "\n")
		}
	}
	for test, outcome := range s.outcome {
		if outcome == "fail" {
			s.outcome[test] = "pass"
		}
	}
	t.count(s.pkg)
}

// unsteadily is what close says of the tests that passed in the end.
func (t *tally) unsteadily(w io.Writer) {
	for _, test := range t.unsteady {
		fmt.Fprintf(w, "UNSTEADY, failed once and then passed %d times: %s\n", timesAgain, test)
	}
}
