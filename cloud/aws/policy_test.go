package aws_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/cloud/aws"
)

// statement is one of an IAM policy's.
type statement struct {
	Effect    string
	Action    oneOrMore
	Resource  oneOrMore
	Condition map[string]map[string]string
}

// oneOrMore is a list that IAM lets people write without brackets.
type oneOrMore []string

func (l *oneOrMore) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*l = oneOrMore{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

// policies reads the policies on the page: the manager's own first.
func policies(t *testing.T) [][]statement {
	t.Helper()
	page, err := os.ReadFile("../../docs/cloud-aws.md")
	if err != nil {
		t.Fatal(err)
	}
	var out [][]statement
	for _, block := range strings.Split(string(page), "```json\n")[1:] {
		text, _, _ := strings.Cut(block, "```")
		var p struct {
			Version   string
			Statement []statement
		}
		if err := json.Unmarshal([]byte(text), &p); err != nil || p.Version != "2012-10-17" {
			t.Fatalf("version %q, %v in\n%s", p.Version, err, text)
		}
		out = append(out, p.Statement)
	}
	if len(out) < 2 {
		t.Fatalf("the page has %d policies", len(out))
	}
	return out
}

func actionsOf(statements []statement) []string {
	var out []string
	for _, s := range statements {
		out = append(out, s.Action...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestThePolicyOnThePageAllowsTheCallsThatAreMadeAndNoOther compares the page with what
// the provider has sent.
func TestThePolicyOnThePageAllowsTheCallsThatAreMadeAndNoOther(t *testing.T) {
	toEC2, toSTS := everyCall(t)
	if made, known := toEC2.actions(), slices.Sorted(maps.Keys(aws.Documented)); !slices.Equal(made, known) {
		t.Errorf("the test has made the calls %v, the provider knows the rates of %v", made, known)
	}
	want := []string{"ec2:CreateTags"} // which goes with Authorize and its TagSpecification
	for _, action := range toEC2.actions() {
		want = append(want, "ec2:"+action)
	}
	slices.Sort(want)
	all := policies(t)
	if have := actionsOf(all[0]); !slices.Equal(have, want) {
		t.Errorf("the page's policy allows\n %v, want\n %v", have, want)
	}
	var others []statement
	for _, p := range all[1:] {
		others = append(others, p...)
	}
	for _, action := range toSTS.actions() {
		if !slices.Contains(actionsOf(others), "sts:"+action) {
			t.Errorf("no policy on the page allows sts:%s, only %v", action, actionsOf(others))
		}
	}
}

// TestThePolicyOnThePageChangesNothingOfOthers asks each statement that lets us change
// something for the condition that keeps it to what is ours.
func TestThePolicyOnThePageChangesNothingOfOthers(t *testing.T) {
	conditions := map[string][]string{}
	for _, s := range policies(t)[0] {
		for _, action := range s.Action {
			if strings.HasPrefix(action, "ec2:Describe") || strings.HasPrefix(action, "ec2:Get") {
				continue
			}
			for _, resource := range s.Resource {
				kind := resource[strings.LastIndex(resource, ":")+1:]
				for key := range s.Condition["StringEquals"] {
					conditions[action+" "+kind] = append(conditions[action+" "+kind], key)
				}
				if len(s.Condition["StringEquals"]) == 0 || s.Effect != "Allow" {
					t.Errorf("%s %s on %s without a condition", s.Effect, action, resource)
				}
			}
		}
	}
	want := map[string][]string{
		"ec2:AuthorizeSecurityGroupIngress security-group/*":      {"aws:ResourceTag/portreeve"},
		"ec2:AuthorizeSecurityGroupIngress security-group-rule/*": {"aws:RequestTag/" + aws.OwnerTag},
		"ec2:RevokeSecurityGroupIngress security-group/*":         {"aws:ResourceTag/portreeve"},
		"ec2:RevokeSecurityGroupIngress security-group-rule/*":    {"aws:ResourceTag/" + aws.OwnerTag},
		"ec2:CreateTags security-group-rule/*":                    {"ec2:CreateAction"},
	}
	if !maps.EqualFunc(conditions, want, slices.Equal) {
		t.Errorf("conditions\n have %v\n want %v", conditions, want)
	}
}
