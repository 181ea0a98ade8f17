package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/internal/compile"
)

func TestAServiceIsNotWrittenFromAnOlderCopy(t *testing.T) {
	now := time.Now()
	service := func(version string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", ResourceVersion: version}}
	}
	for _, c := range []struct {
		name  string
		cache string
		after time.Duration
		want  bool
	}{
		{"the cache shows the version before", "9", time.Second, true},
		{"the cache shows our write", "10", time.Second, false},
		{"somebody has written since", "11", time.Second, false},
		{"the past has come back", "9", time.Minute, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w written
			w.note(service("10"), now)
			if got := w.lags(service(c.cache), now.Add(c.after)); got != c.want {
				t.Errorf("lags: %t", got)
			}
		})
	}
	var w written
	if w.lags(service("9"), now) {
		t.Error("what we never wrote lags")
	}
}

// The hold of no pool is deleted: but not as long as the cache shows an older one than we
// have written.
func TestAHoldWaitsForItsOwnLastWrite(t *testing.T) {
	hold := compile.Hold("portreeve-system", compile.HoldOf(30001), []uint16{30001}, nil)
	c := store(t, hold).Build()
	key := client.ObjectKeyFromObject(hold)
	if err := c.Get(t.Context(), key, hold); err != nil {
		t.Fatal(err)
	}
	r := &Hold{Client: c, Snapshot: Snapshot{Reader: c, Live: c, Namespace: "portreeve-system"}, Now: time.Now, refused: map[uint16]refusal{}}
	newer := hold.DeepCopy()
	newer.ResourceVersion = "1" + hold.ResourceVersion
	r.written.note(newer, time.Now())
	for _, there := range []bool{true, false} {
		result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: key})
		if err != nil || there != (result.RequeueAfter == retrySoon) {
			t.Errorf("%+v, %v", result, err)
		}
		have, err := get[corev1.Service](t.Context(), c, key)
		if err != nil || there != (have != nil) {
			t.Errorf("the hold is there: %t, want %t (%v)", have != nil, there, err)
		}
		r.written.note(hold, time.Now()) // the cache has caught up
	}
}
