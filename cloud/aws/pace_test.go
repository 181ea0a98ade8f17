package aws_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/aws"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// hands is a clock that stands still until somebody sleeps. It starts at the true time,
// by which the SDK signs.
type hands struct {
	mu   sync.Mutex
	now  time.Time
	long time.Duration // slept altogether
}

func (h *hands) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hands) Sleep(ctx context.Context, d time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now, h.long = h.now.Add(d), h.long+d
	return ctx.Err()
}

// busy is an account that counts how often it throttles, on the clock of its callers.
func busy(t *testing.T) (account *cloudtest.EC2, clock *hands, endpoint string, throttled *atomic.Int32) {
	t.Helper()
	offline(t, "test", "test")
	clock, throttled = &hands{now: time.Now()}, new(atomic.Int32)
	account = cloudtest.NewEC2(cloudtest.Options{Clock: clock.Now})
	account.AddGroup("sg-1")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		account.ServeHTTP(statusCounter{w, throttled}, r)
	}))
	t.Cleanup(server.Close)
	return account, clock, server.URL, throttled
}

type statusCounter struct {
	http.ResponseWriter
	throttled *atomic.Int32
}

func (c statusCounter) WriteHeader(status int) {
	if status == http.StatusServiceUnavailable {
		c.throttled.Add(1)
	}
	c.ResponseWriter.WriteHeader(status)
}

func openPaced(t *testing.T, endpoint string, paces *cloud.Paces) *aws.Provider {
	t.Helper()
	p, err := aws.New(t.Context(), aws.Options{Region: "eu-central-1", Endpoint: endpoint, Paces: paces})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestManyCallsOfTwoProvidersNeverMeetAnEmptyBucket(t *testing.T) {
	_, clock, endpoint, throttled := busy(t)
	paces := cloud.NewPaces(clock)
	providers := []*aws.Provider{openPaced(t, endpoint, paces), openPaced(t, endpoint, paces)}
	for i := range 80 {
		g := cloudtest.Grant("TCP 30080 10.8.0.0/16")
		g.Ports.First, g.Ports.Last = uint16(30000+i), uint16(30000+i)
		if err := providers[i%2].Authorize(t.Context(), "sg-1", "me", []cloud.Grant{g}); err != nil && !errors.Is(err, cloud.ErrQuota) {
			t.Fatal(err)
		}
	}
	if throttled.Load() != 0 || clock.long != 6*time.Second {
		t.Errorf("throttled %d times, waited %s; want never, and 6s for 30 calls at 5 a second", throttled.Load(), clock.long)
	}
}

func TestABucketThatOthersHaveEmptiedIsTakenFromMoreSlowly(t *testing.T) {
	account, clock, endpoint, throttled := busy(t)
	for range 50 {
		if err := account.Provider().Revoke(t.Context(), "sg-1", nil); err != nil { // somebody else
			t.Fatal(err)
		}
	}
	account.Seed("sg-1", cloudtest.Foreign("TCP 22 10.0.0.0/8"), cloudtest.Foreign("TCP 23 10.0.0.0/8"))
	paces := cloud.NewPaces(clock)
	p := openPaced(t, endpoint, paces)
	for _, r := range account.Rules("sg-1") {
		if err := p.Revoke(t.Context(), "sg-1", []string{r.ID}); err != nil {
			t.Error(err)
		}
	}
	api := cloud.API{Account: "test", Region: "eu-central-1", Name: "RevokeSecurityGroupIngress"}
	rate := paces.Of(api, cloud.Rate{}).PerSecond()
	if throttled.Load() != 1 || rate < 2.5 || rate > 3 {
		t.Errorf("throttled %d times, goes on with %g calls a second; want once, and half of 5", throttled.Load(), rate)
	}
}

func TestACallThatHasNoTimeToWaitForItsTurnIsThrottledAndNotSent(t *testing.T) {
	_, _, endpoint, _ := busy(t)
	paces := cloud.NewPaces(cloud.SystemClock{})
	p := openPaced(t, endpoint, paces)
	api := cloud.API{Account: "test", Region: "eu-central-1", Name: "RevokeSecurityGroupIngress"}
	paces.Of(api, cloud.Rate{Burst: 1, PerSecond: 0.001}) // made before the provider could
	var errs [2]error
	for i := range errs {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		errs[i] = p.Revoke(ctx, "sg-1", []string{"sgr-1"})
		cancel()
	}
	if !errors.Is(errs[0], cloud.ErrStale) || !errors.Is(errs[1], cloud.ErrThrottled) {
		t.Errorf("errors %v", errs)
	}
}
