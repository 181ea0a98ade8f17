package version

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A release's build sets the number in each program. The linker says nothing of a variable
// that it does not find, so the Dockerfile's word is tried.
func TestABuildMaySetTheNumber(t *testing.T) {
	dockerfile, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, set, found := strings.Cut(string(dockerfile), "${VERSION:+")
	set, _, closed := strings.Cut(set, "${VERSION#v}}")
	if !found || !closed {
		t.Fatal("the Dockerfile hands no version to the linker")
	}
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-ldflags", set+"9.8.7", "-o", bin, "./cmd/...")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for program, name := range map[string]string{"manager": "portreeve-manager", "agent": "portreeve-agent", "kubectl-portreeve": "kubectl-portreeve"} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(bin, program), "--version").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), name+" 9.8.7 (go") {
			t.Errorf("%s --version: %v: %s", program, err, out)
		}
	}
}

func TestTheVersionIsAMetric(t *testing.T) {
	if n := testutil.CollectAndCount(Info(), "portreeve_build_info"); n != 1 {
		t.Errorf("%d series", n)
	}
	if problems, err := testutil.CollectAndLint(Info()); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
