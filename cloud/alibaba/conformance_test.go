package alibaba_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/alibaba"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// keys are those of every account here.
var keys = alibaba.Keys{AccessKeyID: "LTAIEXAMPLE", AccessKeySecret: "the secret"}

// hurried is a clock by which nobody waits: the rates are tested where they are.
type hurried struct{ cloud.SystemClock }

func (hurried) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }

// offline keeps the search for credentials from finding any.
func offline(t *testing.T) {
	t.Helper()
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "ALIBABA_CLOUD_") || strings.HasPrefix(name, "ALIBABACLOUD_") {
			t.Setenv(name, value) // so that it is restored
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
}

// serve puts an account with our keys behind HTTP.
func serve(t *testing.T, o cloudtest.ECSOptions, around ...func(http.Handler) http.Handler) (*cloudtest.ECS, string) {
	t.Helper()
	o.AccessKey, o.SecretKey = keys.AccessKeyID, keys.AccessKeySecret
	account := cloudtest.NewECS(o)
	var front http.Handler = account
	for _, wrap := range around {
		front = wrap(front)
	}
	server := httptest.NewServer(front)
	t.Cleanup(server.Close)
	return account, server.URL
}

func open(t *testing.T, o alibaba.Options) *alibaba.Provider {
	t.Helper()
	if o.Region == "" {
		o.Region = "eu-central-1"
	}
	if o.Keys == (alibaba.Keys{}) {
		o.Keys = keys
	}
	if o.Paces == nil {
		o.Paces = cloud.NewPaces(hurried{})
	}
	p, err := alibaba.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFrontConformance(t *testing.T) {
	offline(t)
	for name, o := range map[string]cloudtest.ECSOptions{
		"lenient about duplicates": {PageSize: 10, Region: "eu-central-1"},
		"older":                    {PageSize: 10, Older: true},
	} {
		t.Run(name, func(t *testing.T) {
			cloudtest.Conformance(t, func(t *testing.T) cloudtest.Backend {
				account, endpoint := serve(t, o)
				return account.Backend(open(t, alibaba.Options{Endpoint: endpoint}))
			})
		})
	}
}

func TestFrontConformanceAtAnotherPriority(t *testing.T) {
	offline(t)
	cloudtest.Conformance(t, func(t *testing.T) cloudtest.Backend {
		account, endpoint := serve(t, cloudtest.ECSOptions{})
		return account.Backend(open(t, alibaba.Options{Endpoint: endpoint, Priority: 50}))
	})
}
