package packaging

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// queries are those of the dashboard, by the title of their panel, as Prometheus gets them
// from Grafana.
func queries(t *testing.T) map[string][]string {
	t.Helper()
	for _, object := range build(t, "config/all") {
		if object.Text("kind") != "ConfigMap" || object.Text("metadata", "labels", "grafana_dashboard") != "1" {
			continue
		}
		var dashboard struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal([]byte(object.Text("data", "portreeve.json")), &dashboard); err != nil {
			t.Fatal(err)
		}
		found := map[string][]string{}
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				found[panel.Title] = append(found[panel.Title], strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
			}
		}
		return found
	}
	t.Fatal("config/all has no ConfigMap with the label grafana_dashboard")
	return nil
}

// A panel over a metric that nobody has would be empty for ever.
func TestTheDashboardShowsMetricsThatExist(t *testing.T) {
	exist, shown := metrics(t), 0
	for title, exprs := range queries(t) {
		for _, expr := range exprs {
			if strings.Contains(expr, "$") {
				t.Errorf("%s: %s has a variable", title, expr)
			}
			for _, name := range metric.FindAllString(expr, -1) {
				shown++
				if !known(exist, name) {
					t.Errorf("%s shows %s; there are %q", title, name, exist)
				}
			}
		}
	}
	if shown < 25 {
		t.Errorf("the dashboard shows %d metrics", shown)
	}
}

// Prometheus' own parser takes every query of the dashboard.
func TestPrometheusTakesTheQueriesOfTheDashboard(t *testing.T) {
	promtool := findPromtool(t)
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, exprs := range queries(t) {
		for _, expr := range exprs {
			rules = append(rules, rule{fmt.Sprintf("query:%d", len(rules)), expr})
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "queries.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
