package aws_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

func TestAWrongSecretIsDenied(t *testing.T) {
	offline(t, "AKIDEXAMPLE", "not the secret")
	server := httptest.NewServer(cloudtest.NewEC2(cloudtest.Options{AccessKey: "AKIDEXAMPLE", SecretKey: "the secret"}))
	t.Cleanup(server.Close)
	wantDenied(t, server.URL, "SignatureDoesNotMatch")
}

func TestAnUnknownAccessKeyIsDenied(t *testing.T) {
	offline(t, "AKIDOTHER", "the secret")
	server := httptest.NewServer(cloudtest.NewEC2(cloudtest.Options{AccessKey: "AKIDEXAMPLE", SecretKey: "the secret"}))
	t.Cleanup(server.Close)
	wantDenied(t, server.URL, "AuthFailure")
}

func TestARequestFromAnotherTimeIsDenied(t *testing.T) {
	offline(t, "test", "test")
	server := httptest.NewServer(cloudtest.NewEC2(cloudtest.Options{
		Clock: func() time.Time { return time.Now().Add(16 * time.Minute) },
	}))
	t.Cleanup(server.Close)
	wantDenied(t, server.URL, "RequestExpired")
}

func TestARequestForAnotherRegionIsDenied(t *testing.T) {
	offline(t, "test", "test")
	server := httptest.NewServer(cloudtest.NewEC2(cloudtest.Options{Region: "eu-west-1"}))
	t.Cleanup(server.Close)
	wantDenied(t, server.URL, "AuthFailure")
}

func wantDenied(t *testing.T, endpoint, code string) {
	t.Helper()
	_, err := open(t, endpoint).List(t.Context(), "sg-1")
	var api interface{ ErrorCode() string }
	if !errors.Is(err, cloud.ErrDenied) || !errors.As(err, &api) || api.ErrorCode() != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

func TestCallsSayWhoMakesThem(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	agent := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent = r.UserAgent()
		account.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	if _, err := open(t, server.URL).List(t.Context(), "sg-1"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(agent, "portreeve") {
		t.Errorf("user agent %q", agent)
	}
}

func TestAShortThrottlingIsRiddenOutByTheSDK(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.Inject(cloudtest.Fault{Code: "RequestLimitExceeded", Times: 2})
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	if _, err := open(t, server.URL).List(t.Context(), "sg-1"); err != nil {
		t.Error(err)
	}
}

func TestAGroupWithoutAnyRuleIsEmptyAndExists(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.DropEgress("sg-1")
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	p := open(t, server.URL)
	if rules, err := p.List(t.Context(), "sg-1"); err != nil || len(rules) != 0 {
		t.Errorf("%v, %v", rules, err)
	}
	if _, err := p.List(t.Context(), "sg-2"); !errors.Is(err, cloud.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}
