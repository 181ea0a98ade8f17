package aws_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/aws"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

const (
	roleARN    = "arn:aws:iam::123456789012:role/portreeve"
	externalID = "fleet-7"
)

// town is an account behind HTTP that remembers with which keys it was called.
type town struct {
	*cloudtest.EC2
	endpoint, sts string

	mu   sync.Mutex
	keys []string // of EC2's callers
}

// newTown serves the account and its STS, and lets the SDK find the latter. It takes no
// lasting key but AKIDEXAMPLE, and has the group sg-1.
func newTown(t *testing.T, clock func() time.Time) *town {
	t.Helper()
	w := &town{EC2: cloudtest.NewEC2(cloudtest.Options{
		AccessKey: "AKIDEXAMPLE", SecretKey: "the secret", Region: "eu-central-1", Clock: clock,
	})}
	w.AddGroup("sg-1")
	w.AddRole(cloudtest.Role{ARN: roleARN, ExternalID: externalID, WebIdentity: "projected token"})
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, credential, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		key, _, _ := strings.Cut(credential, "/")
		w.mu.Lock()
		w.keys = append(w.keys, key)
		w.mu.Unlock()
		w.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	sts := httptest.NewServer(w.STS())
	t.Cleanup(sts.Close)
	w.endpoint, w.sts = front.URL, sts.URL
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	return w
}

// list lists sg-1 with a provider of the options, which it aims at the town.
func (w *town) list(t *testing.T, o aws.Options) error {
	t.Helper()
	o.Region, o.Endpoint = "eu-central-1", w.endpoint
	p, err := aws.New(t.Context(), o)
	if err != nil {
		return err
	}
	_, err = p.List(t.Context(), "sg-1")
	return err
}

// wantSession says that the last caller had a session, and no lasting key.
func (w *town) wantSession(t *testing.T) {
	t.Helper()
	if len(w.keys) == 0 || !strings.HasPrefix(w.keys[len(w.keys)-1], "ASIA") {
		t.Errorf("EC2 was called with the keys %v", w.keys)
	}
}

func TestARoleIsAssumedWithItsExternalID(t *testing.T) {
	offline(t, "AKIDEXAMPLE", "the secret")
	w := newTown(t, nil)
	if err := w.list(t, aws.Options{AssumeRole: aws.AssumeRole{ARN: roleARN, ExternalID: externalID}}); err != nil {
		t.Fatal(err)
	}
	w.wantSession(t)
}

func TestARoleThatDoesNotTrustUsIsDeniedByItsName(t *testing.T) {
	offline(t, "AKIDEXAMPLE", "the secret")
	w := newTown(t, nil)
	for name, role := range map[string]aws.AssumeRole{
		"wrong external id": {ARN: roleARN, ExternalID: "fleet-8"},
		"no external id":    {ARN: roleARN},
		"no such role":      {ARN: roleARN + "s", ExternalID: externalID},
	} {
		err := w.list(t, aws.Options{AssumeRole: role})
		if !errors.Is(err, cloud.ErrDenied) || !strings.Contains(err.Error(), "missing permission sts:AssumeRole") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if len(w.keys) > 0 {
		t.Errorf("EC2 was called with the keys %v", w.keys)
	}
}

func TestKeysOfASecretTakeThePlaceOfTheChain(t *testing.T) {
	offline(t, "AKIDOTHER", "of somebody else")
	w := newTown(t, nil)
	keys := aws.Keys{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "the secret"}
	if err := w.list(t, aws.Options{Keys: keys}); err != nil {
		t.Error(err)
	}
	if err := w.list(t, aws.Options{Keys: keys, AssumeRole: aws.AssumeRole{ARN: roleARN, ExternalID: externalID}}); err != nil {
		t.Error(err)
	}
	w.wantSession(t)
	keys.SessionToken = "of no session"
	keys.AccessKeyID = "ASIAEXAMPLE"
	if err := w.list(t, aws.Options{Keys: keys}); !errors.Is(err, cloud.ErrDenied) {
		t.Errorf("a session that is none: error %v", err)
	}
}

// As EKS sets a pod up whose service account has a role (IRSA).
func TestTheChainTakesTheWebIdentityOfAServiceAccount(t *testing.T) {
	offline(t, "", "")
	w := newTown(t, nil)
	token := filepath.Join(t.TempDir(), "token")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
	t.Setenv("AWS_ROLE_ARN", roleARN)
	for text, kind := range map[string]error{"projected token": nil, "of another account": cloud.ErrDenied} {
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.list(t, aws.Options{}); !errors.Is(err, kind) || (kind == nil) != (err == nil) {
			t.Errorf("with the token %q: error %v, want %v", text, err, kind)
		}
	}
	w.wantSession(t)
	t.Setenv("AWS_ROLE_ARN", roleARN+"s")
	err := w.list(t, aws.Options{})
	if !errors.Is(err, cloud.ErrDenied) || !strings.Contains(err.Error(), "trust of the role in this service account") {
		t.Errorf("a role that does not trust the service account: error %v", err)
	}
}

// As EKS sets a pod up whose service account has a Pod Identity association.
func TestTheChainTakesAPodIdentity(t *testing.T) {
	offline(t, "", "")
	w := newTown(t, nil)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("pod's own token"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "pod's own token" {
			http.Error(rw, "whose are you?", http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(rw).Encode(map[string]string{ // the client sees what is missing
			"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "the secret", "AccountId": "123456789012",
			"Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		})
	}))
	t.Cleanup(agent.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL+"/v1/credentials")
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token)
	if err := w.list(t, aws.Options{}); err != nil {
		t.Error(err)
	}
	if err := w.list(t, aws.Options{AssumeRole: aws.AssumeRole{ARN: roleARN, ExternalID: externalID}}); err != nil {
		t.Error(err)
	}
	w.wantSession(t)
}

func TestASessionIsRenewedBeforeItEnds(t *testing.T) {
	offline(t, "AKIDEXAMPLE", "the secret")
	w := newTown(t, nil)
	ends := time.Now().Add(30 * time.Second) // less than the renewal's lead
	short := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		w.STS().ServeHTTP(answer, r)
		text := answer.Body.String()
		_, after, _ := strings.Cut(text, "<Expiration>")
		told, _, _ := strings.Cut(after, "</Expiration>")
		_, _ = rw.Write([]byte(strings.Replace(text, told, ends.UTC().Format(time.RFC3339), 1)))
	}))
	t.Cleanup(short.Close)
	t.Setenv("AWS_ENDPOINT_URL_STS", short.URL)
	p, err := aws.New(t.Context(), aws.Options{
		Region: "eu-central-1", Endpoint: w.endpoint, AssumeRole: aws.AssumeRole{ARN: roleARN, ExternalID: externalID},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := p.List(t.Context(), "sg-1"); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.keys) != 2 || w.keys[0] == w.keys[1] {
		t.Errorf("sessions %v, want one for each call", w.keys)
	}
}

func TestAnEndedSessionIsDenied(t *testing.T) {
	offline(t, "AKIDEXAMPLE", "the secret")
	var mu sync.Mutex
	ahead := -10 * time.Minute // no more than a signature's date may be off
	w := newTown(t, func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Add(ahead)
	})
	p, err := aws.New(t.Context(), aws.Options{
		Region: "eu-central-1", Endpoint: w.endpoint, AssumeRole: aws.AssumeRole{ARN: roleARN, ExternalID: externalID},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.List(t.Context(), "sg-1"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	ahead = 10 * time.Minute
	mu.Unlock()
	if _, err := p.List(t.Context(), "sg-1"); !errors.Is(err, cloud.ErrDenied) || strings.Contains(err.Error(), "permission") {
		t.Errorf("error %v", err)
	}
}

func TestOptionsThatContradictThemselvesAreInvalid(t *testing.T) {
	offline(t, "test", "test")
	for name, o := range map[string]aws.Options{
		"no region":              {},
		"half a key":             {Region: "eu-central-1", Keys: aws.Keys{AccessKeyID: "AKIDEXAMPLE"}},
		"the other half":         {Region: "eu-central-1", Keys: aws.Keys{SecretAccessKey: "the secret"}},
		"a session without keys": {Region: "eu-central-1", Keys: aws.Keys{SessionToken: "token"}},
		"an external id alone":   {Region: "eu-central-1", AssumeRole: aws.AssumeRole{ExternalID: externalID}},
	} {
		if _, err := aws.New(t.Context(), o); !errors.Is(err, cloud.ErrInvalid) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestARoleIsNotAssumedWithAWrongSecret(t *testing.T) {
	offline(t, "AKIDEXAMPLE", "not the secret")
	w := newTown(t, nil)
	err := w.list(t, aws.Options{AssumeRole: aws.AssumeRole{ARN: roleARN, ExternalID: externalID}})
	if !errors.Is(err, cloud.ErrDenied) || strings.Contains(err.Error(), "missing permission") {
		t.Errorf("error %v", err)
	}
}
