package controllers

import (
	"context"
	"regexp"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

const (
	// askAgain is how long a found range is believed: it changes only when the API
	// server is restarted with another flag.
	askAgain = 10 * time.Minute
	// askSoon is when to ask again after no answer.
	askSoon = 30 * time.Second
	// askFor bounds one try: a webhook of somebody's may be in its way.
	askFor = 5 * time.Second
)

// NodePortRange finds the API server's node-port range. Nothing tells it but the
// refusal of a number outside it.
type NodePortRange struct {
	client.Client
	Namespace string // of the Service that is asked for
	Now       func() time.Time

	mu    sync.Mutex
	found string
	next  time.Time // when to ask again; zero: never asked
}

// Find returns the range as "first-last", "" where it is not known. Only the first
// call waits for the API server; what is known is kept whatever it answers later.
func (r *NodePortRange) Find(ctx context.Context) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch now := r.Now(); {
	case r.next.IsZero():
		r.next = now.Add(askSoon)
		ctx, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		if found := r.ask(ctx); found != "" {
			r.found, r.next = found, now.Add(askAgain)
		}
	case now.After(r.next):
		r.next = now.Add(askSoon)
		go r.refresh(context.WithoutCancel(ctx))
	}
	return r.found
}

func (r *NodePortRange) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	r.learn(r.ask(ctx))
}

// learn takes a range that the API server has named, "" for none.
func (r *NodePortRange) learn(found string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if found != "" {
		r.found, r.next = found, r.Now().Add(askAgain)
	}
}

// The first and the last number that there are: one of them is outside, or all are inside.
var extremes = []int32{1, 65535}

// ask wants a number that is most likely outside the range, and reads the refusal. A
// dry run would not do: the API server judges the range only when it allocates. What
// it should give all the same goes at once, and kube-proxy never sees it.
func (r *NodePortRange) ask(ctx context.Context) string {
	for _, number := range extremes {
		probe := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: r.Namespace, GenerateName: "portreeve-node-port-range-",
				Labels: map[string]string{"service.kubernetes.io/service-proxy-name": v1alpha1.ServiceProxyName},
			},
			Spec: corev1.ServiceSpec{
				Type:  corev1.ServiceTypeNodePort,
				Ports: []corev1.ServicePort{{Port: 1, NodePort: number}},
			},
		}
		err := r.Create(ctx, probe, client.FieldOwner(v1alpha1.FieldOwner))
		switch {
		case err == nil: // inside the range
			if err := r.Delete(ctx, probe); err != nil {
				log.FromContext(ctx).Error(err, "a Service that was made to find the node-port range is left", "service", probe.Name)
			}
		case apierrors.IsInvalid(err):
			if found := rangeIn(err); found != "" {
				return found
			}
		default: // a quota, an admission policy, a webhook, no namespace: it stays as it is
			log.FromContext(ctx).Info("the node-port range could not be found", "error", err.Error())
			return ""
		}
	}
	return "1-65535"
}

// validRange is how the API server's port allocator spells its range. There is no
// other place where it does.
var validRange = regexp.MustCompile(`range of valid ports is (\d+-\d+)`)

func rangeIn(err error) string {
	status := apierrors.APIStatus(nil)
	if !asStatus(err, &status) || status.Status().Details == nil {
		return ""
	}
	for _, cause := range status.Status().Details.Causes {
		if match := validRange.FindStringSubmatch(cause.Message); match != nil {
			return match[1]
		}
	}
	return ""
}
