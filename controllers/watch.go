package controllers

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlbuilder "sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// builder names a controller. Tests run several managers in one process.
func builder(mgr ctrl.Manager, name string, workers int) *ctrlbuilder.Builder {
	return ctrl.NewControllerManagedBy(mgr).Named(name).WithOptions(controller.Options{
		MaxConcurrentReconciles: workers, SkipNameValidation: ptr.To(true),
	})
}

// each maps an object, on update the old and the new one, to queue keys.
func each(keys func(context.Context, client.Object) []reconcile.Request) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(keys)
}

// ofSpec lets through what changes meaning, not our own status writes.
var ofSpec = ctrlbuilder.WithPredicates(meant)

// meant is a spec, an annotation (a person confirms or releases by one), or that it goes.
var meant = predicate.Or(
	predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, deletionBegan,
)

var deletionBegan = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return e.ObjectOld.GetDeletionTimestamp() == nil && e.ObjectNew.GetDeletionTimestamp() != nil
}}

// comeOrGone lets through objects that appear or vanish, whatever they say.
var comeOrGone = ctrlbuilder.WithPredicates(predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }})

// freedOrLost lets through allocations that end or change hands: then somebody
// may get, or need, a number.
var freedOrLost = ctrlbuilder.WithPredicates(predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*v1alpha1.NodePortAllocation), e.ObjectNew.(*v1alpha1.NodePortAllocation)
		return before.Spec.State != after.Spec.State || before.Spec.Claim != after.Spec.Claim
	},
})

// namespaceMatters lets through the beginning of a namespace's deletion, and changes
// of its labels.
var namespaceMatters = ctrlbuilder.WithPredicates(predicate.Funcs{
	CreateFunc: func(e event.CreateEvent) bool { return e.Object.GetDeletionTimestamp() != nil },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return deletionBegan.UpdateFunc(e) || !equality.Semantic.DeepEqual(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels())
	},
})

// ofLabels lets through namespaces whose labels changed: they say who may draw.
var ofLabels = ctrlbuilder.WithPredicates(predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return !equality.Semantic.DeepEqual(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels())
	},
})

// nodeLabels lets through nodes that come, go, or get other labels.
var nodeLabels = ctrlbuilder.WithPredicates(predicate.LabelChangedPredicate{})

// factsMatter lets through reports that tell something else than before of who carries
// node ports on their node.
var factsMatter = ctrlbuilder.WithPredicates(predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false }, // without a status yet, or at our own start, when all are looked at
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*v1alpha1.NodeDatapath), e.ObjectNew.(*v1alpha1.NodeDatapath)
		return !equality.Semantic.DeepEqual(before.Status.Facts, after.Status.Facts)
	},
})

// answersMatter lets through reports that tell something else than before of where
// somebody answers on their node.
var answersMatter = ctrlbuilder.WithPredicates(predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false }, // as for factsMatter
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*v1alpha1.NodeDatapath), e.ObjectNew.(*v1alpha1.NodeDatapath)
		return !equality.Semantic.DeepEqual(before.Status.Answers, after.Status.Answers)
	},
})

// podMatters lets through agents' pods that come, go, begin or cease to work.
var podMatters = ctrlbuilder.WithPredicates(predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return compile.PodReady(e.ObjectOld.(*corev1.Pod)) != compile.PodReady(e.ObjectNew.(*corev1.Pod))
}})

// nodeMatters drops heartbeats: only readiness, boot, labels, taints and
// addresses of a node change what is concluded from it.
var nodeMatters = ctrlbuilder.WithPredicates(predicate.Funcs{UpdateFunc: nodeChanged})

func nodeChanged(e event.UpdateEvent) bool {
	before, after := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
	return compile.Ready(before) != compile.Ready(after) ||
		before.Status.NodeInfo.BootID != after.Status.NodeInfo.BootID ||
		!equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) ||
		!equality.Semantic.DeepEqual(before.Labels, after.Labels) ||
		!equality.Semantic.DeepEqual(before.Status.Addresses, after.Status.Addresses)
}

// WithoutAddresses keeps of a cached EndpointSlice which nodes have endpoints: of all the
// slices of a cluster few concern us, and which do may change at any time.
func WithoutAddresses(o any) (any, error) {
	if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
		return compile.Slim(slice), nil
	}
	return o, nil
}

// endpointsMatter lets through slices that tell something else than before of which nodes
// have pods; see compile.Slim.
var endpointsMatter = ctrlbuilder.WithPredicates(predicate.Funcs{UpdateFunc: endpointsMoved})

func endpointsMoved(e event.UpdateEvent) bool {
	before, after := e.ObjectOld.(*discoveryv1.EndpointSlice), e.ObjectNew.(*discoveryv1.EndpointSlice)
	return !equality.Semantic.DeepEqual(before.Endpoints, after.Endpoints) || !equality.Semantic.DeepEqual(before.Ports, after.Ports) ||
		!equality.Semantic.DeepEqual(before.Labels, after.Labels)
}

// numberName is the name of the allocation of a number.
func numberName(n uint16) string { return strconv.Itoa(int(n)) }
