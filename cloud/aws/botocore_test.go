package aws_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/aws"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// recorder keeps the forms that are posted through it.
type recorder struct {
	mu    sync.Mutex
	forms []url.Values
}

func (r *recorder) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		form, _ := url.ParseQuery(string(body))
		r.mu.Lock()
		r.forms = append(r.forms, form)
		r.mu.Unlock()
		next.ServeHTTP(w, req)
	})
}

// actions are those that were asked for.
func (r *recorder) actions() []string {
	seen := map[string]bool{}
	for _, form := range r.forms {
		seen[form.Get("Action")] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// everyCall makes each call that the provider knows, with every kind of parameter that
// it sends, and returns what was sent to EC2 and to STS.
func everyCall(t *testing.T) (toEC2, toSTS *recorder) {
	t.Helper()
	offline(t, "AKIDEXAMPLE", "the secret")
	account := cloudtest.NewEC2(cloudtest.Options{AccessKey: "AKIDEXAMPLE", SecretKey: "the secret", PageSize: 1})
	for _, id := range []string{"sg-1", "sg-2"} {
		account.AddGroup(id)
		account.Tag(id, map[string]string{"portreeve": "managed"})
	}
	account.AddPrefixList("pl-1", 5, prefix("10.0.0.0/16"), prefix("10.2.0.0/16"))
	account.AddRole(cloudtest.Role{ARN: roleARN, ExternalID: externalID, WebIdentity: "projected token"})
	toEC2, toSTS = new(recorder), new(recorder)
	front, sts := httptest.NewServer(toEC2.before(account)), httptest.NewServer(toSTS.before(account.STS()))
	t.Cleanup(front.Close)
	t.Cleanup(sts.Close)
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	connect := func(role aws.AssumeRole) *aws.Provider {
		p, err := aws.New(t.Context(), aws.Options{Region: "eu-central-1", Endpoint: front.URL, AssumeRole: role})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := connect(aws.AssumeRole{ARN: roleARN, ExternalID: externalID})
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	must(p.Authorize(t.Context(), "sg-1", "me", []cloud.Grant{
		cloudtest.Grant("TCP 30080 10.8.0.0/16"), cloudtest.Grant("TCP 30080 2001:db8::/48"), cloudtest.PeerGrant("UDP 30080 group", "sg-2"),
	}))
	rules, err := p.List(t.Context(), "sg-1")
	must(err)
	must(p.Revoke(t.Context(), "sg-1", []string{rules[0].ID, rules[1].ID}))
	_, err = p.Tagged(t.Context(), map[string]string{"portreeve": "managed"})
	must(err)
	must(p.Exists(t.Context(), "sg-2"))
	_, err = p.PrefixList(t.Context(), "pl-1")
	must(err)

	token := filepath.Join(t.TempDir(), "token")
	must(os.WriteFile(token, []byte("projected token"), 0o600))
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
	t.Setenv("AWS_ROLE_ARN", roleARN)
	must(connect(aws.AssumeRole{}).Exists(t.Context(), "sg-2"))
	return toEC2, toSTS
}

// TestParametersAreThoseOfTheServiceModel checks what we send against the vendor's own
// description of its API.
func TestParametersAreThoseOfTheServiceModel(t *testing.T) {
	models := map[string]*recorder{}
	ec2, sts := loadModel(t, "ec2/2016-11-15"), loadModel(t, "sts/2011-06-15")
	models["ec2"], models["sts"] = everyCall(t)
	for name, m := range map[string]*serviceModel{"ec2": ec2, "sts": sts} {
		for _, form := range models[name].forms {
			for _, wrong := range m.check(form) {
				t.Errorf("%s %s: %s", name, form.Get("Action"), wrong)
			}
		}
		t.Logf("%s: %d requests of %v", name, len(models[name].forms), models[name].actions())
	}
}

func TestTheCheckOfParametersHasTeeth(t *testing.T) {
	m := loadModel(t, "ec2/2016-11-15")
	for form, want := range map[string]int{
		"Action=DescribeSecurityGroups&GroupId.1=sg-1":                                                     0,
		"Action=DescribeSecurityGroups&GroupIds.1=sg-1":                                                    1,
		"Action=DescribeSecurityGroups&GroupId=sg-1":                                                       1,
		"Action=DescribeSecurityGroups&MaxResults=1001":                                                    1,
		"Action=GetManagedPrefixListEntries&MaxResults=100":                                                1, // of which list?
		"Action=AuthorizeSecurityGroupIngress&IpPermissions.1.Groups.1.GroupId=sg-1":                       0,
		"Action=AuthorizeSecurityGroupIngress&IpPermissions.1.UserIdGroupPairs.1.GroupId=x":                1,
		"Action=AuthorizeSecurityGroupIngress&TagSpecification.1.Tag.1.Key=k&TagSpecification.1.Tag.1.V=v": 1,
		"Action=AuthoriseSecurityGroupIngress":                                                             1,
	} {
		values, _ := url.ParseQuery(form + "&Version=2016-11-15")
		if got := m.check(values); len(got) != want {
			t.Errorf("%s: %v, want %d complaints", form, got, want)
		}
	}
}

// serviceModel is botocore's description of a service, as far as requests go.
type serviceModel struct {
	Metadata   struct{ Protocol, APIVersion string }
	Operations map[string]struct{ Input shapeRef }
	Shapes     map[string]struct {
		Type     string
		Required []string
		Members  map[string]shapeRef
		Member   shapeRef
		Min, Max *float64
	}
}

type shapeRef struct{ Shape, LocationName, QueryName string }

// loadModel reads the model of botocore where that is installed.
func loadModel(t *testing.T, service string) *serviceModel {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED, the vendor's service model is missing: python3 is not on PATH")
	}
	where, err := exec.CommandContext(t.Context(), python, "-c", "import botocore, os; print(os.path.dirname(botocore.__file__))").Output()
	if err != nil {
		t.Skip("SKIPPED, the vendor's service model is missing: python3 has no botocore (pip install botocore)")
	}
	path := filepath.Join(strings.TrimSpace(string(where)), "data", service, "service-2.json")
	data, err := os.ReadFile(path)
	if err != nil { // newer ones are packed
		var packed []byte
		if packed, err = os.ReadFile(path + ".gz"); err == nil {
			data, err = unzip(packed)
		}
	}
	if err != nil {
		t.Skipf("SKIPPED, the vendor's service model is missing: %v", err)
	}
	m := new(serviceModel)
	if err := json.Unmarshal(data, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func unzip(packed []byte) ([]byte, error) {
	reader, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}

// check says what is wrong with the form of a request.
func (m *serviceModel) check(form url.Values) []string {
	op, ok := m.Operations[form.Get("Action")]
	if !ok {
		return []string{"no such operation"}
	}
	var wrong []string
	if v := form.Get("Version"); v != m.Metadata.APIVersion {
		wrong = append(wrong, "version "+v)
	}
	for _, name := range m.Shapes[op.Input.Shape].Required {
		if spelled := m.spell(name, m.Shapes[op.Input.Shape].Members[name]); !form.Has(spelled) && !form.Has(spelled+".1") {
			wrong = append(wrong, "without "+spelled)
		}
	}
	for key, values := range form {
		if key == "Action" || key == "Version" {
			continue
		}
		if err := m.find(op.Input.Shape, strings.Split(key, "."), values[0]); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", key, err))
		}
	}
	return wrong
}

// spell is a member's name in a form. In EC2's protocol that is its queryName, else its
// locationName with a capital, and lists are flat; in the older query protocol it is its
// locationName as it stands:
// https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html
func (m *serviceModel) spell(name string, ref shapeRef) string {
	switch {
	case m.Metadata.Protocol == "ec2" && ref.QueryName != "":
		return ref.QueryName
	case m.Metadata.Protocol == "ec2" && ref.LocationName != "":
		return strings.ToUpper(ref.LocationName[:1]) + ref.LocationName[1:]
	case ref.LocationName != "":
		return ref.LocationName
	}
	return name
}

var ordinal = regexp.MustCompile(`^[1-9][0-9]*$`)

// find follows the path of a key from the shape to a value, which must be in bounds.
func (m *serviceModel) find(name string, path []string, value string) error {
	shape := m.Shapes[name]
	switch {
	case shape.Type == "structure" && len(path) > 0:
		for member, ref := range shape.Members {
			if m.spell(member, ref) == path[0] {
				return m.find(ref.Shape, path[1:], value)
			}
		}
		return fmt.Errorf("%s has no member %s", name, path[0])
	case shape.Type == "list" && len(path) > 0 && ordinal.MatchString(path[0]):
		return m.find(shape.Member.Shape, path[1:], value)
	case shape.Type == "structure", shape.Type == "list", len(path) > 0:
		return fmt.Errorf("%s is a %s", name, shape.Type)
	}
	size := float64(len(value))
	if shape.Type == "integer" {
		if _, err := fmt.Sscan(value, &size); err != nil {
			return err
		}
	}
	if (shape.Min != nil && size < *shape.Min) || (shape.Max != nil && size > *shape.Max) {
		return fmt.Errorf("%s is out of bounds", value)
	}
	return nil
}
