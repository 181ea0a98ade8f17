package cloudtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const ecsVersion = "2014-05-26"

// ecsHandlers are the actions that the front knows.
var ecsHandlers = map[string]func(*ECS, *form) (ecsAnswer, error){
	ecsAuthorize:      (*ECS).serveAuthorize,
	ecsRevoke:         (*ECS).serveRevoke,
	ecsDescribeRules:  (*ECS).serveDescribeRules,
	ecsDescribeGroups: (*ECS).serveDescribeGroups,
	ecsDescribeList:   (*ECS).serveDescribeList,
}

// ecsAnswer is an answer of the API; RequestId is added to it.
type ecsAnswer map[string]any

// ServeHTTP speaks the RPC API: signed parameters in, JSON out.
func (e *ECS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := e.requestID()
	out, err := e.serve(w, r)
	status := http.StatusOK
	if err != nil {
		var refused *Error
		if !errors.As(err, &refused) {
			// The answer is lost: break the connection without a word.
			panic(http.ErrAbortHandler)
		}
		status, out = refused.Status, ecsErrorOf(refused, r)
	}
	out["RequestId"] = id
	text, err := json.Marshal(out)
	if err != nil {
		panic(err) // a shape of ours that JSON cannot express: a bug here
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.Header().Set("x-acs-request-id", id)
	w.WriteHeader(status)
	// The client has gone when this fails; there is nobody left to tell.
	_, _ = w.Write(text)
}

// ecsErrorOf is the shape of an error. A missing permission is named in
// AccessDeniedDetail (RAM: troubleshoot access denied errors).
func ecsErrorOf(refused *Error, r *http.Request) ecsAnswer {
	out := ecsAnswer{
		"HostId": r.Host, "Code": refused.Code, "Message": refused.Message,
		"Recommend": "https://api.aliyun.com/troubleshoot?q=" + refused.Code + "&product=Ecs",
	}
	if refused.Code == "Forbidden.RAM" {
		out["AccessDeniedDetail"] = map[string]any{
			"AuthAction": "ecs:" + r.Form.Get("Action"), "NoPermissionType": "ImplicitDeny", "PolicyType": "AccountLevelIdentityBasedPolicy",
		}
	}
	return out
}

func (e *ECS) requestID() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.created++
	return fmt.Sprintf("00000000-0000-4000-8000-%012X", e.created)
}

func (e *ECS) serve(w http.ResponseWriter, r *http.Request) (ecsAnswer, error) {
	if r.Method != http.MethodPost && r.Method != http.MethodGet {
		return nil, refuseECS("UnsupportedHTTPMethod", "This http method is not supported.")
	}
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	if err := r.ParseForm(); err != nil {
		return nil, refuseECS("InvalidParameter", "The parameters cannot be read.")
	}
	if err := e.authenticate(r.Method, r.Form); err != nil {
		return nil, err
	}
	f := newForm(r.Form)
	f.api = ecsForm
	for _, common := range []string{
		"AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce", "SignatureType", "Timestamp", "SecurityToken",
	} {
		f.text(common)
	}
	action := f.required("Action")
	if f.required("Version") != ecsVersion || !strings.EqualFold(f.required("Format"), "JSON") {
		return nil, refuseECS("InvalidParameter", "The specified parameter \"Action or Version\" is not valid, or the format is not JSON.")
	}
	if region := f.required("RegionId"); e.options.Region != "" && region != e.options.Region {
		return nil, refuseECS("InvalidRegionId.NotFound", "The specified RegionId does not exist.")
	}
	handle, ok := ecsHandlers[action]
	if !ok {
		return nil, refuseECS("InvalidAction", "The specified action is not valid.")
	}
	return handle(e, f)
}

// ecsForm is what ECS calls the mistakes in a form.
var ecsForm = formAPI{refuse: refuseECS, missing: "MissingParameter", unknown: "UnsupportedParameter", malformed: "InvalidParameter"}

// permissions reads Permissions.N.
func (f *form) ecsPermissions() []ecsRule {
	var out []ecsRule
	f.each("Permissions", func(p string) {
		out = append(out, ecsRule{
			Policy: f.text(p + "Policy"), Priority: f.text(p + "Priority"), Protocol: f.required(p + "IpProtocol"),
			PortRange: f.text(p + "PortRange"), PortList: f.text(p + "PortRangeListId"),
			CIDR: f.text(p + "SourceCidrIp"), CIDR6: f.text(p + "Ipv6SourceCidrIp"),
			SourceGroup: f.text(p + "SourceGroupId"), SourceList: f.text(p + "SourcePrefixListId"),
			SourcePorts: f.text(p + "SourcePortRange"), DestCIDR: f.text(p + "DestCidrIp"), DestCIDR6: f.text(p + "Ipv6DestCidrIp"),
			NicType: f.text(p + "NicType"), Description: f.text(p + "Description"),
		})
	})
	return out
}

func (e *ECS) serveAuthorize(f *form) (ecsAnswer, error) {
	group, token, add := f.required("SecurityGroupId"), f.text("ClientToken"), f.ecsPermissions()
	if err := f.done(); err != nil {
		return nil, err
	}
	return ecsAnswer{}, e.authorize(group, token, add)
}

// serveRevoke: "You cannot specify both security group rule IDs and Permissions at the
// same time."
func (e *ECS) serveRevoke(f *form) (ecsAnswer, error) {
	group, token := f.required("SecurityGroupId"), f.text("ClientToken")
	ids, rules := f.list("SecurityGroupRuleId"), f.ecsPermissions()
	if err := f.done(); err != nil {
		return nil, err
	}
	switch {
	case len(ids) > 0 && len(rules) > 0:
		return nil, refuseECS("InvalidParam.Permissions", "The specified parameter Permissions cannot coexist with other parameters.")
	case len(rules) > 0:
		return ecsAnswer{}, e.revokeEqual(group, token, rules)
	}
	return ecsAnswer{}, e.revoke(group, token, ids)
}

// serveDescribeRules: MaxResults "Minimum value: 10. Maximum value: 1000. Default value:
// 500"; Direction "egress, ingress, all. Default value: all".
func (e *ECS) serveDescribeRules(f *form) (ecsAnswer, error) {
	group, direction, size, token := f.required("SecurityGroupId"), f.text("Direction"), f.number("MaxResults", 500), f.text("NextToken")
	f.text("NicType") // "the only valid value is intranet ... leave it empty, the value is automatically set"
	if size < 10 || size > 1000 {
		f.fail(refuseECS("InvalidParameter", "The specified parameter MaxResults is not valid."))
	}
	if err := f.done(); err != nil {
		return nil, err
	}
	rules, fault, err := e.describe(group)
	if err != nil {
		return nil, err
	}
	rules = slices.DeleteFunc(rules, func(r ecsRule) bool {
		return direction != "" && direction != "all" && r.Direction != direction
	})
	page, next, err := ecsPage(rules, token, min(size, e.options.PageSize), fault)
	return ecsAnswer{
		"SecurityGroupId": group, "RegionId": f.text("RegionId"), "VpcId": "vpc-1", "SecurityGroupName": group, "InnerAccessPolicy": "Accept",
		"NextToken": next, "Permissions": map[string]any{"Permission": page},
	}, err
}

// ecsPage cuts one page out of items. The token is opaque to the client.
func ecsPage[T any](items []T, token string, size int, fault effect) ([]T, string, error) {
	start := 0
	if token != "" {
		n, err := strconv.ParseUint(token, 36, 31)
		if err != nil || int(n) > len(items) {
			return nil, "", refuseECS("InvalidParameter", "The specified parameter NextToken is not valid.")
		}
		start = int(n)
	}
	if fault.Partial {
		size /= 2
	}
	end := min(start+size, len(items))
	page := append([]T{}, items[start:end]...) // [] and not null
	if end == len(items) {
		return page, "", nil
	}
	return page, strconv.FormatInt(int64(end), 36), nil
}

// serveDescribeGroups: MaxResults "Maximum value: 100. Default value: 10"; Tag.N "1 to
// 20", all of which a group must have.
func (e *ECS) serveDescribeGroups(f *form) (ecsAnswer, error) {
	var ids []string
	if id := f.text("SecurityGroupId"); id != "" {
		ids = []string{id}
	}
	if list := f.text("SecurityGroupIds"); list != "" {
		if err := json.Unmarshal([]byte(list), &ids); err != nil {
			f.fail(refuseECS("InvalidParameter", "The specified parameter SecurityGroupIds is not valid."))
		}
	}
	tags := map[string]string{}
	f.each("Tag", func(p string) { tags[f.required(p+"Key")] = f.text(p + "Value") })
	size, token := f.number("MaxResults", 10), f.text("NextToken")
	if size < 1 || size > 100 || len(tags) > 20 {
		f.fail(refuseECS("InvalidParameter", "The specified parameter MaxResults or Tag is not valid."))
	}
	if err := f.done(); err != nil {
		return nil, err
	}
	groups, fault, err := e.describeGroups(ids, tags)
	if err != nil {
		return nil, err
	}
	page, next, err := ecsPage(groups, token, min(size, e.options.PageSize), fault)
	out := []map[string]any{}
	for _, g := range page {
		out = append(out, g.info())
	}
	return ecsAnswer{"RegionId": f.text("RegionId"), "NextToken": next, "SecurityGroups": map[string]any{"SecurityGroup": out}}, err
}

// info is a group as DescribeSecurityGroups lists it.
func (g ecsGroup) info() map[string]any {
	kind := "normal"
	if g.advanced {
		kind = "enterprise"
	}
	tags := []map[string]string{}
	for _, key := range sortedKeys(g.tags) {
		tags = append(tags, map[string]string{"TagKey": key, "TagValue": g.tags[key]})
	}
	return map[string]any{
		"SecurityGroupId": g.id, "SecurityGroupName": g.id, "SecurityGroupType": kind, "VpcId": "vpc-1",
		"ServiceManaged": g.managed, "RuleCount": len(g.rules), "Tags": map[string]any{"Tag": tags},
	}
}

func (e *ECS) serveDescribeList(f *form) (ecsAnswer, error) {
	id := f.required("PrefixListId")
	if err := f.done(); err != nil {
		return nil, err
	}
	list, err := e.prefixList(id)
	entries, family := []map[string]string{}, "IPv4"
	for _, p := range list.entries {
		entries = append(entries, map[string]string{"Cidr": p.String(), "Description": ""})
		if p.Addr().Is6() {
			family = "IPv6"
		}
	}
	return ecsAnswer{
		"PrefixListId": id, "PrefixListName": id, "AddressFamily": family, "MaxEntries": list.max,
		"Entries": map[string]any{"Entry": entries},
	}, err
}
