package aws_test

import (
	"encoding/json"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"slices"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/aws"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// cluster signs what the tests with independent clients write.
const cluster = "5f0c8a52-9d0e-4c39-8f0f-0c0a5d3c7a11"

// playground is an account at an endpoint, with a way to make groups in it.
type playground struct {
	name, endpoint string
	newGroup       func() string
}

// playgrounds are those in which independent clients try what we do: our own front,
// and moto where it is installed.
func playgrounds(t *testing.T) []playground {
	t.Helper()
	offline(t, "test", "test")
	for key, value := range map[string]string{"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-central-1", "AWS_PAGER": ""} {
		t.Setenv(key, value)
	}
	account := cloudtest.NewEC2(cloudtest.Options{})
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	out := []playground{{"front", server.URL, account.Backend(nil).NewGroup}}
	if _, err := exec.LookPath("moto_server"); err != nil {
		t.Log("SKIPPED in part, second opinion missing: moto_server is not on PATH (pip install 'moto[server]')")
		return out
	}
	endpoint := startMoto(t)
	groups := 0
	m := &moto{t: t, client: rawClient(t, endpoint), groups: &groups}
	return append(out, playground{"moto", endpoint, m.newGroup})
}

// settle makes the group hold exactly the wanted rules of ours.
func settle(t *testing.T, p *aws.Provider, group string, spelled ...string) {
	t.Helper()
	want := cloud.Want{Owner: cluster, Groups: []string{group}}
	for _, s := range spelled {
		g := cloudtest.Grant(s)
		g.Description = "portreeve team=payments pool=web"
		want.Grants = append(want.Grants, g)
	}
	if _, err := cloud.Sync(t.Context(), p, want); err != nil {
		t.Fatal(err)
	}
}

// split returns the ids of our rules in the group and of the others.
func split(t *testing.T, p *aws.Provider, group string) (ours, foreign []string) {
	t.Helper()
	rules, err := p.List(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.Owner == cluster {
			ours = append(ours, r.ID)
		} else {
			foreign = append(foreign, r.ID)
		}
	}
	slices.Sort(ours)
	slices.Sort(foreign)
	return ours, foreign
}

// cli runs the AWS CLI against the endpoint and reads what it prints.
func cli(t *testing.T, endpoint string, args ...string) (out struct {
	SecurityGroupRules []map[string]any
}) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "aws", append([]string{"--endpoint-url", endpoint, "--output", "json", "ec2"}, args...)...)
	text, err := command.Output()
	if err != nil {
		t.Fatalf("aws ec2 %v: %v\n%s", args, err, stderrOf(err))
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("aws ec2 %v: %v\n%s", args, err, text)
	}
	return out
}

// byID returns what the CLI shows of the group's inbound rules.
func byID(t *testing.T, endpoint, group string) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	for _, r := range cli(t, endpoint, "describe-security-group-rules", "--filters", "Name=group-id,Values="+group).SecurityGroupRules {
		if r["IsEgress"] == false {
			out[r["SecurityGroupRuleId"].(string)] = r
		}
	}
	return out
}

// TestTheAWSCLIAndWeRespectEachOther lets the AWS CLI, which shares no code with us,
// write beside us in one group.
func TestTheAWSCLIAndWeRespectEachOther(t *testing.T) {
	if _, err := exec.LookPath("aws"); err != nil {
		t.Skip("SKIPPED, independent client missing: the AWS CLI is not on PATH")
	}
	for _, at := range playgrounds(t) {
		t.Run(at.name, func(t *testing.T) {
			group, peer, p := at.newGroup(), at.newGroup(), open(t, at.endpoint)
			cli(t, at.endpoint, "authorize-security-group-ingress", "--group-id", group, "--ip-permissions",
				`[{"IpProtocol":"tcp","FromPort":22,"ToPort":22,"IpRanges":[{"CidrIp":"10.0.0.0/8","Description":"made by hand"}]},
				  {"IpProtocol":"tcp","FromPort":30080,"ToPort":30080,"Ipv6Ranges":[{"CidrIpv6":"2001:db8::/48"}]},
				  {"IpProtocol":"udp","FromPort":30000,"ToPort":32767,"UserIdGroupPairs":[{"GroupId":"`+peer+`"}]}]`,
				"--tag-specifications", "ResourceType=security-group-rule,Tags=[{Key=Name,Value=by hand}]")
			before := byID(t, at.endpoint, group)
			if ours, foreign := split(t, p, group); len(ours) > 0 || len(foreign) != 3 {
				t.Fatalf("we take %v of theirs for ours, and %v for foreign", ours, foreign)
			}

			settle(t, p, group, "TCP 30080 10.8.0.0/16", "UDP 30090-30099 2001:db8:1::/48")
			wantOursInTheCLI(t, byID(t, at.endpoint, group), before)

			settle(t, p, group, "TCP 30080 10.8.0.0/16")
			ours, _ := split(t, p, group)
			if len(ours) != 1 {
				t.Fatalf("ours: %v", ours)
			}
			cli(t, at.endpoint, "revoke-security-group-ingress", "--group-id", group, "--security-group-rule-ids", ours[0])
			if ours, _ := split(t, p, group); len(ours) > 0 {
				t.Errorf("the CLI has removed %v, and we still list it", ours)
			}
			settle(t, p, group, "TCP 30080 10.8.0.0/16")
			settle(t, p, group)
			if after := byID(t, at.endpoint, group); !reflect.DeepEqual(before, after) {
				t.Errorf("theirs\n before %v\n after  %v", before, after)
			}
		})
	}
}

// wantOursInTheCLI says that the CLI shows our two rules as we meant them.
func wantOursInTheCLI(t *testing.T, shown, theirs map[string]map[string]any) {
	t.Helper()
	want := map[string]map[string]any{
		"10.8.0.0/16":     {"IpProtocol": "tcp", "FromPort": 30080.0, "ToPort": 30080.0},
		"2001:db8:1::/48": {"IpProtocol": "udp", "FromPort": 30090.0, "ToPort": 30099.0},
	}
	for id, r := range shown {
		if theirs[id] != nil {
			continue
		}
		source, _ := r["CidrIpv4"].(string)
		if source == "" {
			source, _ = r["CidrIpv6"].(string)
		}
		for key, value := range want[source] {
			if r[key] != value {
				t.Errorf("%s of ours from %s is %v to the CLI, want %v", key, source, r[key], value)
			}
		}
		if r["Description"] != "portreeve team=payments pool=web" {
			t.Errorf("description of ours: %v", r["Description"])
		}
		tag := []any{map[string]any{"Key": cloudtest.OwnerTag, "Value": cluster}}
		if !reflect.DeepEqual(r["Tags"], tag) {
			t.Errorf("tags of ours: %v", r["Tags"])
		}
		delete(want, source)
	}
	if len(want) > 0 {
		t.Errorf("the CLI does not show %v", want)
	}
}

func stderrOf(err error) string {
	if exit, ok := err.(*exec.ExitError); ok {
		return string(exit.Stderr)
	}
	return ""
}
