package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

type alert struct {
	Alert, Expr, For string
	Labels           map[string]string
	Annotations      map[string]string
}

// alerts are those of config/prometheus, and the same in Prometheus' own format.
func alerts(t *testing.T) (all []alert, plain string) {
	t.Helper()
	for _, object := range build(t, "config/all") {
		if object.Text("kind") != "PrometheusRule" {
			continue
		}
		text, err := yaml.Marshal(object["spec"])
		if err != nil {
			t.Fatal(err)
		}
		var spec struct{ Groups []struct{ Rules []alert } }
		if err := yaml.Unmarshal(text, &spec); err != nil {
			t.Fatal(err)
		}
		for _, group := range spec.Groups {
			all = append(all, group.Rules...)
		}
		return all, string(text)
	}
	t.Fatal("config/all has no PrometheusRule")
	return nil, ""
}

var (
	metric    = regexp.MustCompile(`\bportreeve_[a-z_]+`)
	ofManager = regexp.MustCompile(`Name: +"(portreeve_[a-z_]+)"`)
	ofAgent   = regexp.MustCompile(`name\("([a-z_]+)", "`)
)

// An alert over a metric that nobody has would never wake anybody.
func TestAlertsSpeakOfMetricsThatExist(t *testing.T) {
	var exist []string
	for file, found := range map[string]*regexp.Regexp{"controllers/metrics.go": ofManager, "internal/agent/metrics.go": ofAgent} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range found.FindAllStringSubmatch(string(text), -1) {
			name := match[1]
			if found == ofAgent {
				name = "portreeve_agent_" + name
			}
			exist = append(exist, name)
		}
	}
	all, _ := alerts(t)
	spoken := 0
	for _, a := range all {
		for _, name := range metric.FindAllString(a.Expr, -1) {
			spoken++
			if !slices.Contains(exist, name) {
				t.Errorf("%s speaks of %s; there are %q", a.Alert, name, exist)
			}
		}
	}
	if spoken < 8 {
		t.Errorf("the alerts speak of %d metrics", spoken)
	}
}

// Every alert has a case that fires it, one in which it is silent, and a line in the docs.
func TestEveryAlertHasItsCases(t *testing.T) {
	text, err := os.ReadFile("testdata/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var played struct {
		Tests []struct {
			Cases []struct {
				Name  string `json:"alertname"`
				Fires []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal(text, &played); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range played.Tests {
		for _, c := range test.Cases {
			fires[c.Name] = fires[c.Name] || len(c.Fires) > 0
			silent[c.Name] = silent[c.Name] || len(c.Fires) == 0
		}
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/install.md"))
	if err != nil {
		t.Fatal(err)
	}
	all, _ := alerts(t)
	for _, a := range all {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: a case that fires it: %v, one in which it is silent: %v", a.Alert, fires[a.Alert], silent[a.Alert])
		}
		if !strings.Contains(string(page), "`"+a.Alert+"`") {
			t.Errorf("docs/install.md does not say what %s wants", a.Alert)
		}
		if a.Labels["severity"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s lacks a severity or words", a.Alert)
		}
	}
}

// The real promtool plays each fault: the alert fires, with the words that a person
// reads, and not otherwise.
func TestAlertsFireAtTheirFaultAndNotOtherwise(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		promtool = filepath.Join(cache(t), "promtool")
		if _, err := os.Stat(promtool); err != nil {
			t.Skip("promtool is not installed (hack/promtool.sh gets it)")
		}
	}
	dir := t.TempDir()
	_, rules := alerts(t)
	cases, err := os.ReadFile("testdata/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"rules.yaml": rules, "alerts.yaml": string(cases)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"check", "rules", "rules.yaml"}, {"test", "rules", "alerts.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v\n%s", args, err, out)
		}
	}
}

// cache is the folder in which hack/*.sh keep what is slow to get.
func cache(t *testing.T) string {
	t.Helper()
	if folder := os.Getenv("PORTREEVE_CACHE"); folder != "" {
		return folder
	}
	folder, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, "portreeve")
}
