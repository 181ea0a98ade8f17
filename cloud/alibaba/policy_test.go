package alibaba_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/cloud/alibaba"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// The RAM policy of the docs allows what the provider calls, and nothing else.
func TestThePolicyOfTheDocsIsWhatIsCalled(t *testing.T) {
	offline(t)
	called := map[string]bool{}
	account, endpoint := serve(t, cloudtest.ECSOptions{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			called["ecs:"+r.Form.Get("Action")] = true
		})
	})
	account.AddGroup("sg-1")
	account.AddPrefixList("pl-1", 1, netip.MustParsePrefix("10.8.0.0/16"))
	p := open(t, alibaba.Options{Endpoint: endpoint})
	for name, do := range calls(p) {
		if err := do(t.Context()); err != nil && name != "RevokeSecurityGroup" { // of a rule that nobody has
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := p.Tagged(t.Context(), map[string]string{"portreeve": "managed"}); err != nil {
		t.Error(err)
	}

	page, err := os.ReadFile("../../docs/cloud-alibaba.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	text, _, _ := strings.Cut(rest, "```")
	var policy struct {
		Version   string
		Statement []struct {
			Effect   string
			Action   []string
			Resource any
		}
	}
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, s := range policy.Statement {
		for _, action := range s.Action {
			allowed[action] = true
		}
		if s.Effect != "Allow" || s.Resource == nil {
			t.Errorf("statement %+v", s)
		}
	}
	if policy.Version != "1" || !maps.Equal(allowed, called) {
		t.Errorf("version %s; allowed %q, called %q", policy.Version, slices.Sorted(maps.Keys(allowed)), slices.Sorted(maps.Keys(called)))
	}
}
