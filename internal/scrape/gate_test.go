package scrape

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

// town is an API server that knows two tokens: one of who may, one of who may not.
type town struct {
	*Gate
	asked int
	fails error
	at    time.Time
}

func open(t *testing.T) *town {
	t.Helper()
	u := &town{at: time.Unix(1_800_000_000, 0)}
	c := fake.NewClientset()
	c.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		u.asked++
		review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		review.Status.Authenticated = strings.HasPrefix(review.Spec.Token, "may")
		review.Status.User.Username = review.Spec.Token
		return true, review, u.fails
	})
	c.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		n := review.Spec.NonResourceAttributes
		review.Status.Allowed = review.Spec.User == "may" && n != nil && n.Verb == "get" && n.Path == "/metrics"
		return true, review, nil
	})
	gate, err := New(&rest.Config{Host: "https://127.0.0.1:1"}, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	gate.tokens, gate.rights = c.AuthenticationV1().TokenReviews(), c.AuthorizationV1().SubjectAccessReviews()
	gate.limiter, gate.now = rate.NewLimiter(perSecond, burst), func() time.Time { return u.at }
	u.Gate = gate
	return u
}

func (u *town) get(t *testing.T, path, authorization string) int {
	t.Helper()
	served := false
	handler := u.Before(logr.Discard(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if served != (w.Code == http.StatusOK) {
		t.Errorf("%s with %q: served %t, status %d", path, authorization, served, w.Code)
	}
	return w.Code
}

func TestWhoMayRead(t *testing.T) {
	for _, c := range []struct {
		path, authorization string
		want                int
	}{
		{"/metrics", "", http.StatusUnauthorized},
		{"/metrics", "Bearer ", http.StatusUnauthorized},
		{"/metrics", "Basic may", http.StatusUnauthorized},
		{"/metrics", "Bearer stranger", http.StatusUnauthorized},
		{"/metrics", "Bearer may not", http.StatusForbidden},
		{"/metrics", "Bearer may", http.StatusOK},
		{"/debug", "Bearer may", http.StatusForbidden},
	} {
		if got := open(t).get(t, c.path, c.authorization); got != c.want {
			t.Errorf("%s with %q: %d, want %d", c.path, c.authorization, got, c.want)
		}
	}
}

// An API server that does not answer lets nobody through, and is asked again.
func TestNobodyReadsWhileNobodyKnows(t *testing.T) {
	u := open(t)
	u.fails = errors.New("broken")
	if got := u.get(t, "/metrics", "Bearer may"); got != http.StatusInternalServerError {
		t.Errorf("%d", got)
	}
	u.fails = nil
	if got := u.get(t, "/metrics", "Bearer may"); got != http.StatusOK {
		t.Errorf("%d", got)
	}
}

// One who reads every few seconds costs two requests a minute, and one who tries tokens
// is not passed on for each.
func TestTheAPIServerIsSpared(t *testing.T) {
	u := open(t)
	for range 10 {
		u.get(t, "/metrics", "Bearer may")
		u.at = u.at.Add(remembered / 10)
	}
	if u.asked != 1 {
		t.Errorf("asked %d times within a minute", u.asked)
	}
	if u.get(t, "/metrics", "Bearer may"); u.asked != 2 {
		t.Errorf("asked %d times in two minutes", u.asked)
	}
	u.at = u.at.Add(refused) // the pace is found again
	codes := map[int]int{}
	for i := range 100 {
		codes[u.get(t, "/metrics", "Bearer "+strings.Repeat("x", i+1))]++
	}
	if codes[http.StatusUnauthorized] != burst || codes[http.StatusTooManyRequests] != 100-burst {
		t.Errorf("%v", codes)
	}
	if got := u.get(t, "/metrics", "Bearer may"); got != http.StatusOK {
		t.Errorf("who is known gets %d in the flood", got)
	}
}
