package crash

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/client-go/rest"
)

// moment says when, around a write, the trap springs.
type moment string

const (
	before moment = "before it arrives"
	after  moment = "after it is applied, before its answer"
	// late is for a writer that is not killed but paused: its write arrives when
	// crash returns, and the world has moved on.
	late moment = "late"
)

// A trap lies between managers and what they write to. It lets writes pass one
// at a time, so that at the crash exactly those before it have been applied; it
// springs once, at the chosen one.
//
// The zero trap never springs.
type trap struct {
	// crash kills the writer. It is called with the trap held: nothing passes
	// until it returns, and nothing of the dead passes afterwards.
	crash func()
	// lives counts the writers that have died here.
	lives atomic.Int32

	mu     sync.Mutex
	left   int    // it springs at the last of so many writes; 0: never
	of     string // only writes of this kind count; "" for all
	when   moment
	writes []string
	sprung string
}

// set arms the trap for the n-th write from now, and forgets those before.
func (t *trap) set(n int, when moment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left, t.of, t.when, t.writes, t.sprung = n, "", when, nil, ""
}

// setFor arms the trap for the first write of a kind from now.
func (t *trap) setFor(kind string, when moment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left, t.of, t.when, t.writes, t.sprung = 1, kind, when, nil, ""
}

// disarm returns the write at which the trap sprang, "" if it did not.
func (t *trap) disarm() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left = 0
	return t.sprung
}

// passed returns the writes that came since the trap was set.
func (t *trap) passed() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.writes)
}

// pass applies a write, or not; it says whether its writer lives to be answered.
func (t *trap) pass(what string, apply func()) bool {
	life := t.lives.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lives.Load() != life {
		return false // it was waiting here when its writer died
	}
	t.writes = append(t.writes, what)
	if t.left > 0 && (t.of == "" || t.of == what) {
		t.left--
		if t.left == 0 {
			return t.spring(what, apply)
		}
	}
	apply()
	return true
}

func (t *trap) spring(what string, apply func()) bool {
	if t.when == after {
		apply()
	}
	t.sprung = what
	t.lives.Add(1)
	t.crash()
	if t.when == late {
		apply()
	}
	return t.when == late
}

// errCrashed ends a request whose sender is dead.
var errCrashed = errors.New("the manager was killed at this write")

// trapped is a transport whose writes pass the trap.
type trapped struct {
	trap *trap
	next http.RoundTripper
}

func (t trapped) RoundTrip(r *http.Request) (answer *http.Response, err error) {
	if !isWrite(r) {
		return t.next.RoundTrip(r)
	}
	apply := func() { answer, err = t.next.RoundTrip(r) } //nolint:bodyclose // the proxy closes what it is given
	if !t.trap.pass(r.Method+" "+resource(r.URL.Path), apply) {
		if answer != nil {
			_ = answer.Body.Close()
		}
		return nil, errCrashed
	}
	return answer, err
}

// isWrite leaves out what is no part of the cluster's desired or reported state.
func isWrite(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		kind := resource(r.URL.Path)
		return kind != "leases" && kind != "events" && kind != "selfsubjectaccessreviews"
	}
	return false
}

// resource is the resource of a path of the API, with its subresource.
func resource(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	parts = parts[min(len(parts), map[string]int{"api": 2, "apis": 3}[parts[0]]):] // group and version
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	if len(parts) == 0 {
		return path
	}
	if len(parts) > 2 {
		return parts[0] + "/" + parts[2]
	}
	return parts[0]
}

// beforeCloud lets the calls that change a security group pass the trap.
func (t *trap) beforeCloud(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		form, _ := url.ParseQuery(string(body)) // what can't be read is refused by next
		action := form.Get("Action")
		if strings.HasPrefix(action, "Describe") {
			next.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		if !t.pass("EC2 "+action, func() { next.ServeHTTP(answer, r) }) {
			panic(http.ErrAbortHandler)
		}
		for key, values := range answer.Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// access returns a manager's access to the API server through the trap, and ends
// it.
func (t *trap) access(ctx context.Context) (*rest.Config, func(), error) {
	return town.Proxied(ctx, func(next http.RoundTripper) http.RoundTripper { return trapped{t, next} })
}
