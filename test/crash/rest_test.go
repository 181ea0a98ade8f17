package crash

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// wish is what must be so in a pool when everything has come to rest.
type wish struct {
	// served are the policies with a port, with the clients they name.
	served map[claimant][]string
	// waiting are the policies for which no port is left.
	waiting []claimant
	// resting are deleted policies whose ports are closed and not yet free.
	resting []claimant
	// stood: the squatter's Service stands, and is passed as it ever was.
	stood bool
}

// claimant is a policy: its team and its name.
type claimant struct{ team, policy string }

// routes are who may be answered by whom.
func (w wish) routes() map[route]bool {
	may := map[route]bool{}
	for c, sources := range w.served {
		for _, s := range sources {
			may[route{s, c.team}] = true
		}
	}
	for c := range clients {
		may[route{c, squatter}] = w.stood
	}
	return may
}

// scene is what was read at one moment, of the numbers of one pool.
type scene struct {
	register map[uint16]*v1alpha1.NodePortAllocation
	holders  map[uint16][]*corev1.Service
	free     map[uint16]bool // held for nobody, by a hold
	ground   ground
	policies map[claimant]*v1alpha1.NodePortPolicy
	pool     *v1alpha1.NodePortPool
	reports  []v1alpha1.NodeDatapath
}

// ground is a pool and the numbers that are its own.
type ground struct {
	pool        string
	first, size uint16
}

func (g ground) has(n uint16) bool { return g.first <= n && n < g.first+g.size }

// look reads the register before the Services: who holds a number in the API
// server must be in the register, also when it was read a moment earlier.
func (g ground) look(ctx context.Context) (scene, error) {
	s := scene{ground: g, free: map[uint16]bool{}, register: map[uint16]*v1alpha1.NodePortAllocation{}, holders: map[uint16][]*corev1.Service{}, policies: map[claimant]*v1alpha1.NodePortPolicy{}}
	var allocations v1alpha1.NodePortAllocationList
	var services corev1.ServiceList
	var policies v1alpha1.NodePortPolicyList
	var reports v1alpha1.NodeDatapathList
	s.pool = &v1alpha1.NodePortPool{}
	err := errors.Join(town.Client.List(ctx, &allocations), town.Client.List(ctx, &services), town.Client.List(ctx, &policies),
		town.Client.List(ctx, &reports), town.Client.Get(ctx, client.ObjectKey{Name: g.pool}, s.pool))
	for i := range allocations.Items {
		if n := number(allocations.Items[i].Name); g.has(n) {
			s.register[n] = &allocations.Items[i]
		}
	}
	for i := range services.Items {
		for _, p := range services.Items[i].Spec.Ports {
			switch n := uint16(p.NodePort); {
			case !g.has(n):
			case services.Items[i].Labels[v1alpha1.LabelHold] == "true":
				s.free[n] = true
			default:
				s.holders[n] = append(s.holders[n], &services.Items[i])
			}
		}
	}
	for i := range policies.Items {
		if p := &policies.Items[i]; p.Spec.Category == g.pool {
			s.policies[claimant{p.Namespace, p.Name}] = p
		}
	}
	s.reports = reports.Items
	return s, err
}

func number(name string) uint16 {
	n, _ := strconv.ParseUint(name, 10, 16) // a name that is no number is in no pool
	return uint16(n)
}

// atRest returns the number of each claimant, or why things are not as wished.
func (g ground) atRest(ctx context.Context, w wish) (map[claimant]uint16, error) {
	s, err := g.look(ctx)
	if err != nil {
		return nil, err
	}
	if !isTrue(s.pool.Status.Conditions, v1alpha1.Ready, s.pool.Generation) {
		return nil, fmt.Errorf("the pool is not ready: %+v", s.pool.Status)
	}
	numbers, err := s.claims(w)
	if err != nil {
		return nil, err
	}
	return numbers, errors.Join(s.held(), s.told(w, numbers), s.proved(), g.inCloud(w, numbers))
}

// claims compares the register with the wish: each policy has one entry, in the
// right state and with the right sources, and nothing else is there.
func (s scene) claims(w wish) (map[claimant]uint16, error) {
	numbers, stood := map[claimant]uint16{}, false
	for n, a := range s.register {
		c := claimant{a.Spec.Claim.Namespace, a.Spec.Claim.Policy}
		sources, served := w.served[c]
		switch {
		case a.Spec.State == v1alpha1.AllocationForeign && c.team == squatter && a.Spec.Grandfathered && w.stood && !stood:
			stood = true
			continue
		case numbers[c] != 0:
			return nil, fmt.Errorf("%v holds %d and %d", c, numbers[c], n)
		case served && a.Spec.State == v1alpha1.AllocationOpen && admits(a, sources):
		case slices.Contains(w.resting, c) && a.Spec.State == v1alpha1.AllocationClosed && admits(a, nil):
		default:
			return nil, fmt.Errorf("the register says of %d: %+v", n, a.Spec)
		}
		numbers[c] = n
	}
	if len(numbers) != len(w.served)+len(w.resting) || stood != w.stood {
		return nil, fmt.Errorf("the register has %v (squatter: %t), want %v and %v (squatter: %t)", numbers, stood, w.served, w.resting, w.stood)
	}
	return numbers, nil
}

func admits(a *v1alpha1.NodePortAllocation, sources []string) bool {
	var want, have []string
	for _, s := range sources {
		want = append(want, networks[s].String())
	}
	for _, p := range a.Spec.Ports {
		for _, s := range p.Sources {
			have = append(have, string(s))
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	return slices.Equal(want, have)
}

// held compares Services with the register: each number is in exactly the one
// Service that its entry names, and serves exactly if it is not closed; one that has
// no entry is held for nobody.
func (s scene) held() error {
	for n := s.ground.first; n < s.ground.first+s.ground.size; n++ {
		if holds := s.pool.Spec.Hold == nil || *s.pool.Spec.Hold; s.free[n] != (holds && s.register[n] == nil) {
			return fmt.Errorf("%d is held for nobody: %t, and the register says %v", n, s.free[n], s.register[n])
		}
	}
	for n, services := range s.holders {
		if len(services) != 1 || s.register[n] == nil {
			return fmt.Errorf("%d is held by %d Services, the register says %v", n, len(services), s.register[n])
		}
	}
	for n, a := range s.register {
		if len(s.holders[n]) != 1 {
			return fmt.Errorf("no Service holds %d", n)
		}
		holder, want := s.holders[n][0], a.Spec.Claim.Service
		if a.Spec.Claim.Policy != "" {
			want = a.Spec.Claim.Policy + v1alpha1.CompanionSuffix
		}
		if holder.Namespace != a.Spec.Claim.Namespace || holder.Name != want {
			return fmt.Errorf("%d is held by Service %s/%s, the register says %+v", n, holder.Namespace, holder.Name, a.Spec.Claim)
		}
		if serves := len(holder.Spec.Selector) > 0; serves != (a.Spec.State != v1alpha1.AllocationClosed) {
			return fmt.Errorf("%d is %s, and its Service has the selector %v", n, a.Spec.State, holder.Spec.Selector)
		}
	}
	return nil
}

// told compares what the policies say with the register.
func (s scene) told(w wish, numbers map[claimant]uint16) error {
	if len(s.policies) != len(w.served)+len(w.waiting) {
		return fmt.Errorf("there are %d policies, want %v and %v", len(s.policies), w.served, w.waiting)
	}
	for c := range w.served {
		p := s.policies[c]
		if !isTrue(p.Status.Conditions, v1alpha1.Ready, p.Generation) || len(p.Status.Allocations) != 1 || uint16(p.Status.Allocations[0].NodePort) != numbers[c] {
			return fmt.Errorf("policy %v is not Ready on %d: %+v", c, numbers[c], p.Status)
		}
	}
	for _, c := range w.waiting {
		p := s.policies[c]
		allocated := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.Allocated)
		if allocated == nil || allocated.Reason != v1alpha1.ReasonExhausted || len(p.Status.Allocations) != 0 {
			return fmt.Errorf("policy %v is not told that it waits: %+v", c, p.Status)
		}
	}
	return nil
}

// proved waits for the agents: each has reported as far as the pool and the
// register go.
func (s scene) proved() error {
	if len(s.reports) != len(town.Nodes()) {
		return fmt.Errorf("%d nodes have reported", len(s.reports))
	}
	for _, r := range s.reports {
		if !reaches(r.Status.Marks.Pools, s.pool) {
			return fmt.Errorf("%s has reported pools up to %s, and %s is at %s", r.Name, r.Status.Marks.Pools, s.pool.Name, s.pool.ResourceVersion)
		}
		for _, a := range s.register {
			if !reaches(r.Status.Marks.Allocations, a) {
				return fmt.Errorf("%s has reported allocations up to %s, and %s is at %s", r.Name, r.Status.Marks.Allocations, a.Name, a.ResourceVersion)
			}
		}
	}
	return nil
}

func reaches(mark string, o client.Object) bool {
	order, err := resourceversion.CompareResourceVersion(mark, o.GetResourceVersion())
	return err == nil && order >= 0
}

// inCloud compares the security group, rule by rule, with the wish; what others
// have there must be untouched.
func (g ground) inCloud(w wish, numbers map[claimant]uint16) error {
	type atom struct {
		number uint16
		source netip.Prefix
	}
	want, have, foreign := map[atom]bool{}, map[atom]bool{}, []rule.Rule{}
	for c, sources := range w.served {
		for _, s := range sources {
			want[atom{numbers[c], networks[s]}] = true
		}
	}
	for _, r := range account.Rules(stage.Group) {
		if r.Owner == "" {
			foreign = append(foreign, r.Rule)
			continue
		}
		for n := int(r.Ports.First); n <= int(r.Ports.Last); n++ {
			a := atom{uint16(n), r.Source}
			if r.Protocol != rule.TCP || have[a] || !want[a] {
				return fmt.Errorf("the cloud admits %+v, want %v", r, want)
			}
			have[a] = true
		}
	}
	if len(have) != len(want) {
		return fmt.Errorf("the cloud admits %v, want %v", have, want)
	}
	if theirs := foreignRules(); !slices.Equal(foreign, theirs) {
		return fmt.Errorf("rules of others are %v, were %v", foreign, theirs)
	}
	return nil
}

func foreignRules() []rule.Rule {
	var out []rule.Rule
	for _, r := range stage.Foreign {
		out = append(out, r.Rule)
	}
	slices.SortFunc(out, rule.CompareRules)
	return out
}

func isTrue(conditions []metav1.Condition, kind string, generation int64) bool {
	c := meta.FindStatusCondition(conditions, kind)
	return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == generation
}

// inKernel asks every number on every node from every client. What must be silent
// must be so at once, since the nodes have reported it; what must be answered may
// wait for kube-proxy, so the caller may ask again: again says so.
func (g ground) inKernel(ctx context.Context, w wish, numbers map[claimant]uint16) (again, wrong error) {
	want := map[uint16]map[string]string{} // number, client: pod
	for c, sources := range w.served {
		want[numbers[c]] = map[string]string{}
		for _, s := range sources {
			want[numbers[c]][s] = c.team
		}
	}
	if w.stood {
		want[g.stood()] = map[string]string{office: squatter, street: squatter, partner: squatter, stranger: squatter}
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for n := g.first; n < g.first+g.size; n++ {
		for c := range clients {
			for _, node := range town.Nodes() {
				all.Go(func() {
					pod := want[n][c]
					timeout := 5 * patience
					if pod != "" {
						timeout = time.Second
					}
					a := ask(ctx, c, node, n, timeout)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case pod == "" && a.Outcome != lab.TimedOut, pod != "" && a.Outcome == lab.Answered && a.Pod != pod:
						wrong = errors.Join(wrong, fmt.Errorf("%s on %s:%d: %s, want %q", c, node.Name, n, a, pod))
					case pod != "" && a.Outcome != lab.Answered:
						again = errors.Join(again, fmt.Errorf("%s on %s:%d: %s, want %q", c, node.Name, n, a, pod))
					}
				})
			}
		}
	}
	all.Wait()
	return again, wrong
}

// stood is the number on which the squatter's Service stood before the pool.
func (g ground) stood() uint16 { return g.first + g.size - 1 }
