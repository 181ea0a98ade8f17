package controllers

import (
	"context"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// late hears of objects that can't be watched from the start, because the right or the
// kind may come later. A controller's own Watch takes up its work some time after it was
// called, and what changes meanwhile would not be heard.
type late chan event.GenericEvent

func newLate() late { return make(late, 1024) }

// source wakes whom keys names for each object that comes, goes or changes.
func (l late) source(keys func(context.Context, client.Object) []reconcile.Request) source.Source {
	return source.Channel(l, handler.EnqueueRequestsFromMapFunc(keys))
}

// follow hears of all objects of the kind from now on. It does not wait for them.
func (l late) follow(c cache.Cache, kind client.Object) error {
	informer, err := c.GetInformer(context.Background(), kind, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	tell := func(o any) {
		if gone, is := o.(toolscache.DeletedFinalStateUnknown); is {
			o = gone.Obj
		}
		if object, is := o.(client.Object); is {
			l <- event.GenericEvent{Object: object}
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: tell, DeleteFunc: tell,
		UpdateFunc: func(before, after any) { tell(before); tell(after) },
	})
	return err
}
