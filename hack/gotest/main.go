// Command gotest runs the module's tests in one go and prints go test's own
// result lines, what was skipped and why, and a closing line with the counts. It
// exits with 1 unless all of them passed.
//
//	go run ./hack/gotest [unit | lab | olm]
//
// Two kinds of packages want different treatment. Most run side by side under
// the race detector. Those that make network namespaces, start control planes and
// measure time (lab, datapath, test) run one package at a time, without the race
// detector and never from go's cache, which cannot know the kernel or the
// programs that they start.
//
// test/olm wants programs that take minutes to build, and runs only when asked for.
//
// $PORTREEVE_SCALE=soak tries properties on many more inputs, kills the manager at
// every point that test/crash knows, and lifts go test's time limit.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

const module = "github.com/portreeve/portreeve"

// packaging is the folder of a module of its own, whose tests belong to ours.
const packaging = "hack/packaging"

// withOLM needs programs of hack/olm.
const withOLM = module + "/test/olm"

func main() {
	only := ""
	if len(os.Args) > 1 {
		only = os.Args[1]
	}
	if len(os.Args) > 2 || !slices.Contains([]string{"", "unit", "lab", "olm"}, only) {
		fmt.Fprintln(os.Stderr, "usage: go run ./hack/gotest [unit | lab | olm]")
		os.Exit(2)
	}
	// Ctrl-C reaches the tests as well, which then clean up: wait for them.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)

	ok, err := run(only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	if !ok || err != nil || len(interrupted) > 0 {
		os.Exit(1)
	}
}

// run says whether all tests passed; an error is whatever kept them from running.
func run(only string) (bool, error) {
	unit, lab, err := packages()
	if err != nil {
		return false, err
	}
	soak := os.Getenv("PORTREEVE_SCALE") == "soak"
	limit := "-timeout=40m"
	if soak {
		limit = "-timeout=6h"
	}

	tally := newTally(os.Stdout)
	tally.again = !soak
	var errs []error
	if only == "olm" {
		lab = []string{withOLM}
	}
	if only == "" || only == "unit" {
		race := []string{"-race"}
		if !canRace() {
			race, tally.note = nil, "without the race detector: no C compiler (apt-get install gcc libc6-dev)"
		}
		errs = append(errs, gotest(tally, append(race, limit), unit))
		// What they read lies outside their module, where go's cache does not look.
		errs = append(errs, gotest(tally, []string{"-count=1"}, []string{"./..."}, "-C", packaging))
		if soak { // the properties once more, on many more inputs
			errs = append(errs, gotest(tally, []string{"-run=Test", limit}, append(withProperties(unit), "-rapid.checks="+soakChecks)))
		}
	}
	if only != "unit" {
		// -p 1 would also compile one package at a time: do that beforehand.
		compile := goCommand(append([]string{"list", "-test", "-deps", "-export"}, lab...)...)
		compile.Stderr = nil // go test repeats what doesn't compile
		_ = compile.Run()
		errs = append(errs, gotest(tally, []string{"-p=1", "-count=1", limit}, lab))
	}
	errs = append(errs, tally.settle(onceMore))
	tally.close()
	return tally.failed == 0, errors.Join(errs...)
}

// onceMore runs a package's failed tests again, as they were run before, each time in
// a process of its own: scenes of one process share a cluster.
func onceMore(tally *tally, s suspended) error {
	run := fmt.Sprintf("-run=^(%s)$", strings.Join(s.tests, "|"))
	for range timesAgain {
		if err := gotest(tally, append(slices.Clone(s.flags), run, "-count=1"), []string{s.end.Package}); err != nil || tally.failed > 0 {
			return err
		}
	}
	return nil
}

// packages are the two kinds of packages of the module.
func packages() (unit, lab []string, err error) {
	list := goCommand("list", module+"/...")
	out, err := list.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go list: %w", err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		top, _, _ := strings.Cut(strings.TrimPrefix(pkg, module+"/"), "/")
		switch {
		case pkg == withOLM: // when asked for
		case slices.Contains([]string{"lab", "datapath", "test"}, top):
			lab = append(lab, pkg)
		default:
			unit = append(unit, pkg)
		}
	}
	return unit, lab, nil
}

// soakChecks is how many inputs a property is tried on in a soak; go test's is 100.
const soakChecks = "20000"

// withProperties are the packages whose tests take rapid's flags.
func withProperties(pkgs []string) []string {
	format := `{{range .TestImports}}{{if eq . "pgregory.net/rapid"}}{{$.ImportPath}}{{end}}{{end}}` +
		`{{range .XTestImports}}{{if eq . "pgregory.net/rapid"}}{{$.ImportPath}}{{end}}{{end}}`
	out, err := goCommand(append([]string{"list", "-f", format}, pkgs...)...).Output()
	if err != nil {
		return nil // go test itself will say what is wrong
	}
	return strings.Fields(string(out))
}

// gotest runs one go test, by go with the flags before, and counts its results. A test
// that fails is a result, not an error.
func gotest(tally *tally, flags, pkgs []string, before ...string) error {
	cmd := goCommand(slices.Concat(before, []string{"test", "-json"}, flags, pkgs)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	tally.flags = flags
	failed, held := tally.failed, len(tally.suspended)
	readErr := tally.read(out)
	if readErr != nil {
		_, _ = io.Copy(io.Discard, out) // so that go test can end
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && (tally.failed > failed || len(tally.suspended) > held) {
		err = nil // told, and counted
	}
	return errors.Join(readErr, err)
}

// goCommand is the go command with its complaints passed on.
func goCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// canRace tries what the race detector needs beside Go: a C compiler and the C
// library's headers.
func canRace() bool {
	cc, err := exec.Command("go", "env", "CC").Output()
	words := strings.Fields(string(cc))
	if err != nil || len(words) == 0 {
		return false
	}
	try := exec.Command(words[0], append(words[1:], "-x", "c", "-o", os.DevNull, "-")...)
	try.Stdin = bytes.NewBufferString("#include <stdlib.h>\nint main(void) { return 0; }\n")
	return try.Run() == nil
}
