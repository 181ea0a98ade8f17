package scrape

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

const (
	// remembered is how long an answer of the API server stands: a right that is taken away,
	// or a token that is revoked, counts that long.
	remembered = time.Minute
	// refused is how long a refusal stands.
	refused = 10 * time.Second
	// Tokens that nobody has seen are asked for at this pace: who floods us must not
	// flood the API server.
	perSecond, burst = 2, 10
	// most answers that are remembered.
	most = 1024
	// patience with the API server.
	patience = 10 * time.Second
)

// Gate lets those through who may read a path.
type Gate struct {
	tokens  authenticationclient.TokenReviewInterface
	rights  authorizationclient.SubjectAccessReviewInterface
	limiter *rate.Limiter
	now     func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]answer
}

// answer is the status of whoever showed a token, 200 for whom may.
type answer struct {
	status int
	until  time.Time
}

// New returns a gate that asks the API server of config.
func New(config *rest.Config, web *http.Client) (*Gate, error) {
	tokens, err := authenticationclient.NewForConfigAndClient(config, web)
	if err != nil {
		return nil, err
	}
	rights, err := authorizationclient.NewForConfigAndClient(config, web)
	if err != nil {
		return nil, err
	}
	return &Gate{
		tokens: tokens.TokenReviews(), rights: rights.SubjectAccessReviews(),
		limiter: rate.NewLimiter(perSecond, burst), now: time.Now, known: map[[sha256.Size]byte]answer{},
	}, nil
}

// Before puts the gate before a handler. An API server that does not answer lets nobody
// through.
func (g *Gate) Before(log logr.Logger, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, err := g.judge(r)
		if err != nil {
			log.Error(err, "nobody knows who asks for metrics")
		}
		if status != http.StatusOK {
			http.Error(w, http.StatusText(status), status)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

func (g *Gate) judge(r *http.Request) (int, error) {
	token, is := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token = strings.TrimSpace(token); !is || token == "" {
		return http.StatusUnauthorized, nil
	}
	key := sha256.Sum256([]byte(strings.Join([]string{r.Method, r.URL.Path, token}, "\x00")))
	now := g.now()
	g.mu.Lock()
	have, ok := g.known[key]
	g.mu.Unlock()
	if ok && now.Before(have.until) {
		return have.status, nil
	}
	if !g.limiter.AllowN(now, 1) {
		return http.StatusTooManyRequests, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	status, err := g.ask(ctx, token, strings.ToLower(r.Method), r.URL.Path)
	if err != nil {
		return http.StatusInternalServerError, err
	}
	stands := refused
	if status == http.StatusOK {
		stands = remembered
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= most {
		clear(g.known)
	}
	g.known[key] = answer{status: status, until: now.Add(stands)}
	return status, nil
}

// ask has the API server say who shows the token, and whether he may.
func (g *Gate) ask(ctx context.Context, token, verb, path string) (int, error) {
	who, err := g.tokens.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("ask whose a token is: %w", err)
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range who.Status.User.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	may, err := g.rights.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: who.Status.User.Username, UID: who.Status.User.UID, Groups: who.Status.User.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: verb},
	}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("ask what %s may: %w", who.Status.User.Username, err)
	}
	if !may.Status.Allowed {
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
