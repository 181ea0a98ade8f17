package alerts

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

const (
	// hurry divides every duration of the rules, so that an alert that wants a fault to
	// last five minutes wants it to last five seconds.
	hurry = 60
	// every is how often Prometheus asks and judges.
	every  = time.Second
	listen = "127.0.0.1:9090"
)

// access is how Prometheus reads the metrics of manager and agents.
var access = scraper{}

// scraper is that part of Prometheus' configuration which is the same for both.
type scraper struct {
	// TokenFile holds a bearer token; empty: none is sent.
	TokenFile string
	// TLS is spoken, and the server's certificate is not verified.
	TLS bool
}

func (s scraper) job(name string, targets ...map[string]any) map[string]any {
	job := map[string]any{"job_name": name, "static_configs": targets}
	if s.TokenFile != "" {
		job["authorization"] = map[string]any{"credentials_file": s.TokenFile}
	}
	if s.TLS {
		job["scheme"], job["tls_config"] = "https", map[string]any{"insecure_skip_verify": true}
	}
	return job
}

// jobs are as those that the Prometheus operator makes of the PodMonitors.
func jobs(town *stage.Stage) []any {
	var agents []map[string]any
	for _, n := range town.Nodes() {
		agents = append(agents, map[string]any{"targets": []string{n.Addrs[0].String() + ":9465"}, "labels": map[string]string{"node": n.Name}})
	}
	return []any{
		access.job("portreeve-system/portreeve-manager", map[string]any{"targets": []string{"127.0.0.1:8080"}}),
		access.job("portreeve-system/portreeve-agent", agents...),
	}
}

// program finds Prometheus, or leaves the test out.
func program(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("prometheus"); err == nil {
		return path
	}
	cache := os.Getenv("PORTREEVE_CACHE")
	if cache == "" {
		folder, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(folder, "portreeve")
	}
	path := filepath.Join(cache, "prometheus")
	if _, err := os.Stat(path); err != nil {
		t.Skip("prometheus is not installed (hack/promtool.sh gets it)")
	}
	return path
}

// rules are those of config/prometheus, in Prometheus' own format and in a hurry; and the
// names of the alerts.
func rules(t *testing.T) (text []byte, names []string) {
	t.Helper()
	manifest, err := os.ReadFile(filepath.Join(stage.Root(), "config/prometheus/rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec struct {
			Groups []struct {
				Name  string           `json:"name"`
				Rules []map[string]any `json:"rules"`
			} `json:"groups"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(manifest, &object); err != nil {
		t.Fatal(err)
	}
	for _, group := range object.Spec.Groups {
		for _, r := range group.Rules {
			names = append(names, r["alert"].(string))
			if lasting, is := r["for"].(string); is {
				r["for"] = hurried(lasting)
			}
			r["expr"] = window.ReplaceAllStringFunc(r["expr"].(string), func(w string) string { return "[" + hurried(strings.Trim(w, "[]")) + "]" })
		}
	}
	if text, err = yaml.Marshal(object.Spec); err != nil {
		t.Fatal(err)
	}
	return text, names
}

var (
	window   = regexp.MustCompile(`\[[0-9]+[smhd]\]`)
	duration = regexp.MustCompile(`^([0-9]+)([smhd])$`)
)

// hurried is a duration as Prometheus writes it, divided.
func hurried(text string) string {
	parts := duration.FindStringSubmatch(text)
	if parts == nil {
		panic("a duration that is not a number and a unit: " + text)
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil {
		panic(err)
	}
	unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[parts[2]]
	return fmt.Sprintf("%dms", (time.Duration(n) * unit / hurry).Milliseconds())
}

func TestDurationsAreDivided(t *testing.T) {
	for text, want := range map[string]string{"1m": "1000ms", "15m": "15000ms", "1h": "60000ms", "30s": "500ms", "2d": "2880000ms"} {
		if have := hurried(text); have != want {
			t.Errorf("%s: %s, want %s", text, have, want)
		}
	}
}

// prometheus is a running one.
type prometheus struct {
	in *lab.Namespace
	// since it has seen all that it is to see; before, nobody answers.
	since time.Time
}

// start runs Prometheus beside the manager, until the lab closes.
func start(ctx context.Context, t *testing.T, town *stage.Stage, path string) *prometheus {
	t.Helper()
	text, _ := rules(t)
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]any{"scrape_interval": every.String(), "scrape_timeout": every.String(), "evaluation_interval": every.String()},
		"rule_files":     []string{"rules.yaml"},
		"scrape_configs": jobs(town),
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(town.Dir(), "prometheus")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"rules.yaml": text, "prometheus.yaml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := town.Run(ctx, lab.Command{Name: "prometheus", Dir: dir, Argv: []string{
		path, "--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--web.listen-address=" + listen,
	}}); err != nil {
		t.Fatal(err)
	}
	return &prometheus{in: town.ControlPlane()}
}

// ask returns the series of an instant query, as "alertname what".
func (p *prometheus) ask(ctx context.Context, query string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+"/api/v1/query?"+url.Values{"query": {query}}.Encode(), nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DialContext: p.in.DialContext, DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", query, answer.Error)
	}
	out := []string{}
	for _, series := range answer.Data.Result {
		text := series.Metric["alertname"]
		for _, label := range []string{"pool", "node", "firewall", "controller", "reason"} {
			if value := series.Metric[label]; value != "" {
				text += " " + value
			}
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// fired are the alerts that have ever fired since.
func (p *prometheus) fired(ctx context.Context) ([]string, error) {
	return p.ask(ctx, fmt.Sprintf(`max_over_time(ALERTS{alertstate="firing"}[%dms])`, time.Since(p.since).Milliseconds()+1))
}

// firing are those that fire now.
func (p *prometheus) firing(ctx context.Context) ([]string, error) {
	return p.ask(ctx, `ALERTS{alertstate="firing"}`)
}
