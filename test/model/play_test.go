package model

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

const (
	// settles bounds how long a step may take to come to rest, on a busy machine and
	// where the API server has lost numbers (lost_test.go): each that a policy is given
	// costs it five seconds.
	settles = 40 * time.Second
	// departure is how long agents go on by objects that vanished, see their guard.
	departure = 2500 * time.Millisecond
)

// TestRandomLives plays at CI scale a few lives that are always the same, and at
// soak scale many new ones. rapid's flags choose others: -rapid.seed, -rapid.checks for
// the number of lives, -rapid.steps for their length; or RAPID_SEED and so on.
func TestRandomLives(t *testing.T) {
	must := scale(t)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ledger, err := keepLedger(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ledger.watch.Stop)
	prober := startProber(ctx)
	t.Cleanup(prober.stop)
	failed, seen, began := false, tally{}, time.Now()
	rapid.Check(t, func(rt *rapid.T) {
		if failed { // rapid would play it again; what it would find is another cluster
			rt.Fatal("as told above")
		}
		p := &play{
			T: rt, ctx: ctx, ledger: ledger, prober: prober, seen: seen, began: time.Now(),
			pods: map[key]map[string]time.Time{}, common: map[uint16]map[string]time.Time{},
		}
		defer func() {
			if r := recover(); r != nil || rt.Failed() {
				failed = true
				t.Log(p.story(r))
				rt.Fatal("as told above")
			}
		}()
		p.open()
		rt.Repeat(p.actions())
		p.close()
		p.write()
	})
	t.Logf("%s, %d questions of the prober, lost numbers %v, %v", time.Since(began).Round(time.Second), prober.asked, slices.Collect(maps.Keys(lost)), seen)
	for _, what := range must {
		if seen[what] == 0 {
			t.Errorf("no life had %s at rest: they prove less than they should", what)
		}
	}
}

// tally counts what was so at rest, lest nothing ever happens.
type tally map[string]int

// What lives must have come to, few of them and many.
var (
	seenByFew  = []string{"Ready OK", "Open Companion", "answered", "answered on the way", "refused"}
	seenByMany = append([]string{
		"Ready Planned", "Ready SourceRefused", "Ready ServiceNotFound", "Ready Exhausted", "Ready PinOutsidePool",
		"Open InPlace", "Closed Companion", "Foreign", "Foreign passed",
	}, seenByFew...)
)

func (t tally) count(w *world) {
	t["at rest"]++
	for _, p := range w.policies {
		t["Ready "+meta.FindStatusCondition(p.Status.Conditions, v1alpha1.Ready).Reason]++
	}
	for n, a := range w.register {
		what := string(a.Spec.State)
		if a.Spec.Grandfathered {
			what += " passed"
		}
		t[strings.TrimSpace(what+" "+string(a.Spec.Carrier))]++
		if w.access(n).must != 0 {
			t["answered"]++
		} else {
			t["refused"]++
		}
	}
}

// scale sets rapid's flags, but for those that somebody has set, and says what lives of
// that scale must come to.
func scale(t *testing.T) (must []string) {
	wanted := map[string]string{"rapid.checks": "3", "rapid.steps": "12", "rapid.seed": "3", "rapid.shrinktime": "0s", "rapid.nofailfile": "true"}
	must = seenByFew
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		wanted["rapid.checks"], wanted["rapid.steps"], wanted["rapid.seed"] = "150", "25", "0"
		must = seenByMany
	}
	drop := func(name string) {
		if _, ours := wanted[name]; ours {
			delete(wanted, name)
			must = nil
		}
	}
	flag.Visit(func(f *flag.Flag) { drop(f.Name) })
	for _, name := range slices.Collect(maps.Keys(wanted)) {
		if _, given := os.LookupEnv(strings.ToUpper(strings.ReplaceAll(name, ".", "_"))); given { // rapid has read it
			drop(name)
		}
	}
	for name, value := range wanted {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	return must
}

// play is one life.
type play struct {
	*rapid.T
	ctx    context.Context
	ledger *ledger
	prober *prober
	seen   tally
	began  time.Time
	// steps tell what was done, for people.
	steps []string
	// worlds are those of the step that runs: before it, with each change, at rest.
	worlds []*world
	// vanished is when something that agents go on by for a while was last deleted.
	vanished time.Time
	history  []entry
	// pods that policies have exposed, and those that everybody reached on a number:
	// until when.
	pods   map[key]map[string]time.Time
	common map[uint16]map[string]time.Time
	// away says that an agent was dead at some time of the step.
	away bool
	// waited is what was not at rest when it was last looked at.
	waited string
}

// write puts what was done beside the logs of the programs, where somebody wants them.
func (p *play) write() {
	dir := os.Getenv("PORTREEVE_LAB_LOGS")
	if dir == "" {
		return
	}
	file, err := os.OpenFile(filepath.Join(dir, "lives.txt"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	p.must(err)
	defer file.Close()
	_, err = fmt.Fprintf(file, "%s\n\n", strings.Join(p.steps, "\n"))
	p.must(err)
}

// story is what there is to say of a life that ended badly.
func (p *play) story(panicked any) string {
	out := fmt.Sprintf("a life of %s:\n  %s", time.Since(p.began).Round(time.Second), strings.Join(p.steps, "\n  "))
	history, _ := p.ledger.cut()
	out += "\n  the register since the last rest:" + spell(append(p.history, history...))
	if w, err := look(p.ctx); err == nil {
		for k, s := range w.services {
			out += fmt.Sprintf("\n  service %v %s %v has %v", k, s.Spec.Type, s.Spec.Selector, portsOf(s))
		}
		out += fmt.Sprintf("\n  lost by the API server: %v", slices.Collect(maps.Keys(lost)))
	}
	if panicked != nil {
		out += fmt.Sprintf("\n  %v", panicked)
	}
	return out
}

func portsOf(s *corev1.Service) (out []string) {
	for _, port := range s.Spec.Ports {
		out = append(out, fmt.Sprintf("%s %d %d", port.Name, port.Port, port.NodePort))
	}
	return out
}

func (p *play) say(format string, args ...any) {
	p.steps = append(p.steps, fmt.Sprintf("%6.2fs ", time.Since(p.began).Seconds())+fmt.Sprintf(format, args...))
}

func (p *play) last() *world { return p.worlds[len(p.worlds)-1] }

// look begins with the world as it is.
func (p *play) look() {
	w, err := look(p.ctx)
	p.must(err)
	p.worlds = []*world{w}
}

// wished takes down that an object was written, and unwished that it was deleted:
// each time it is another world, though nobody may have noticed yet.
func (p *play) wished(o client.Object) {
	p.remember()
	p.worlds = append(p.worlds, p.last().with(o))
	p.remember()
}

func (p *play) unwished(o client.Object) {
	p.remember()
	p.worlds = append(p.worlds, p.last().without(o))
}

// rest waits until everything is as the rules say, and judges what happened on the
// way.
func (p *play) rest() {
	began := time.Now()
	var w *world
	p.waited = ""
	p.eventually("all is at rest", func() error {
		var err error
		if w, err = look(p.ctx); err != nil {
			return err
		}
		if found := w.faults(); len(found) > 0 {
			return errors.New("\n    " + strings.Join(found, "\n    "))
		}
		if time.Since(p.vanished) < departure {
			return errors.New("agents go on by what has vanished")
		}
		lacking, excess := w.probe(p.ctx)
		if len(excess) > 0 {
			if again, err := look(p.ctx); err == nil && sameWorld(w, again) {
				p.worlds = append(p.worlds, w)
				p.fail("reached at rest", excess)
			}
			return errors.New("the world has moved on")
		}
		if len(lacking) > 0 {
			return errors.New("not reached:\n    " + strings.Join(lacking, "\n    "))
		}
		return nil
	})
	p.worlds = append(p.worlds, w)
	p.remember()
	p.judge()
	p.seen.count(w)
	p.worlds, p.history, p.away = []*world{w}, nil, false
	p.say("at rest after %s%s", time.Since(began).Round(time.Millisecond), p.waited)
}

// sameWorld says whether nothing has happened between two looks that could let
// somebody in.
func sameWorld(a, b *world) bool {
	same := len(a.register) == len(b.register) && len(a.services) == len(b.services)
	for n, before := range a.register {
		same = same && b.register[n] != nil && b.register[n].ResourceVersion == before.ResourceVersion
	}
	for k, before := range a.services {
		same = same && b.services[k] != nil && b.services[k].ResourceVersion == before.ResourceVersion
	}
	return same
}

func (p *play) fail(what string, found []string) {
	p.Helper()
	p.Fatalf("%s: %d, among them\n    %s", what, len(found), strings.Join(found[:min(len(found), 12)], "\n    "))
}

// eventually tries until there is no error, for a bounded time.
func (p *play) eventually(what string, try func() error) {
	p.Helper()
	deadline := time.Now().Add(settles)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		p.waited = ", waited for: " + err.Error()
		if time.Now().After(deadline) {
			p.Fatalf("not within %s: %s: %v\n%s", settles, what, err, town.Manager().Tail(5))
		}
		<-tick.C
	}
}

var lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "portreeve-manager"}}

// startManager starts a manager. The lease of the one before would only be waited for.
func (p *play) startManager() {
	p.must(client.IgnoreNotFound(town.Client.Delete(p.ctx, lease.DeepCopy())))
	p.must(town.StartManager(p.ctx, nil))
}

func (p *play) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}
