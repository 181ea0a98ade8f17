package alibaba

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
)

// clean empties the environment of everything that says who we are, and sets env.
func clean(t *testing.T, env map[string]string) {
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
	for name, value := range env {
		t.Setenv(name, value)
	}
}

// vendor answers for STS over TLS and, as a proxy, for the metadata of an instance. It
// makes keys named after the call, and notes what it was asked.
type vendor struct {
	mu    sync.Mutex
	asked []url.Values
	deny  string // an error code to answer
}

func (v *vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_ = r.ParseForm() // a form of the SDK's own making
	v.asked = append(v.asked, r.Form)
	if v.deny != "" {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"Code": %q, "Message": "no", "RequestId": "42"}`, v.deny)
		return
	}
	session := map[string]any{
		"AccessKeyId": "STS." + r.Form.Get("Action"), "AccessKeySecret": "session secret", "SecurityToken": "session token",
		"Expiration": time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05Z"), "Code": "Success",
	}
	switch r.URL.Path {
	case "/": // STS
		_ = json.NewEncoder(w).Encode(map[string]any{"Credentials": session})
	case "/latest/api/token":
		fmt.Fprint(w, "metadata token")
	case "/latest/meta-data/ram/security-credentials/":
		fmt.Fprint(w, "node-role")
	case "/latest/meta-data/ram/security-credentials/node-role":
		_ = json.NewEncoder(w).Encode(session)
	default:
		http.NotFound(w, r)
	}
}

// start serves the vendor to the SDK, which makes its transport after the default one,
// and returns the host of STS.
func (v *vendor) start(t *testing.T) string {
	t.Helper()
	sts, metadata := httptest.NewTLSServer(v), httptest.NewServer(v)
	t.Cleanup(sts.Close)
	t.Cleanup(metadata.Close)
	transport := http.DefaultTransport.(*http.Transport)
	was := transport.Clone()
	t.Cleanup(func() { transport.Proxy, transport.TLSClientConfig = was.Proxy, nil })
	transport.TLSClientConfig = sts.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	if transport.TLSClientConfig.RootCAs == nil {
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	}
	transport.Proxy = func(r *http.Request) (*url.URL, error) {
		if r.URL.Hostname() == "100.100.100.200" {
			return url.Parse(metadata.URL)
		}
		return nil, nil
	}
	return strings.TrimPrefix(sts.URL, "https://")
}

func tokenFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("service account token"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCredentialsAreFoundInTheVendorsOrder(t *testing.T) {
	vendor := &vendor{}
	sts := vendor.start(t)
	environment := map[string]string{"ALIBABA_CLOUD_ACCESS_KEY_ID": "LTAIENV", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "s"}
	older := map[string]string{"ALIBABACLOUD_ACCESS_KEY_ID": "LTAIOLD", "ALIBABACLOUD_ACCESS_KEY_SECRET": "s"}
	rrsa := map[string]string{
		"ALIBABA_CLOUD_ROLE_ARN": "acs:ram::111:role/portreeve", "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::111:oidc-provider/ack",
		"ALIBABA_CLOUD_OIDC_TOKEN_FILE": tokenFile(t),
	}
	secret := Options{Keys: Keys{AccessKeyID: "LTAISECRET", AccessKeySecret: "s"}}
	role := Options{Keys: secret.Keys, AssumeRole: AssumeRole{ARN: "acs:ram::222:role/gate", ExternalID: "42"}}
	for _, c := range []struct {
		name       string
		env        []map[string]string
		options    Options
		key, payer string
	}{
		{"a Secret before all", []map[string]string{environment, older, rrsa}, secret, "LTAISECRET", "LTAISECRET"},
		{"the environment", []map[string]string{environment, older, rrsa}, Options{}, "LTAIENV", "LTAIENV"},
		{"the environment as older tools spell it", []map[string]string{older, rrsa}, Options{}, "LTAIOLD", "LTAIOLD"},
		{"RRSA before the node's role", []map[string]string{rrsa}, Options{}, "STS.AssumeRoleWithOIDC", "111"},
		{"the role of the instance", nil, Options{}, "STS.", ""},
		{"a role with an external id", nil, role, "STS.AssumeRole", "222"},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := map[string]string{}
			for _, part := range c.env {
				for name, value := range part {
					env[name] = value
				}
			}
			clean(t, env)
			c.options.Region, c.options.sts = "eu-central-1", sts
			ring, err := newKeyring(c.options)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ring.get(t.Context())
			if err != nil || got.AccessKeyId != c.key || ring.payer(got) != c.payer {
				t.Fatalf("%v, payer %q, %v; want %s of %q", got.AccessKeyId, ring.payer(got), err, c.key, c.payer)
			}
			if c.payer == "222" {
				if asked := vendor.asked[len(vendor.asked)-1]; asked.Get("ExternalId") != "42" || asked.Get("RoleSessionName") != userAgent {
					t.Errorf("asked %v", asked)
				}
			}
		})
	}
}

func TestASessionIsKeptAndSharedByCallsAtOnce(t *testing.T) {
	vendor := &vendor{}
	clean(t, nil)
	ring, err := newKeyring(Options{
		Region: "eu-central-1", sts: vendor.start(t),
		Keys: Keys{AccessKeyID: "LTAI", AccessKeySecret: "s"}, AssumeRole: AssumeRole{ARN: "acs:ram::222:role/gate"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := ring.get(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(vendor.asked) != 1 {
		t.Errorf("STS was asked %d times", len(vendor.asked))
	}
}

func TestWhatIsConfiguredAndFailsIsNotPassedOver(t *testing.T) {
	vendor := &vendor{deny: "NoPermission"}
	clean(t, map[string]string{
		"ALIBABA_CLOUD_ROLE_ARN": "acs:ram::111:role/portreeve", "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::111:oidc-provider/ack",
		"ALIBABA_CLOUD_OIDC_TOKEN_FILE": tokenFile(t),
	})
	p, err := New(Options{Region: "eu-central-1", sts: vendor.start(t)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.List(t.Context(), "sg-1")
	if !errors.Is(err, cloud.ErrDenied) || !strings.Contains(err.Error(), "missing permission sts:AssumeRoleWithOIDC") {
		t.Errorf("error %v", err)
	}
	if strings.Contains(err.Error(), "service account token") {
		t.Errorf("the error shows the token: %v", err)
	}
	for _, asked := range vendor.asked {
		if asked.Get("Action") != "AssumeRoleWithOIDC" {
			t.Errorf("asked %v", asked)
		}
	}
}

func TestNobodyIsDeniedAtOnce(t *testing.T) {
	clean(t, map[string]string{"ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"})
	if _, err := New(Options{Region: "eu-central-1"}); !errors.Is(err, cloud.ErrDenied) {
		t.Errorf("error %v", err)
	}
	clean(t, map[string]string{"ALIBABA_CLOUD_OIDC_TOKEN_FILE": tokenFile(t)}) // and no role
	if _, err := New(Options{Region: "eu-central-1"}); !errors.Is(err, cloud.ErrDenied) || !strings.Contains(err.Error(), "RRSA") {
		t.Errorf("error %v", err)
	}
}

func TestOptionsThatContradictThemselvesAreInvalid(t *testing.T) {
	clean(t, nil)
	keys := Keys{AccessKeyID: "LTAI", AccessKeySecret: "s"}
	for name, o := range map[string]Options{
		"no region":             {Keys: keys},
		"a region with a host":  {Region: "eu.example.com", Keys: keys},
		"half a key":            {Region: "eu-central-1", Keys: Keys{AccessKeyID: "LTAI"}},
		"a token alone":         {Region: "eu-central-1", Keys: Keys{SecurityToken: "t"}},
		"an external id alone":  {Region: "eu-central-1", Keys: keys, AssumeRole: AssumeRole{ExternalID: "42"}},
		"a priority beyond all": {Region: "eu-central-1", Keys: keys, Priority: 101},
		"a priority below all":  {Region: "eu-central-1", Keys: keys, Priority: -1},
	} {
		if _, err := New(o); !errors.Is(err, cloud.ErrInvalid) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestKeysShowTheirIDOnly(t *testing.T) {
	k := Keys{AccessKeyID: "LTAI", AccessKeySecret: "geheim", SecurityToken: "geheim"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "keys", k, "options", Options{Keys: k})
	inJSON, err := json.Marshal(Options{Keys: k})
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", Options{Keys: k}), fmt.Sprintf("%q", k), log.String(), string(inJSON)} {
		if strings.Contains(shown, "geheim") || !strings.Contains(shown, "LTAI") {
			t.Errorf("shown: %s", shown)
		}
	}
}
