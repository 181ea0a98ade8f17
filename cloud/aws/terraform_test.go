package aws_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/portreeve/portreeve/cloud"
)

// mirrorVariable names a folder with Terraform's AWS provider, unpacked or zipped as
// `terraform providers mirror` leaves it. Without it, Terraform's own places for such
// mirrors are looked at. Nothing is ever downloaded.
const mirrorVariable = "PORTREEVE_TERRAFORM_MIRROR"

// moduleHead is the same for every account: where EC2 is, and nobody else to ask.
const moduleHead = `
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}
variable "endpoint" {}
variable "group" {}
provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
  endpoints { ec2 = var.endpoint }
}
`

// A rule of somebody's, in a group that somebody else made.
const moduleRules = moduleHead + `
variable "ours" {}
resource "aws_vpc_security_group_ingress_rule" "ssh" {
  security_group_id = var.group
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
  cidr_ipv4         = "10.0.0.0/8"
  description       = "made by Terraform"
  tags              = { Name = "ssh" }
}
data "aws_vpc_security_group_rule" "ours" {
  security_group_rule_id = var.ours
}
output "ours" {
  value = data.aws_vpc_security_group_rule.ours
}
`

// A group of somebody's, with its rules beside it and none inside it.
const moduleGroup = moduleHead + `
resource "aws_security_group" "nodes" {
  name        = "nodes"
  description = "of the nodes"
}
resource "aws_vpc_security_group_ingress_rule" "ssh" {
  security_group_id = aws_security_group.nodes.id
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
  cidr_ipv4         = "10.0.0.0/8"
  description       = "made by Terraform"
  tags              = { Name = "ssh" }
}
output "group" {
  value = aws_security_group.nodes.id
}
`

// TestTerraformReadsOursAndKeepsItsOwn lets Terraform add a rule to a group of ours and
// read one that we wrote.
func TestTerraformReadsOursAndKeepsItsOwn(t *testing.T) {
	mirror := terraformMirror(t)
	at := playgrounds(t)[0]
	group, p := at.newGroup(), open(t, at.endpoint)
	settle(t, p, group, "UDP 30090-30099 2001:db8:1::/48")
	ours, _ := split(t, p, group)
	dir := terraformInit(t, mirror, moduleRules)
	args := []string{"-var", "endpoint=" + at.endpoint, "-var", "group=" + group, "-var", "ours=" + ours[0]}
	terraform(t, dir, append([]string{"apply", "-auto-approve"}, args...)...)

	var out struct {
		Ours struct {
			Value struct {
				Protocol    string            `json:"ip_protocol"`
				From        int               `json:"from_port"`
				To          int               `json:"to_port"`
				Source      string            `json:"cidr_ipv6"`
				Description string            `json:"description"`
				Tags        map[string]string `json:"tags"`
			}
		}
	}
	if err := json.Unmarshal(terraform(t, dir, "output", "-json"), &out); err != nil {
		t.Fatal(err)
	}
	read := out.Ours.Value
	if read.Protocol != "udp" || read.From != 30090 || read.To != 30099 || read.Source != "2001:db8:1::/48" ||
		read.Description != "portreeve team=payments pool=web" || len(read.Tags) != 1 {
		t.Errorf("ours to Terraform: %+v", read)
	}
	wantForeignKept(t, p, group, func() {
		settle(t, p, group, "UDP 30090-30099 2001:db8:1::/48", "TCP 30080 10.8.0.0/16")
		settle(t, p, group)
	})
}

// TestTerraformSeesNoDriftBecauseOfOurRules lets Terraform make the whole group, on moto.
func TestTerraformSeesNoDriftBecauseOfOurRules(t *testing.T) {
	mirror := terraformMirror(t)
	grounds := playgrounds(t)
	if len(grounds) < 2 {
		t.Skip("SKIPPED, second opinion missing: moto_server is not on PATH (pip install 'moto[server]')")
	}
	at := grounds[1]
	dir, p := terraformInit(t, mirror, moduleGroup), open(t, at.endpoint)
	args := []string{"-var", "endpoint=" + at.endpoint, "-var", "group="}
	terraform(t, dir, append([]string{"apply", "-auto-approve"}, args...)...)
	var out struct{ Group struct{ Value string } }
	if err := json.Unmarshal(terraform(t, dir, "output", "-json"), &out); err != nil {
		t.Fatal(err)
	}
	group := out.Group.Value
	wantForeignKept(t, p, group, func() {
		settle(t, p, group, "TCP 30080 10.8.0.0/16", "UDP 30090-30099 2001:db8:1::/48")
		terraform(t, dir, append([]string{"plan", "-detailed-exitcode"}, args...)...) // 2 is drift
		if ours, _ := split(t, p, group); len(ours) != 2 {
			t.Errorf("ours: %v", ours)
		}
		settle(t, p, group)
	})
}

// wantForeignKept runs act, which leaves none of ours, and says that the one rule of
// Terraform's is foreign and exactly what it was.
func wantForeignKept(t *testing.T, p cloud.Provider, group string, act func()) {
	t.Helper()
	theirs := func() []cloud.Rule {
		rules, err := p.List(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		var out []cloud.Rule
		for _, r := range rules {
			if r.Owner == "" {
				out = append(out, r)
			}
		}
		return out
	}
	before := theirs()
	if len(before) != 1 || before[0].Description != "made by Terraform" {
		t.Fatalf("foreign rules: %+v", before)
	}
	act()
	if after := theirs(); !reflect.DeepEqual(before, after) {
		t.Errorf("Terraform's\n before %+v\n after  %+v", before, after)
	}
}

// terraformMirror finds Terraform's AWS provider on this machine.
func terraformMirror(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("terraform"); err != nil {
		t.Skip("SKIPPED, independent client missing: terraform is not on PATH")
	}
	home, _ := os.UserHomeDir()
	for _, dir := range []string{
		os.Getenv(mirrorVariable),
		// https://developer.hashicorp.com/terraform/cli/config/config-file#implied-local-mirror-directories
		filepath.Join(home, ".terraform.d/plugins"), filepath.Join(home, ".local/share/terraform/plugins"),
		"/usr/local/share/terraform/plugins", "/usr/share/terraform/plugins",
	} {
		if found, _ := filepath.Glob(filepath.Join(dir, "*/hashicorp/aws")); dir != "" && len(found) > 0 {
			return dir
		}
	}
	t.Skip("SKIPPED, independent client missing: no local mirror has Terraform's AWS provider (" + mirrorVariable + " may name one)")
	return ""
}

// terraformInit returns a folder with the module, set up from the mirror alone.
func terraformInit(t *testing.T, mirror, module string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(module), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_CLI_CONFIG_FILE": os.DevNull, "TF_INPUT": "0",
	} {
		t.Setenv(key, value)
	}
	terraform(t, dir, "init", "-plugin-dir="+mirror)
	return dir
}

// terraform runs a command in the folder and returns what it prints. It must exit with 0.
func terraform(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	command := exec.CommandContext(t.Context(), "terraform", append([]string{args[0], "-no-color"}, args[1:]...)...)
	command.Dir = dir
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 2 && args[0] == "plan" {
			t.Errorf("Terraform sees drift:\n%s", stdout.String())
			return nil
		}
		t.Fatalf("terraform %v: %v\n%s%s", args, err, stdout.String(), stderr.String())
	}
	return stdout.Bytes()
}
