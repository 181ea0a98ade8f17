package compile

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/ports"
)

// scene is the input of a scenario.
type scene struct {
	pools        []v1alpha1.NodePortPool
	sets         []v1alpha1.AddressSet
	firewalls    []v1alpha1.CloudFirewall
	nodes        []*corev1.Node
	installation *v1alpha1.Portreeve
	namespace    map[string]string // labels of the policy's
	// policy is the one that is played, nil when it is gone; rivals are the others.
	policy      *v1alpha1.NodePortPolicy
	rivals      []v1alpha1.NodePortPolicy
	services    map[string]*corev1.Service
	allocations []v1alpha1.NodePortAllocation
	now         time.Time
	// firstTurn is which allocation is first brought up to date.
	firstTurn int
}

// clone shares what play does not change.
func (s scene) clone() *scene {
	s.pools, s.sets, s.rivals = slices.Clone(s.pools), slices.Clone(s.sets), slices.Clone(s.rivals)
	s.allocations, s.services = slices.Clone(s.allocations), maps.Clone(s.services)
	return &s
}

func readScene(t *testing.T, archive *txtar.Archive) scene {
	t.Helper()
	s := scene{services: map[string]*corev1.Service{}, now: clock}
	for _, f := range archive.Files {
		switch {
		case strings.HasPrefix(f.Name, "in/"):
			for doc := range strings.SplitSeq(string(f.Data), "\n---\n") {
				s.read(t, doc)
			}
		case f.Name == "now":
			var err error
			if s.now, err = time.Parse(time.RFC3339, strings.TrimSpace(string(f.Data))); err != nil {
				t.Fatal(err)
			}
		case f.Name != "expect" && f.Name != "want/result.yaml":
			t.Fatalf("unknown file %s", f.Name)
		}
	}
	return s
}

func (s *scene) read(t *testing.T, doc string) {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
		t.Fatal(err)
	}
	switch kind.Kind {
	case "NodePortPolicy":
		policy := decode[v1alpha1.NodePortPolicy](t, doc)
		if s.policy == nil {
			s.policy = &policy
		} else {
			s.rivals = append(s.rivals, policy)
		}
	case "Service":
		service := decode[corev1.Service](t, doc)
		s.services[service.Name] = &service
	case "Namespace":
		s.namespace = decode[corev1.Namespace](t, doc).Labels
	case "NodePortPool":
		s.pools = append(s.pools, decode[v1alpha1.NodePortPool](t, doc))
	case "NodePortAllocation":
		s.allocations = append(s.allocations, decode[v1alpha1.NodePortAllocation](t, doc))
	case "AddressSet":
		s.sets = append(s.sets, decode[v1alpha1.AddressSet](t, doc))
	case "CloudFirewall":
		s.firewalls = append(s.firewalls, decode[v1alpha1.CloudFirewall](t, doc))
	case "Node":
		s.nodes = append(s.nodes, ptr.To(decode[corev1.Node](t, doc)))
	case "Portreeve":
		s.installation = ptr.To(decode[v1alpha1.Portreeve](t, doc))
	default:
		t.Fatalf("unknown kind %q", kind.Kind)
	}
}

// decode reads an object, all of whose fields must be known.
func decode[T any](t *testing.T, doc string) (object T) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(doc), &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// play does what the manager does, and requires that it comes to rest.
func (s *scene) play(t *testing.T) ending {
	t.Helper()
	const patience = 10
	before := maps.Clone(s.services)
	for range patience {
		was := mustJSON(t, []any{s.allocations, s.services})
		end := s.round(t)
		if bytes.Equal(was, mustJSON(t, []any{s.allocations, s.services})) {
			for name, service := range s.services {
				if !bytes.Equal(mustJSON(t, service), mustJSON(t, before[name])) {
					end.Services = append(end.Services, service)
				}
			}
			slices.SortFunc(end.Services, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
			return end
		}
	}
	t.Fatalf("no rest after %d rounds:\n%s", patience, mustJSON(t, s.allocations))
	return ending{}
}

func (s *scene) cluster() Cluster {
	c := Cluster{
		Pools: Owned(s.pools, NewLimits(s.installation, "")), Places: NewPlaces(s.pools, s.sets).Within(s.installation).Behind(s.gates(), s.nodes...),
		Namespace: s.namespace, Now: s.now,
		InPlace: slices.ContainsFunc(s.own(), func(a v1alpha1.NodePortAllocation) bool { return a.Spec.Carrier == v1alpha1.ServiceInPlace }),
	}
	if s.policy != nil && s.policy.Spec.Service == v1alpha1.ServiceInPlace {
		c.Elder = Elder(s.policy, s.rivals)
	}
	return c
}

// gates are the firewalls of the scene. Those that pools name and the scene does not have
// enforce.
func (s *scene) gates() (all []v1alpha1.CloudFirewall) {
	all = slices.Clone(s.firewalls)
	for _, pool := range s.pools {
		for _, name := range pool.Spec.CloudFirewalls {
			if !slices.ContainsFunc(all, func(f v1alpha1.CloudFirewall) bool { return f.Name == string(name) }) {
				all = append(all, v1alpha1.CloudFirewall{ObjectMeta: metav1.ObjectMeta{Name: string(name)}})
			}
		}
	}
	return all
}

func (s *scene) round(t *testing.T) (end ending) {
	cluster := s.cluster()
	var wish *Wish
	if s.policy != nil {
		wish, end.Refusal = NewWish(s.policy, s.services[s.policy.Spec.ServiceRef.Name], cluster)
	}
	if wish != nil && !wish.Planned {
		end.Unserved = s.allocate(wish, cluster.Pools)
	}
	for turn := range s.allocations {
		a := &s.allocations[(turn+s.firstTurn)%len(s.allocations)]
		a.Spec = s.next(a, wish, end.Refusal, cluster)
	}
	if wish != nil {
		end.Problems = Seen{Wish: wish, Allocations: s.own()}.problems()
	}
	end.Allocations = slices.SortedFunc(slices.Values(s.allocations), func(a, b v1alpha1.NodePortAllocation) int { return strings.Compare(a.Name, b.Name) })
	end.Companion = s.companion(t)
	s.carryInPlace(t)
	end.services = s.services
	end.places = cluster.Places
	return end
}

// name of the policy that is played, also when it is gone.
func (s *scene) name() string {
	if s.policy != nil {
		return s.policy.Name
	}
	for _, a := range s.allocations {
		if a.Spec.Claim.Policy != "" {
			return a.Spec.Claim.Policy
		}
	}
	return ""
}

// own are the allocations of the policy.
func (s *scene) own() (own []v1alpha1.NodePortAllocation) {
	for _, a := range s.allocations {
		if a.Spec.Claim.Policy != "" && a.Spec.Claim.Policy == s.name() {
			own = append(own, a)
		}
	}
	return own
}

// holder is the Service that holds a number and is no companion, nil if none does.
func (s *scene) holder(number uint16) *corev1.Service {
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		if service := s.services[name]; service.Labels[v1alpha1.LabelPolicy] == "" && len(Held(service)[number]) > 0 {
			return service
		}
	}
	return nil
}

// next is what an allocation must say now.
func (s *scene) next(a *v1alpha1.NodePortAllocation, wish *Wish, refusal *Refusal, cluster Cluster) v1alpha1.NodePortAllocationSpec {
	now, number := metav1.NewMicroTime(s.now), NumberOf(a)
	holder, pool := s.holder(number), PoolOf(cluster.Pools, number)
	switch {
	case a.Spec.State == v1alpha1.AllocationForeign:
		carried := holder != nil && pool != nil && s.policy != nil && s.policy.Spec.Service == v1alpha1.ServiceInPlace && s.policy.Spec.ServiceRef.Name == holder.Name
		if carried {
			if spec := Adopted(a, wish, pool.Name, now); spec != nil {
				return *spec
			}
		}
		return Foreign(a, holder, pool, false, now)
	case a.Spec.Claim.Policy == "" || a.Spec.Claim.Policy != s.name():
		return a.Spec
	}
	spec := Allocation(a, s.policy, wish, refusal, s.own(), cluster, now)
	inPlace := a.Spec.Carrier == v1alpha1.ServiceInPlace && holder != nil && holder.Name == a.Spec.Claim.Service
	if spec.State == v1alpha1.AllocationOpen && holder != nil && !inPlace {
		return Refused(a, holder)
	}
	return spec
}

// allocate gives out missing numbers, and says why some are not.
func (s *scene) allocate(wish *Wish, pools []Pool) (unserved []string) {
	supply, neighbours := Supply(pools), map[uint16]string{}
	var registered, taken ports.Numbers
	for i := range s.allocations {
		a := &s.allocations[i]
		registered.Add(NumberOf(a))
		if a.Spec.State == v1alpha1.AllocationOpen {
			neighbours[NumberOf(a)] = SourceKey(a.Spec.Ports)
		}
		for j := range supply {
			if supply[j].Name == a.Spec.Pool && a.Spec.Claim.Policy != "" {
				supply[j].Used[a.Spec.Claim.Namespace]++
			}
		}
	}
	taken = registered
	for _, service := range s.services {
		for n := range Held(service) {
			taken.Add(n)
		}
	}
	missing := Assign(wish, s.own()).Missing
	var requests []ports.Request
	for _, i := range missing {
		requests = append(requests, s.request(wish, wish.Numbers[i], registered))
	}
	for i, choice := range ports.Choose(requests, supply, taken, neighbours) {
		wanted := wish.Numbers[missing[i]]
		if choice.Outcome != ports.Chosen {
			why := map[ports.Outcome]string{ports.Exhausted: "Exhausted", ports.Outside: "Outside", ports.Taken: "Taken", ports.OverQuota: "OverQuota"}[choice.Outcome]
			for _, p := range wanted.Ports {
				unserved = append(unserved, fmt.Sprintf("none %s %s %s", p.Protocol, nameOrPort(p), why))
			}
			continue
		}
		spec := wish.Claim(wanted, choice.Pool)
		spec.Since, spec.Adopted = ptr.To(metav1.NewMicroTime(s.now)), wanted.Holding
		s.allocations = append(s.allocations, v1alpha1.NodePortAllocation{
			ObjectMeta: metav1.ObjectMeta{Name: strconv.Itoa(int(choice.Number)), CreationTimestamp: metav1.NewTime(s.now)},
			Spec:       spec,
		})
	}
	return unserved
}

// request prefers what served the number before. What the carrier alone holds is for
// this policy.
func (s *scene) request(wish *Wish, wanted Number, registered ports.Numbers) ports.Request {
	carrier := s.services[s.policy.Name+v1alpha1.CompanionSuffix]
	if s.policy.Spec.Service == v1alpha1.ServiceInPlace {
		carrier = s.services[s.policy.Spec.ServiceRef.Name]
	}
	r := ports.Request{
		Pin: wanted.Pin, Pools: wish.Pools, Namespace: s.policy.Namespace, Sources: wish.SourceKey(wanted),
		Prefer: Remembered(wanted, s.policy, carrier),
	}
	if carrier != nil {
		for n := range Held(carrier) {
			if !registered.Has(n) {
				r.Own = append(r.Own, n)
			}
		}
	}
	return r
}
