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

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// askAgain is how long a found range is believed: it changes only when the API server
// is restarted with another flag.
const askAgain = 10 * time.Minute

// NodePortRange finds the API server's node-port range. Nothing tells it but the
// refusal of a number outside it.
type NodePortRange struct {
	client.Client
	Namespace string // of the Service that is asked for
	Now       func() time.Time

	mu    sync.Mutex
	found string
	asked time.Time
}

// Find returns the range as "first-last", "" where it can't be known.
func (r *NodePortRange) Find(ctx context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked.IsZero() && r.Now().Sub(r.asked) < askAgain {
		return r.found, nil
	}
	found, err := r.ask(ctx)
	if err != nil {
		if r.asked.IsZero() {
			return "", err
		}
		return r.found, nil // the last answer is better than none
	}
	r.found, r.asked = found, r.Now()
	return found, nil
}

// The first and the last number that there are: one of them is outside, or all are inside.
var extremes = []int32{1, 65535}

// ask wants a number that is most likely outside the range, and reads the refusal. A
// dry run would not do: the API server judges the range only when it allocates. What
// it should give all the same goes at once, and kube-proxy never sees it.
func (r *NodePortRange) ask(ctx context.Context) (string, error) {
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
		case err == nil:
			if err := r.Delete(ctx, probe); err != nil {
				return "", err
			}
		case apierrors.IsInvalid(err):
			if found := rangeIn(err); found != "" {
				return found, nil
			}
		case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
			return "", nil // a quota, an admission policy, no namespace: it stays unknown
		default:
			return "", err
		}
	}
	return "1-65535", nil
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
