package fleet

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger counts the writes of the manager by what they write, such as
// "nodeportpolicies/status". Leases and Events are left out: the former are written all
// the time, for the latter nobody waits. So are the statuses of pools, whose counters
// follow what was allocated within a minute.
type ledger struct {
	mu     sync.Mutex
	counts map[string]int
	last   time.Time
}

// wrap counts what passes.
func (l *ledger) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if what := written(r.Method, r.URL.Path); what != "" {
			l.mu.Lock()
			if l.counts == nil {
				l.counts = map[string]int{}
			}
			l.counts[what]++
			l.last = time.Now()
			l.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// written is the resource, and the subresource if there is one, that a request writes;
// "" if it writes none that counts.
func written(method, path string) string {
	if method == http.MethodGet {
		return ""
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/") // api or apis
	parts := strings.Split(rest, "/")
	if strings.HasPrefix(path, "/apis/") {
		parts = parts[1:] // the group
	}
	parts = parts[1:] // the version
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	what := parts[0]
	if len(parts) > 2 {
		what += "/" + parts[2]
	}
	if what == "leases" || what == "events" || what == "nodeportpools/status" || strings.HasSuffix(what, "reviews") {
		return ""
	}
	return what
}

func TestWritesAreNamed(t *testing.T) {
	for path, want := range map[string]string{
		"/apis/portreeve.dev/v1alpha1/namespaces/a/nodeportpolicies/b/status": "nodeportpolicies/status",
		"/apis/portreeve.dev/v1alpha1/gatewaysets/gw-1":                       "gatewaysets",
		"/apis/portreeve.dev/v1alpha1/gatewaysets":                            "gatewaysets",
		"/api/v1/namespaces/a/services":                                       "services",
		"/api/v1/namespaces/a":                                                "namespaces",
		"/apis/coordination.k8s.io/v1/namespaces/a/leases/b":                  "",
		"/apis/events.k8s.io/v1/namespaces/a/events":                          "",
		"/apis/portreeve.dev/v1alpha1/nodeportpools/a/status":                 "",
	} {
		if got := written(http.MethodPut, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if got := written(http.MethodGet, path); got != "" {
			t.Errorf("reading %s is writing %q", path, got)
		}
	}
}

// now returns what has been written so far.
func (l *ledger) now() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts)
}

// idle is how long nothing has been written.
func (l *ledger) idle() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.last)
}

// cost is what something took of the manager.
type cost struct {
	writes map[string]int
	looks  int // at policies
	cpu    time.Duration
}

func (c cost) String() string {
	var words []string
	for _, what := range slices.Sorted(maps.Keys(c.writes)) {
		words = append(words, fmt.Sprintf("%d %s", c.writes[what], what))
	}
	if len(words) == 0 {
		words = []string{"no writes"}
	}
	return fmt.Sprintf("%s; %d looks at policies, %d ms of CPU", strings.Join(words, ", "), c.looks, c.cpu.Milliseconds())
}

// total of the writes.
func (c cost) total() (n int) {
	for _, count := range c.writes {
		n += count
	}
	return n
}

// since is what was spent since an earlier reading.
func (c cost) since(before cost) cost {
	out := cost{writes: map[string]int{}, looks: c.looks - before.looks, cpu: c.cpu - before.cpu}
	for what, n := range c.writes {
		if n -= before.writes[what]; n > 0 {
			out.writes[what] = n
		}
	}
	return out
}

// plus is what two things cost together.
func (c cost) plus(d cost) cost {
	out := cost{writes: maps.Clone(c.writes), looks: c.looks + d.looks, cpu: c.cpu + d.cpu}
	for what, n := range d.writes {
		out.writes[what] += n
	}
	return out
}

// spent reads the meters.
func spent(t *testing.T) cost {
	t.Helper()
	return cost{writes: writes.now(), looks: looked(t, "policy"), cpu: cpu(t)}
}

var reconciled = regexp.MustCompile(`(?m)^controller_runtime_reconcile_total\{controller="([^"]*)",.*\} (\S+)$`)

// looked is how often a controller has looked at something.
func looked(t *testing.T, controller string) (sum int) {
	t.Helper()
	web := &http.Client{Transport: &http.Transport{DialContext: town.ControlPlane().DialContext, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:8080/metrics", nil)
	must(t, err)
	response, err := web.Do(request)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	for _, match := range reconciled.FindAllSubmatch(text, -1) {
		if string(match[1]) == controller {
			n, err := strconv.ParseFloat(string(match[2]), 64)
			must(t, err)
			sum += int(n)
		}
	}
	return sum
}

// cpu is how long processors have worked for the manager.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", town.Manager().PID))
	must(t, err)
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	ticks := 0
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(string(f))
		must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
