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
	ofManager = regexp.MustCompile(`(?:Name: +|NewDesc\()"(portreeve_[a-z_]+)"`)
	ofAgent   = regexp.MustCompile(`(?:name\(|Name: )"([a-z_]+)",`)
	ofJournal = regexp.MustCompile(`Name: "([a-z_]+)"`)
)

// metrics are the names of all that manager and agents have.
func metrics(t *testing.T) (exist []string) {
	t.Helper()
	for file, found := range map[string]*regexp.Regexp{
		"controllers/metrics.go": ofManager, "controllers/census.go": ofManager,
		"internal/agent/metrics.go": ofAgent, "internal/agent/packets.go": ofJournal,
	} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		matches := found.FindAllStringSubmatch(string(text), -1)
		if len(matches) == 0 {
			t.Errorf("%s has no metric", file)
		}
		for _, match := range matches {
			name := match[1]
			if found != ofManager {
				name = "portreeve_agent_" + name
			}
			exist = append(exist, name)
		}
	}
	return exist
}

// known says whether there is the metric, or the histogram of which it is a part.
func known(exist []string, name string) bool {
	for _, part := range []string{"", "_bucket", "_sum", "_count"} {
		if whole, is := strings.CutSuffix(name, part); is && slices.Contains(exist, whole) {
			return true
		}
	}
	return false
}

// Every metric is explained, and so is every alert, in a section of its own to which the
// alert leads.
func TestThePageOfMonitoringIsWhole(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/monitoring.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, name := range metrics(t) {
		if !strings.Contains(page, "`"+name+"`") && !strings.Contains(page, "`"+name+"{") {
			t.Errorf("docs/monitoring.md does not explain %s", name)
		}
	}
	all, _ := alerts(t)
	for _, a := range all {
		if !strings.Contains(page, "\n### "+a.Alert+"\n") {
			t.Errorf("docs/monitoring.md has no section %s", a.Alert)
		}
		if want := "https://github.com/portreeve/portreeve/blob/main/docs/monitoring.md#" + strings.ToLower(a.Alert); a.Annotations["runbook_url"] != want {
			t.Errorf("%s leads to %q, want %s", a.Alert, a.Annotations["runbook_url"], want)
		}
	}
}

// An alert over a metric that nobody has would never wake anybody.
func TestAlertsSpeakOfMetricsThatExist(t *testing.T) {
	exist := metrics(t)
	all, _ := alerts(t)
	spoken := 0
	for _, a := range all {
		for _, name := range metric.FindAllString(a.Expr, -1) {
			spoken++
			if !known(exist, name) {
				t.Errorf("%s speaks of %s; there are %q", a.Alert, name, exist)
			}
		}
	}
	if spoken < 8 {
		t.Errorf("the alerts speak of %d metrics", spoken)
	}
}

// Every alert has a case that fires it, and one in which it is silent.
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
	all, _ := alerts(t)
	for _, a := range all {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: a case that fires it: %v, one in which it is silent: %v", a.Alert, fires[a.Alert], silent[a.Alert])
		}
		if a.Labels["severity"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s lacks a severity or words", a.Alert)
		}
	}
}

// The real promtool plays each fault: the alert fires, with the words that a person
// reads, and not otherwise.
func TestAlertsFireAtTheirFaultAndNotOtherwise(t *testing.T) {
	promtool := findPromtool(t)
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

func findPromtool(t *testing.T) string {
	t.Helper()
	if promtool, err := exec.LookPath("promtool"); err == nil {
		return promtool
	}
	promtool := filepath.Join(cache(t), "promtool")
	if _, err := os.Stat(promtool); err != nil {
		t.Skip("promtool is not installed (hack/promtool.sh gets it)")
	}
	return promtool
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
