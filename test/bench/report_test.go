package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// report prints where the time of an exposure goes, ours beside the bare peer's.
func report(b *testing.B, bare, ours *moments) {
	b.Helper()
	itself := func(name string) string { return name }
	companion := func(name string) string { return name + v1alpha1.CompanionSuffix }
	ready := ours.since(ours.ready, itself)
	goal(b, "apply -> all gates open and proved on three nodes, p50", at(ready, 50).Seconds(), "s", 1)
	goal(b, "apply -> all gates open and proved on three nodes, p99", at(ready, 99).Seconds(), "s", 1)
	b.ReportMetric(at(ready, 50).Seconds(), "gates-p50-s")
	b.ReportMetric(at(ready, 99).Seconds(), "gates-p99-s")

	reached, bareReached := ours.since(ours.answered, itself), bare.since(bare.answered, itself)
	sliced, bareSliced := ours.since(ours.sliced, companion), bare.since(bare.sliced, itself)
	for _, p := range []int{50, 99} {
		fmt.Printf("  reachable p%d %6.2f s, of which the EndpointSlice controller's slice came at %.2f s; bare NodePort Services %6.2f s (slice at %.2f s): ratio %.2f\n",
			p, at(reached, p).Seconds(), at(sliced, p).Seconds(), at(bareReached, p).Seconds(), at(bareSliced, p).Seconds(),
			at(reached, p).Seconds()/at(bareReached, p).Seconds())
	}
	b.ReportMetric(at(reached, 50).Seconds()/at(bareReached, 50).Seconds(), "reachable/bare")
}

// at returns the p-th percentile of sorted durations.
func at(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

// goal prints a figure beside its goal.
func goal(b *testing.B, what string, have float64, unit string, most float64) {
	b.Helper()
	verdict := "met"
	if have > most {
		verdict = "MISSED"
	}
	fmt.Printf("  %-70s %8.2f %-2s goal <= %g %s: %s\n", what, have, unit, most, unit, verdict)
}

// atLeast prints a figure beside a goal that it is to reach.
func atLeast(b *testing.B, what string, have, least float64) {
	b.Helper()
	verdict := "met"
	if have < least {
		verdict = "MISSED"
	}
	fmt.Printf("  %-70s %8.2f    goal >= %g: %s\n", what, have, least, verdict)
}

func note(what string, have float64, unit string) {
	fmt.Printf("  %-70s %8.2f %s\n", what, have, unit)
}

// counts are writes that the API server has answered; the manager's without the
// counters in a pool's status.
type counts struct {
	manager, agents int
	// kinds of the manager's writes: "update nodeportpolicies/status 409".
	kinds map[string]int
}

// spread prints the kinds of writes between two counts.
func spread(before, after counts) {
	var parts []string
	for kind, n := range after.kinds {
		if n -= before.kinds[kind]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, kind))
		}
	}
	slices.Sort(parts)
	fmt.Printf("  the manager's writes: %s\n", strings.Join(parts, ", "))
}

func count(b *testing.B) counts {
	b.Helper()
	file, err := os.Open(audit)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	n := counts{kinds: map[string]int{}}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			User           struct{ Username string }
			Verb           string
			ObjectRef      struct{ Resource, Subresource string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the last line may still be being written
		}
		switch {
		case strings.HasSuffix(e.User.Username, "-manager"):
			if e.ObjectRef.Resource != "nodeportpools" { // once a minute and pool, not by policy
				n.manager++
			}
			what := e.Verb + " " + e.ObjectRef.Resource
			if e.ObjectRef.Subresource != "" {
				what += "/" + e.ObjectRef.Subresource
			}
			if e.ResponseStatus.Code >= 300 {
				what += fmt.Sprintf(" (answered %d)", e.ResponseStatus.Code)
			}
			n.kinds[what]++
		case strings.HasSuffix(e.User.Username, "-agent"):
			n.agents++
		}
	}
	if err := lines.Err(); err != nil {
		b.Fatal(err)
	}
	return n
}
