package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"
)

// A wrong use has a status of its own, so that no script takes it for "closed".
func TestAWrongUseIsNoAnswer(t *testing.T) {
	t.Setenv("KUBECONFIG", os.DevNull)
	for _, args := range [][]string{
		{"explain"}, {"explain", "0"}, {"explain", "65536"}, {"explain", "-1"}, {"explain", "30x"}, {"explain", "30000", "30001"},
		{"explain", "30000", "--from", "office"}, {"explain", "30000", "--from", "203.0.113.0/24"}, {"explain", "30000", "--protocol", "icmp"},
		{"explain", "30000", "-o", "yaml"}, {"audit", "all"}, {"audit", "--fail-on", "Everything"}, {"audit", "-o", "xml"}, {"enforce"}, {"--nonsense"},
		{"audit", "--server", "https://127.0.0.1:1", "--request-timeout", "1s"}, // nobody answers
	} {
		streams, _, out, failed := genericiooptions.NewTestIOStreams()
		if status := run(t.Context(), args, streams); status != exitFailed || !strings.HasPrefix(failed.String(), "error: ") || out.Len() > 0 {
			t.Errorf("%v: exit status %d, %q, %q", args, status, out, failed)
		}
	}
	streams, _, out, _ := genericiooptions.NewTestIOStreams()
	if status := run(t.Context(), []string{"explain", "--help"}, streams); status != 0 || !strings.Contains(out.String(), "Exit status: 0") {
		t.Errorf("exit status %d: %s", status, out)
	}
}

// The Krew manifest names an archive of its own for each platform.
func TestTheKrewManifest(t *testing.T) {
	data, err := os.ReadFile("../../config/krew/portreeve.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   map[string]string `json:"metadata"`
		Spec       struct {
			Version, Homepage, ShortDescription, Description, Caveats string
			Platforms                                                 []struct {
				Selector         struct{ MatchLabels struct{ OS, Arch string } }
				URI, SHA256, Bin string
			}
		} `json:"spec"`
	}
	if err := yaml.UnmarshalStrict(data, &manifest); err != nil {
		t.Fatal(err)
	}
	s := manifest.Spec
	if manifest.Metadata["name"] != "portreeve" || len(s.ShortDescription) > 50 || strings.HasSuffix(s.ShortDescription, ".") || len(s.Platforms) < 3 {
		t.Errorf("%+v", manifest)
	}
	for _, p := range s.Platforms {
		os, arch := p.Selector.MatchLabels.OS, p.Selector.MatchLabels.Arch
		bin := "kubectl-portreeve"
		if os == "windows" {
			bin += ".exe"
		}
		sum := strings.ToUpper(fmt.Sprintf("SHA256_%s_%s", os, arch))
		if !strings.HasSuffix(p.URI, fmt.Sprintf("/%s/kubectl-portreeve-%s-%s.tar.gz", s.Version, os, arch)) || p.SHA256 != sum || p.Bin != bin {
			t.Errorf("%+v", p)
		}
	}
}
