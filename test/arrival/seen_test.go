package arrival

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// seen is what the API server has told, and when.
type seen struct {
	mu     sync.Mutex
	ready  map[string]bool
	lost   map[string]time.Time // of nodes: when they were last seen to cease to be Ready
	slices map[string]int       // ready endpoints by slice
	told   map[string]string
}

// unready is when a node was last seen to cease to be Ready.
func (s *seen) unready(name string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost[name]
}

// endpoints counts those that are ready, of all companions and families.
func (s *seen) endpoints() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slice := range s.slices {
		n += slice
	}
	return n
}

// watch follows what the API server says, until ctx ends, and keeps it for the story.
func (c *change) watch(ctx context.Context, watching *sync.WaitGroup) {
	c.seen.ready, c.seen.lost, c.seen.slices, c.seen.told = map[string]bool{}, map[string]time.Time{}, map[string]int{}, map[string]string{}
	follow := func(list client.ObjectList, see func(client.Object, bool)) {
		watching.Go(func() {
			for ctx.Err() == nil {
				w, err := c.town.Client.Watch(ctx, list)
				if err != nil {
					pause(ctx, 100*time.Millisecond)
					continue
				}
				for e := range w.ResultChan() {
					if o, is := e.Object.(client.Object); is && e.Type != watch.Bookmark {
						see(o, e.Type == watch.Deleted)
					}
				}
			}
		})
	}
	follow(&corev1.NodeList{}, c.seeNode)
	follow(&v1alpha1.GatewaySetList{}, c.seeGateways)
	follow(&discoveryv1.EndpointSliceList{}, c.seeEndpoints)
	follow(&v1alpha1.NodePortPolicyList{}, c.seePolicy)
}

func (c *change) seeNode(o client.Object, _ bool) {
	ready, name := compile.Ready(o.(*corev1.Node)), o.GetName()
	c.seen.mu.Lock()
	was, known := c.seen.ready[name]
	c.seen.ready[name] = ready
	if was && !ready {
		c.seen.lost[name] = time.Now()
	}
	c.seen.mu.Unlock()
	if known && was != ready {
		c.judge.note("seen: node %s is Ready: %t", name, ready)
	}
}

func (c *change) seeGateways(o client.Object, gone bool) {
	if !gone {
		c.tell("GatewaySet "+o.GetName(), "%v", o.(*v1alpha1.GatewaySet).Spec.Nodes)
	}
}

func (c *change) seeEndpoints(o client.Object, gone bool) {
	slice := o.(*discoveryv1.EndpointSlice)
	if slice.Namespace != "change" {
		return
	}
	ready := 0
	for _, e := range slice.Endpoints {
		if !gone && ptr.Deref(e.Conditions.Ready, true) {
			ready++
		}
	}
	c.seen.mu.Lock()
	c.seen.slices[slice.Name] = ready
	c.seen.mu.Unlock()
	c.tell("EndpointSlice "+slice.Name, "%d ready", ready)
}

func (c *change) seePolicy(o client.Object, _ bool) {
	p := o.(*v1alpha1.NodePortPolicy)
	i := slices.IndexFunc(c.policies, func(known *played) bool { return p.Namespace == "change" && known.name == p.Name })
	if i >= 0 && c.policies[i].moved(p.Status.Addresses) {
		c.judge.note("seen: %s has addresses %s", p.Name, strings.Join(p.Status.Addresses, " "))
	}
}

// tell keeps what is news.
func (c *change) tell(what, format string, args ...any) {
	text := what + ": " + fmt.Sprintf(format, args...)
	c.seen.mu.Lock()
	news := c.seen.told[what] != text
	c.seen.told[what] = text
	c.seen.mu.Unlock()
	if news {
		c.judge.note("seen: %s", text)
	}
}
