package cloud_test

import (
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

func TestWhatOpensWaitsForCompanyAndWhatClosesHardly(t *testing.T) {
	one, two := cloudtest.Grant("TCP 30080 10.8.0.0/16"), cloudtest.Grant("TCP 30081 10.8.0.0/16")
	for _, c := range []struct {
		what      string
		since     time.Duration
		had, want []cloud.Grant
		pause     time.Duration
	}{
		{"nothing went before", time.Minute, nil, []cloud.Grant{one}, 0},
		{"one more", 300 * time.Millisecond, []cloud.Grant{one}, []cloud.Grant{two, one}, 700 * time.Millisecond},
		{"one less", 50 * time.Millisecond, []cloud.Grant{one, two}, []cloud.Grant{two}, 150 * time.Millisecond},
		{"one less, and one more", 300 * time.Millisecond, []cloud.Grant{one}, []cloud.Grant{two}, 0},
		{"a port that closes altogether", 300 * time.Millisecond, []cloud.Grant{one}, nil, 0},
		{"the same", 300 * time.Millisecond, []cloud.Grant{one}, []cloud.Grant{one}, 700 * time.Millisecond},
	} {
		if got := cloud.Pause(c.since, c.had, c.want); got != c.pause {
			t.Errorf("%s: %s, want %s", c.what, got, c.pause)
		}
	}
}
