package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// step is something that people do, and what must be so when all has come to rest.
type step struct {
	name string
	do   func(*play)
	want wish
}

// The claimants, in the order in which they are served: age counts, and within
// one second the name.
var (
	shopPort  = claimant{shop, "web"}
	vaultPort = claimant{vault, "ahead"}
	latecomer = claimant{vault, "late"}
)

const (
	// longRest is a cool-down that never ends while a test lasts.
	longRest = time.Hour
	// shortRest is one in which kube-proxy lets go of a number before another team
	// has it: it may be a second behind, or a few on a busy machine, and nobody proves how
	// far it is.
	shortRest = 4 * time.Second
)

// scenario is one life of a pool of three numbers, in acts. Each step begins when
// the one before has come to rest, so a crash within it is on its own, though the
// whole scenario runs with a crash in every step. Acts between the first and the
// last may be left out.
var scenario = [][]step{
	{{
		"the pool is made over a number that is in use",
		func(p *play) { p.create(newPool(p.pool, p.first, p.size, longRest)) },
		wish{stood: true},
	}, {
		"two teams ask for more numbers than there are",
		func(p *play) {
			p.create(p.policy(shopPort, office, street))
			p.create(p.policy(vaultPort, partner))
			p.create(p.policy(latecomer, partner))
		},
		wish{stood: true, served: map[claimant][]string{shopPort: {office, street}, vaultPort: {partner}}, waiting: []claimant{latecomer}},
	}},
	{{
		"a source is removed",
		func(p *play) { p.update(p.policy(shopPort, office)) },
		wish{stood: true, served: map[claimant][]string{shopPort: {office}, vaultPort: {partner}}, waiting: []claimant{latecomer}},
	}},
	{{
		"a policy is deleted, and its number rests",
		func(p *play) { p.delete(p.policy(shopPort)) },
		wish{stood: true, served: map[claimant][]string{vaultPort: {partner}}, waiting: []claimant{latecomer}, resting: []claimant{shopPort}},
	}, {
		"it is created again and has its number back",
		func(p *play) { p.create(p.policy(shopPort, street)) },
		wish{stood: true, served: map[claimant][]string{shopPort: {street}, vaultPort: {partner}}, waiting: []claimant{latecomer}},
	}},
	{{
		"it is deleted, and its number goes to the other team",
		func(p *play) {
			p.rests(shortRest)
			p.delete(p.policy(shopPort))
			delete(p.numbers, shopPort)
		},
		wish{stood: true, served: map[claimant][]string{vaultPort: {partner}, latecomer: {partner}}},
	}},
	{{
		"everybody leaves",
		func(p *play) {
			p.rests(0)
			for _, c := range []claimant{shopPort, vaultPort, latecomer} {
				p.delete(p.policy(c))
			}
			p.delete(newService(squatter, p.pool, 0))
		},
		wish{},
	}},
}

// mustBeHit are the kinds of writes at which there must have been crashes.
var mustBeHit = []string{
	"POST nodeportallocations", "PUT nodeportallocations", "DELETE nodeportallocations",
	"POST services", "PUT services", "PUT nodeportpools/status", "PUT nodeportpolicies/status", "PUT cloudfirewalls/status",
	"EC2 AuthorizeSecurityGroupIngress", "EC2 RevokeSecurityGroupIngress",
}

// TestNothingIsLostOrOpenedByACrashAtAnyWrite plays the scenario again and again:
// first the manager is killed at the first write of each step, then at the second
// of each, until no step has so many writes; once before the write arrives and once
// after it was applied.
//
// Acts that had fewer writes are left out. Beyond the first few writes, the two
// moments take turns; at soak scale each write has both.
func TestNothingIsLostOrOpenedByACrashAtAnyWrite(t *testing.T) {
	ctx := limit(t, time.Hour)
	keeper := keep(ctx, t, way)
	began, points, hit := time.Now(), 0, map[string]int{}
	reached := make([]int, len(scenario)) // at which write there was last a crash in the act
	first := uint16(30000)
	for n := 1; slices.Max(reached) == n-1; n++ {
		for i, when := range []moment{before, after} {
			if n > 3 && n%2 == i && os.Getenv("PORTREEVE_SCALE") != "soak" {
				continue
			}
			ok := t.Run(fmt.Sprintf("write %d of each step, %s", n, when), func(t *testing.T) {
				p := open(ctx, t, keeper, ground{fmt.Sprintf("crash-%d", first), first, 3})
				for act, steps := range scenario {
					if reached[act] < n-1 && act != 0 && act != len(scenario)-1 {
						continue
					}
					for _, s := range steps {
						if at := p.play(s, n, when); at != "" {
							points++
							hit[at]++
							reached[act] = n
						}
					}
				}
			})
			first += 4 // no number serves twice, and no two grounds touch
			if !ok {
				t.Fatal("what stands after this is no ground for more")
			}
		}
	}
	t.Logf("%d crash points in %s: %v", points, time.Since(began).Round(time.Second), hit)
	for _, kind := range mustBeHit {
		if hit[kind] < 2 {
			t.Errorf("%d crashes at %q: the trap does not see what it should", hit[kind], kind)
		}
	}
}

// play is one run of the scenario on a ground of its own.
type play struct {
	*testing.T
	ground
	ctx     context.Context
	keeper  *keeper
	beat    *beat
	ledger  *ledger
	numbers map[claimant]uint16
}

func open(ctx context.Context, t *testing.T, k *keeper, g ground) *play {
	t.Helper()
	p := &play{T: t, ctx: ctx, keeper: k, ground: g, numbers: map[claimant]uint16{}}
	p.create(newService(squatter, g.pool, g.stood()))
	p.beat, p.ledger = startBeat(ctx, g.first, g.size), keepLedger(ctx, t, g, longRest)
	p.beat.allow(wish{stood: true}.routes())
	t.Cleanup(func() {
		p.beat.stop()
		p.ledger.stop()
		p.breaches()
		p.delete(newPool(g.pool, g.first, g.size, 0))
		if t.Failed() {
			t.Log(k.manager.Tail(20))
		}
	})
	return p
}

// play plays one step, with a crash at its n-th write, and returns what write
// that was; "" when the step came to rest with fewer.
func (p *play) play(s step, n int, when moment) string {
	p.Helper()
	may := s.want.routes()
	for r, yes := range p.beat.allowed() {
		may[r] = may[r] || yes
	}
	p.beat.allow(may)
	began := time.Now()
	way.set(n, when)
	s.do(p)
	p.rest(s.name, s.want)
	at := way.disarm()
	p.beat.allow(s.want.routes())
	if p.keeper.failed != nil {
		p.Fatal(p.keeper.failed)
	}
	p.Logf("%4d ms, killed at %q of %d writes: %s", time.Since(began).Milliseconds(), at, len(way.passed()), s.name)
	return at
}

// rest waits until everything is as wished, and then asks the nodes.
func (p *play) rest(what string, w wish) {
	p.Helper()
	var numbers map[claimant]uint16
	eventually(p.ctx, p.T, what, func() (err error) {
		numbers, err = p.atRest(p.ctx, w)
		return err
	})
	for c, n := range numbers {
		if had := p.numbers[c]; had != 0 && had != n {
			p.Errorf("%s: %v has %d, and had %d before", what, c, n, had)
		}
		p.numbers[c] = n
	}
	eventually(p.ctx, p.T, what+": who is wanted is answered", func() error {
		again, wrong := p.inKernel(p.ctx, w, numbers)
		if wrong != nil {
			p.Fatalf("%s: %v", what, wrong)
		}
		return again
	})
	// They ask less often, and with less patience.
	eventually(p.ctx, p.T, what+": the probes have met somebody", func() error {
		if _, answers := p.beat.found(); answers == 0 {
			return errors.New("nobody has answered yet")
		}
		return nil
	})
	p.breaches()
}

// breaches fails the test for whatever should not have happened on the way.
func (p *play) breaches() {
	p.Helper()
	opened, answers := p.beat.found()
	if found := slices.Concat(opened, p.ledger.found()); len(found) > 0 {
		p.Fatalf("%d breaches, among them %v", len(found), found[:min(len(found), 10)])
	}
	if answers == 0 {
		p.Fatal("the probes reach nobody at all, so their silence proves nothing")
	}
}

// rests changes the pool's cool-down.
func (p *play) rests(coolDown time.Duration) {
	p.Helper()
	p.ledger.rests(coolDown)
	p.update(newPool(p.pool, p.first, p.size, coolDown))
}

func (p *play) policy(c claimant, sources ...string) *v1alpha1.NodePortPolicy {
	return newPolicy(c.team, c.policy, p.pool, sources...)
}

func (p *play) create(o client.Object) {
	p.Helper()
	if err := town.Client.Create(p.ctx, o); err != nil {
		p.Fatal(err)
	}
}

func (p *play) delete(o client.Object) {
	p.Helper()
	if err := town.Client.Delete(p.ctx, o); client.IgnoreNotFound(err) != nil {
		p.Fatal(err)
	}
}

// update makes an object's spec that of o, whatever version it has.
func (p *play) update(o client.Object) {
	p.Helper()
	if err := town.Client.Patch(p.ctx, o, client.Merge); err != nil {
		p.Fatal(err)
	}
}

// limit is a context that ends after the test's clean-up, or when the time is up.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually tries until there is no error, for a bounded time.
func eventually(ctx context.Context, t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s: %v", within, what, err)
		case <-tick.C:
		}
	}
}
