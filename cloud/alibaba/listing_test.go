package alibaba_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/cloud/alibaba"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

func TestAPageThatIsNoAnswerIsAnError(t *testing.T) {
	offline(t)
	for name, answer := range map[string]func(http.ResponseWriter){
		"no JSON":       func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) },
		"a proxy's 502": func(w http.ResponseWriter) { http.Error(w, strings.Repeat("<p>", 1000), http.StatusBadGateway) },
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
		t.Cleanup(server.Close)
		rules, err := open(t, alibaba.Options{Endpoint: server.URL}).List(t.Context(), "sg-1")
		if err == nil || len(rules) > 0 || len(err.Error()) > 500 {
			t.Errorf("%s: %v, %v", name, rules, err)
		}
	}
}

func TestAShortPageIsNotTheEndOfTheListing(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{PageSize: 10})
	account.AddGroup("sg-1")
	for i := range 20 {
		account.Seed("sg-1", cloudtest.Foreign(fmt.Sprintf("TCP %d 10.8.0.0/16", 30000+i)))
	}
	account.Inject(cloudtest.Fault{Action: "DescribeSecurityGroupAttribute", Partial: true, Times: 2})
	have, err := open(t, alibaba.Options{Endpoint: endpoint}).List(t.Context(), "sg-1")
	if err != nil || len(have) != 20 {
		t.Errorf("%d rules, %v", len(have), err)
	}
}

// A rule that moves from one page to the next between two calls must not look like two:
// the second would be revoked as a copy, and there is but one.
func TestAGroupThatChangesBetweenTwoPagesShowsNoRuleTwice(t *testing.T) {
	offline(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const rule = `{"SecurityGroupRuleId": "sgr-%d", "IpProtocol": "TCP", "PortRange": "30080/30080", "SourceCidrIp": "10.%[1]d.0.0/16", "Policy": "Accept"}`
		next, shown := "more", []any{1, 2}
		if r.FormValue("NextToken") != "" {
			next, shown = "", []any{2, 3}
		}
		fmt.Fprintf(w, `{"NextToken": %q, "Permissions": {"Permission": [`+fmt.Sprintf(rule, shown[0])+`,`+fmt.Sprintf(rule, shown[1])+`]}}`, next)
	}))
	t.Cleanup(server.Close)
	have, err := open(t, alibaba.Options{Endpoint: server.URL}).List(t.Context(), "sg-1")
	var ids []string
	for _, r := range have {
		ids = append(ids, r.ID)
	}
	if err != nil || !slices.Equal(ids, []string{"sgr-1", "sgr-2", "sgr-3"}) {
		t.Errorf("listed %q, %v", ids, err)
	}
}

func TestAListingThatGoesInCirclesEnds(t *testing.T) {
	offline(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"NextToken": "again", "Permissions": {"Permission": []}}`))
	}))
	t.Cleanup(server.Close)
	if _, err := open(t, alibaba.Options{Endpoint: server.URL}).List(t.Context(), "sg-1"); err == nil {
		t.Error("no error")
	}
}
