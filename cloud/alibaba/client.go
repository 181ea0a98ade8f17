package alibaba

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"github.com/portreeve/portreeve/cloud"
)

const (
	// connectTimeout and callTimeout bound one attempt of a call.
	connectTimeout = 5 * time.Second
	callTimeout    = 10 * time.Second
	// attempts and maxBackoff keep retries short: the workqueue retries with jitter, and
	// knows what else there is to do meanwhile. A rate that is used up comes back with
	// the next minute only.
	attempts   = 3
	minBackoff = 100 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
)

// documented are the rates that calls keep to. The vendor counts the calls of each
// account, region and operation in windows of a minute, and shows the thresholds in each
// account's Quota Center only; these stay, burst included, below the 200 a minute of its
// own example (Throttling and quota management).
var documented = map[string]cloud.Rate{
	"AuthorizeSecurityGroup":         {Burst: 50, PerSecond: 2},
	"RevokeSecurityGroup":            {Burst: 50, PerSecond: 2},
	"DescribeSecurityGroupAttribute": {Burst: 50, PerSecond: 2},
	"DescribeSecurityGroups":         {Burst: 50, PerSecond: 2},
	"DescribePrefixListAttributes":   {Burst: 50, PerSecond: 2},
}

// client makes calls with what the SDK lacks: a context, HTTPS, a rate, retries, and a
// body for what it would put into the URL.
type client struct {
	region, scheme, host string
	keys                 *keyring
	paces                *cloud.Paces
	transport            http.RoundTripper
}

func newClient(o Options) (*client, error) {
	scheme, host, err := o.address()
	if err != nil {
		return nil, err
	}
	keys, err := newKeyring(o)
	if err != nil {
		return nil, err
	}
	paces := o.Paces
	if paces == nil {
		paces = cloud.NewPaces(cloud.SystemClock{})
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   connectTimeout,
		ResponseHeaderTimeout: callTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   8,
	}
	return &client{region: o.Region, scheme: scheme, host: host, keys: keys, paces: paces, transport: transport}, nil
}

// call makes a call and waits for its answer, in a few attempts. Each has a request of
// its own, for a signature is good once.
func call[Q requests.AcsRequest, A any](ctx context.Context, c *client, ask func() Q, send func(*ecs.Client, Q) (A, error)) (A, error) {
	for n := 1; ; n++ {
		answer, err := attempt(ctx, c, ask(), send)
		if err == nil || n == attempts || !passing(err) || ctx.Err() != nil {
			return answer, err
		}
		if sleeping := (cloud.SystemClock{}).Sleep(ctx, backoff(n)); sleeping != nil {
			return answer, err // says more than that the time is up
		}
	}
}

// backoff is how long to wait after the n-th attempt: doubling, and somewhere in its
// upper half.
func backoff(n int) time.Duration {
	full := min(maxBackoff, minBackoff<<(n-1))
	return full/2 + rand.N(full/2) //nolint:gosec // jitter, no secret
}

func attempt[Q requests.AcsRequest, A any](ctx context.Context, c *client, request Q, send func(*ecs.Client, Q) (A, error)) (A, error) {
	var none A
	action := request.GetActionName()
	keys, err := c.keys.get(ctx)
	if err != nil {
		return none, err
	}
	rate, ok := documented[action]
	if !ok {
		return none, fmt.Errorf("%s is called without a documented rate: a bug", action)
	}
	pace := c.paces.Of(cloud.API{Account: c.keys.payer(keys), Region: c.region, Name: action}, rate)
	if err := pace.Wait(ctx); err != nil {
		return none, fmt.Errorf("%s: %w", action, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	session, err := c.session(ctx, keys)
	if err != nil {
		return none, err
	}
	answer, err := send(session, request)
	if err = classify("ecs:"+action, err); errors.Is(err, cloud.ErrThrottled) {
		pace.Throttled()
	}
	return answer, err
}

// session is the SDK's client for one call: it keeps timeouts and transports in fields
// that every call writes.
func (c *client) session(ctx context.Context, keys *credentials.Credentials) (*ecs.Client, error) {
	config := sdk.NewConfig().WithScheme(c.scheme).WithUserAgent(userAgent).WithTimeout(callTimeout)
	config.Transport = bound{ctx, c.transport}
	session := &ecs.Client{}
	err := session.InitWithOptions(c.region, config, &credentials.StsTokenCredential{
		AccessKeyId: keys.AccessKeyId, AccessKeySecret: keys.AccessKeySecret, AccessKeyStsToken: keys.SecurityToken,
	})
	session.Domain = c.host
	return session, err
}

// bound sends requests under a context, with their parameters in the body. The signature
// covers them wherever they stand; a hundred permissions are too much for an URL, which
// moreover is what proxies and errors show.
type bound struct {
	ctx  context.Context // of one call, whose code takes none
	next http.RoundTripper
}

func (b bound) RoundTrip(r *http.Request) (*http.Response, error) {
	form := r.URL.RawQuery
	if r.Body != nil {
		rest, err := io.ReadAll(r.Body)
		_ = r.Body.Close() // was read, is in memory
		if err != nil {
			return nil, err
		}
		if len(rest) > 0 {
			form += "&" + string(rest)
		}
	}
	out := r.Clone(b.ctx)
	out.URL.RawQuery = ""
	out.Body, out.ContentLength = io.NopCloser(strings.NewReader(form)), int64(len(form))
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(form)), nil }
	out.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.next.RoundTrip(out)
}
