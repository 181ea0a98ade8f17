package controllers

import (
	"context"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
)

// run is one that wrote to a firewall's groups.
type run struct {
	ended      time.Time
	grants     []cloud.Grant
	generation int64
	confirmed  bool
}

// ran notes a run that has written all that it wished. One that failed is not waited for:
// its retries have a rhythm of their own.
func (r *CloudFirewall) ran(f *v1alpha1.CloudFirewall, seen synced, err error) {
	wrote := 0
	for _, report := range seen.reports {
		wrote += report.Calls.Mutating()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs == nil {
		r.runs = map[string]run{}
	}
	delete(r.runs, f.Name)
	if err == nil && wrote > 0 {
		r.runs[f.Name] = run{r.Now(), seen.grants, f.Generation, r.confirmed(f)}
	}
}

// pause is how long the firewall waits, so that a burst of changes takes few calls. An
// edit of the firewall itself waits for nothing.
func (r *CloudFirewall) pause(ctx context.Context, f *v1alpha1.CloudFirewall) (time.Duration, error) {
	r.mu.Lock()
	last, wrote := r.runs[f.Name]
	r.mu.Unlock()
	since := r.Now().Sub(last.ended)
	if !wrote || since < 0 || cloud.Pause(since, nil, nil) == 0 || last.generation != f.Generation || last.confirmed != r.confirmed(f) {
		return 0, nil
	}
	grants, _, err := r.wished(ctx, f.Name)
	if err != nil {
		return 0, err
	}
	return cloud.Pause(since, last.grants, grants), nil
}
