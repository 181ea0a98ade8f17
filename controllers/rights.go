package controllers

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// A Right is what the manager needs for some policies only, in all namespaces. It is
// given by a ClusterRole of its own, which is bound by whoever wants that.
type Right struct{ ClusterRole, Group, Resource string }

// The rights that a manager may lack; config/rbac/optional.yaml has their ClusterRoles.
var (
	ForFronts          = Right{ClusterRole: "portreeve-manager-fronts", Resource: "configmaps"}
	ForRecords         = Right{ClusterRole: "portreeve-manager-records", Group: compile.DNSEndpoint.Group, Resource: "dnsendpoints"}
	ForNetworkPolicies = Right{ClusterRole: "portreeve-manager-networkpolicies", Group: "networking.k8s.io", Resource: "networkpolicies"}
)

// verbs of a Right. Those that an informer needs come first: without them it would never
// have synced. What is not ours is looked at past the cache, but for NetworkPolicies,
// which are all in it.
func (right Right) verbs() []string {
	if right == ForNetworkPolicies {
		return []string{"list", "watch", "create", "update", "delete"}
	}
	return []string{"list", "watch", "get", "create", "update", "delete"}
}

// askRightsEvery is how often it is looked whether a right that was missing is there.
const askRightsEvery = time.Minute

// Rights knows which rights the manager has, by asking the API server: those it has
// once, those it lacks every so often. Nothing is asked unless somebody needs it. Nil
// Rights have all.
type Rights struct {
	// Client asks; it needs no right for that.
	Client client.Client
	// Namespace is our own.
	Namespace string
	// Every is how often to ask again; askRightsEvery when zero.
	Every time.Duration
	Now   func() time.Time

	mu     sync.Mutex
	known  map[Right]standing
	begins map[Right][]func() error
	// changed hears when a right has come or gone.
	changed chan event.GenericEvent
}

// NewRights returns some of which nothing is known.
func NewRights(c client.Client, namespace string, every time.Duration, now func() time.Time) *Rights {
	return &Rights{
		Client: c, Namespace: namespace, Every: every, Now: now,
		known: map[Right]standing{}, begins: map[Right][]func() error{}, changed: make(chan event.GenericEvent, 1),
	}
}

// standing is what was said of a right, and when.
type standing struct {
	lacks   *compile.Refusal
	at      time.Time
	doubted bool
}

// Begin has begin called once, when the right is there: a watch that may not be made
// would never sync, and end the manager.
func (r *Rights) Begin(right Right, begin func() error) error {
	if r == nil {
		return begin()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begins[right] = append(r.begins[right], begin)
	return nil
}

// Lacks says that a right is missing, and the line that grants it; nil when it is there.
func (r *Rights) Lacks(ctx context.Context, right Right) (*compile.Refusal, error) {
	if r == nil {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	have, asked := r.known[right]
	if !asked || have.doubted || have.lacks != nil && r.Now().Sub(have.at) >= r.every() {
		lacks, err := r.ask(ctx, right)
		if err != nil {
			return nil, err
		}
		if asked && (have.lacks == nil) != (lacks == nil) {
			select { // one is enough for all
			case r.changed <- event.GenericEvent{Object: &v1alpha1.Portreeve{}}:
			default:
			}
		}
		have = standing{lacks: lacks, at: r.Now()}
		r.known[right] = have
	}
	for have.lacks == nil && len(r.begins[right]) > 0 {
		if err := r.begins[right][0](); err != nil {
			return nil, err
		}
		r.begins[right] = r.begins[right][1:]
	}
	return have.lacks, nil
}

// Next is when to look again at what a right is missing for.
func (r *Rights) Next(right Right) time.Duration {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	have, asked := r.known[right]
	if !asked || have.lacks == nil { // it has come meanwhile
		return retrySoon
	}
	return max(have.at.Add(r.every()).Sub(r.Now()), retrySoon)
}

// Doubt has a right asked for anew, after the API server has refused something.
func (r *Rights) Doubt(right Right) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, asked := r.known[right]; asked && have.lacks == nil {
		have.doubted = true
		r.known[right] = have
	}
}

func (r *Rights) every() time.Duration {
	if r.Every == 0 {
		return askRightsEvery
	}
	return r.Every
}

// ask ends with the first verb that is missing.
func (r *Rights) ask(ctx context.Context, right Right) (*compile.Refusal, error) {
	for _, verb := range right.verbs() {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: right.Group, Resource: right.Resource, Verb: verb},
		}}
		err := r.Client.Create(ctx, review)
		if apierrors.IsForbidden(err) {
			return nil, nil // nobody may ask here, so what is refused will tell
		}
		if err != nil {
			return nil, err
		}
		if !review.Status.Allowed {
			return right.refuse(verb, r.Namespace), nil
		}
	}
	return nil, nil
}

// refuse names what is missing, and the line with which an administrator grants it.
func (right Right) refuse(verb, namespace string) *compile.Refusal {
	return &compile.Refusal{Reason: v1alpha1.ReasonForbidden, Message: fmt.Sprintf(
		"the manager may not %s %s; ask the platform team to grant it: kubectl create clusterrolebinding %s --clusterrole=%[3]s --serviceaccount=%s:portreeve-manager",
		verb, strings.TrimSuffix(right.Resource+"."+right.Group, "."), right.ClusterRole, namespace)}
}
