package alibaba_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/alibaba"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// packages are the vendor's own clients for Node.js, old and new. There is no emulator
// of the API to compare the front with; these at least were not written by us.
var packages = []string{"@alicloud/pop-core@1.8.0", "@alicloud/ecs20140526@7.11.6"}

// installed returns the folder that holds the packages, or skips.
func installed(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED, second opinion missing: %s is not on PATH; the front was not tried with the vendor's clients %q", program, packages)
		}
	}
	cache := os.Getenv("PORTREEVE_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Skipf("SKIPPED, second opinion missing: no cache folder for the vendor's clients %q: %v", packages, err)
		}
		cache = filepath.Join(user, "portreeve")
	}
	folder := filepath.Join(cache, "npm-"+strings.NewReplacer("@", "", "/", "-").Replace(strings.Join(packages, "-")))
	modules := filepath.Join(folder, "node_modules")
	if _, err := os.Stat(modules); err == nil {
		return modules
	}
	if err := install(t, cache, folder); err != nil {
		t.Skipf("SKIPPED, second opinion missing: the vendor's clients %q can't be installed: %v", packages, err)
	}
	return modules
}

// install puts the packages into the folder: all of them, or nothing.
func install(t *testing.T, cache, folder string) error {
	t.Helper()
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(cache, "npm-")
	if err != nil {
		return err
	}
	t.Cleanup(func() { os.RemoveAll(temporary) })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", append([]string{
		"install", "--prefix", temporary, "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error",
	}, packages...)...)
	npm.Dir = temporary
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm: %w: %s", err, bytes.TrimSpace(out[:min(len(out), 500)]))
	}
	if err := os.Rename(temporary, folder); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// peer is one of the vendor's clients, speaking to the front.
type peer struct {
	t                       *testing.T
	modules, name, endpoint string
}

// call makes a call and reads its answer into out.
func (p peer) call(action string, params map[string]any, out any) {
	p.t.Helper()
	params["RegionId"] = "eu-central-1"
	ask, err := json.Marshal(map[string]any{
		"client": p.name, "endpoint": strings.TrimPrefix(p.endpoint, "http://"),
		"accessKeyId": keys.AccessKeyID, "accessKeySecret": keys.AccessKeySecret, "action": action, "params": params,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", filepath.Join("testdata", "peer.js"))
	node.Env = append(os.Environ(), "NODE_PATH="+p.modules, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	node.Stdin = bytes.NewReader(ask)
	var stderr bytes.Buffer
	node.Stderr = &stderr
	answer, err := node.Output()
	if err != nil {
		p.t.Fatalf("%s: %v: %s", action, err, stderr.String())
	}
	if err := json.Unmarshal(answer, out); err != nil {
		p.t.Fatalf("%s: %v: %s", action, err, answer)
	}
}

// listing is the part of DescribeSecurityGroupAttribute that is compared.
type listing struct {
	Code        string
	Permissions struct {
		Permission []struct {
			ID          string `json:"SecurityGroupRuleId"`
			Protocol    string `json:"IpProtocol"`
			Ports       string `json:"PortRange"`
			IPv4        string `json:"SourceCidrIp"`
			IPv6        string `json:"Ipv6SourceCidrIp"`
			Group       string `json:"SourceGroupId"`
			Policy      string
			Priority    string
			Description string
		}
	}
}

func TestTheVendorsClientsReadWhatWeWriteAndWriteWhatWeRead(t *testing.T) {
	modules := installed(t)
	offline(t)
	for _, name := range []string{"pop-core", "pop-core-post", "ecs20140526"} {
		t.Run(name, func(t *testing.T) {
			account, endpoint := serve(t, cloudtest.ECSOptions{Region: "eu-central-1"})
			account.AddGroup("sg-1")
			account.AddGroup("sg-2")
			p, theirs := open(t, alibaba.Options{Endpoint: endpoint, Priority: 50}), peer{t, modules, name, endpoint}
			theyReadWhatWeWrite(t, p, theirs)
			weReadWhatTheyWrite(t, p, theirs)
			theyAreToldWhatIsWrong(theirs)
		})
	}
}

func theyReadWhatWeWrite(t *testing.T, p *alibaba.Provider, theirs peer) {
	t.Helper()
	described := cloudtest.Grant("TCP 30080-30089 10.8.0.0/16")
	described.Description = "team=größe & pool=web (100%)~*"
	grants := []cloud.Grant{described, cloudtest.Grant("UDP 53 2001:db8::/48"), cloudtest.PeerGrant("TCP 30080 group", "sg-2")}
	if err := p.Authorize(t.Context(), "sg-1", owner, grants); err != nil {
		t.Fatal(err)
	}
	var have listing
	theirs.call("DescribeSecurityGroupAttribute", map[string]any{"SecurityGroupId": "sg-1", "Direction": "ingress"}, &have)
	var got []string
	for _, r := range have.Permissions.Permission {
		got = append(got, strings.Join([]string{r.Protocol, r.Ports, r.IPv4 + r.IPv6 + r.Group, r.Policy, r.Priority}, " "))
		if !strings.HasPrefix(r.Description, "portreeve.dev/cluster="+owner+" ") || r.ID == "" {
			t.Errorf("rule %+v", r)
		}
		if r.Protocol == "TCP" && r.Group == "" && !strings.HasSuffix(r.Description, " team=größe _ pool=web (100%)~*") {
			t.Errorf("description %q", r.Description)
		}
	}
	want := []string{"TCP 30080/30080 sg-2 Accept 50", "TCP 30080/30089 10.8.0.0/16 Accept 50", "UDP 53/53 2001:db8::/48 Accept 50"}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("they read %q, want %q", got, want)
	}
	var ids []string
	for _, r := range have.Permissions.Permission {
		ids = append(ids, r.ID)
	}
	var answer struct{ Code, RequestID string }
	theirs.call("RevokeSecurityGroup", map[string]any{"SecurityGroupId": "sg-1", "SecurityGroupRuleId": ids}, &answer)
	if left, err := p.List(t.Context(), "sg-1"); err != nil || len(left) > 0 || answer.Code != "" || answer.RequestID == "" {
		t.Errorf("after they revoked: %+v, %v, %+v", left, err, answer)
	}
}

func weReadWhatTheyWrite(t *testing.T, p *alibaba.Provider, theirs peer) {
	t.Helper()
	drop := map[string]any{"IpProtocol": "ALL", "PortRange": "-1/-1", "Policy": "drop", "Priority": "5", "SourceCidrIp": "198.51.100.0/24"}
	var answer struct{ Code, RequestID string }
	theirs.call("AuthorizeSecurityGroup", map[string]any{"SecurityGroupId": "sg-1", "Permissions": []any{
		map[string]any{"IpProtocol": "TCP", "PortRange": "22/22", "SourceCidrIp": "10.0.0.0/8", "Description": "a person's: größe + \"x\" & 'y' (1*2)~!"},
		drop,
		map[string]any{"IpProtocol": "udp", "PortRange": "53/53", "Ipv6SourceCidrIp": "2001:db8::/48"},
		map[string]any{"IpProtocol": "TCP", "PortRange": "30000/32767", "SourceGroupId": "sg-2"},
	}}, &answer)
	have, err := p.List(t.Context(), "sg-1")
	if err != nil || answer.Code != "" {
		t.Fatalf("%v, %+v", err, answer)
	}
	var got []string
	for _, r := range have {
		got = append(got, fmt.Sprintf("%s %s drop=%v %d %s", cloudtest.Spell(r.Rule), r.Peer, r.Drop, r.Priority, r.Description))
		if r.Owner != "" {
			t.Errorf("rule %+v is not ours", r)
		}
	}
	want := []string{
		"ALL 0-65535 198.51.100.0/24  drop=true 5 ",
		"TCP 22 10.0.0.0/8  drop=false 1 a person's: größe + \"x\" & 'y' (1*2)~!",
		"TCP 30000-32767 group sg-2 drop=false 1 ",
		"UDP 53 2001:db8::/48  drop=false 1 ",
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("we read %q, want %q", got, want)
	}
	theirs.call("RevokeSecurityGroup", map[string]any{"SecurityGroupId": "sg-1", "Permissions": []any{drop}}, &answer)
	if left, err := p.List(t.Context(), "sg-1"); err != nil || len(left) != 3 {
		t.Errorf("after they revoked: %+v, %v", left, err)
	}
}

func theyAreToldWhatIsWrong(theirs peer) {
	theirs.t.Helper()
	var refused struct{ Code string }
	theirs.call("DescribeSecurityGroupAttribute", map[string]any{"SecurityGroupId": "sg-9"}, &refused)
	if refused.Code != "InvalidSecurityGroupId.NotFound" {
		theirs.t.Errorf("code %q", refused.Code)
	}
	theirs.call("RevokeSecurityGroup", map[string]any{"SecurityGroupId": "sg-1", "SecurityGroupRuleId": []string{"sgr-9"}}, &refused)
	if refused.Code != "InvalidParam.SecurityGroupRuleId" {
		theirs.t.Errorf("code %q", refused.Code)
	}
}
