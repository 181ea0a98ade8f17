package cloudtest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

const apiVersion = "2016-11-15"

// handlers are the actions that the front knows.
var handlers = map[string]func(*EC2, *form) (answer, error){
	actionAuthorize:      (*EC2).serveAuthorize,
	actionRevoke:         (*EC2).serveRevoke,
	actionDescribeRules:  (*EC2).serveDescribeRules,
	actionDescribeGroups: (*EC2).serveDescribeGroups,
}

// ServeHTTP speaks the EC2 Query protocol: a signed form in, XML out.
func (e *EC2) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "request too large", http.StatusRequestEntityTooLarge)
		return
	}
	requestID := e.requestID()
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("x-amzn-RequestId", requestID)
	out, err := e.serve(r, body)
	if err == nil {
		out.Namespace, out.RequestID = xmlNamespace, requestID
		writeXML(w, http.StatusOK, out)
		return
	}
	var refused *Error
	if !errors.As(err, &refused) {
		// The answer is lost: break the connection without a word.
		panic(http.ErrAbortHandler)
	}
	writeXML(w, refused.Status, errorXML{Code: refused.Code, Message: refused.Message, RequestID: requestID})
}

func (e *EC2) requestID() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.created++
	return fmt.Sprintf("00000000-0000-4000-8000-%012x", e.created)
}

func writeXML(w http.ResponseWriter, status int, v any) {
	text, err := xml.Marshal(v)
	if err != nil {
		panic(err) // a shape of ours that XML cannot express: a bug here
	}
	w.WriteHeader(status)
	// The client has gone when this fails; there is nobody left to tell.
	_, _ = w.Write(append([]byte(xml.Header), text...))
}

func (e *EC2) serve(r *http.Request, body []byte) (answer, error) {
	if err := e.authenticate(r, body); err != nil {
		return answer{}, err
	}
	values, err := url.ParseQuery(string(body))
	if err != nil || r.Method != http.MethodPost {
		return answer{}, refuse("InvalidAction", "expected a form in a POST")
	}
	f := newForm(values)
	action := f.required("Action")
	if v := f.required("Version"); v != apiVersion {
		return answer{}, refuse("InvalidAction", "The action "+action+" is not valid for version "+v)
	}
	handle, ok := handlers[action]
	if !ok {
		return answer{}, refuse("InvalidAction", "The action "+action+" is not valid for this web service.")
	}
	out, err := handle(e, f)
	out.XMLName.Local = action + "Response"
	return out, err
}

func (e *EC2) serveAuthorize(f *form) (answer, error) {
	group, add := f.required("GroupId"), f.permissions()
	if err := f.done(); err != nil {
		return answer{}, err
	}
	added, err := e.authorize(group, add)
	if err != nil {
		return answer{}, err
	}
	items := rulesXML(group, added)
	return answer{Return: new(true), Rules: &items}, nil
}

func (e *EC2) serveRevoke(f *form) (answer, error) {
	group, ids := f.required("GroupId"), f.list("SecurityGroupRuleId")
	if len(ids) == 0 {
		f.fail(refuse("MissingParameter", "this simulator revokes by SecurityGroupRuleId only"))
	}
	if err := f.done(); err != nil {
		return answer{}, err
	}
	gone, err := e.revoke(group, ids)
	if err != nil {
		return answer{}, err
	}
	items := rulesXML(group, gone)
	return answer{Return: new(true), Revoked: &items}, nil
}

func (e *EC2) serveDescribeRules(f *form) (answer, error) {
	filters := f.filters("group-id")
	size := f.number("MaxResults", 0)
	token := f.text("NextToken")
	if size != 0 && (size < 5 || size > 1000) {
		f.fail(refuse("InvalidParameterValue", "Value ( "+strconv.Itoa(size)+" ) for parameter maxResults is invalid. Expecting a value between 5 and 1000."))
	}
	if err := f.done(); err != nil {
		return answer{}, err
	}
	found, err := e.describe(filters["group-id"])
	if err != nil {
		return answer{}, err
	}
	var items []ruleXML
	for _, id := range sortedKeys(found) {
		items = append(items, rulesXML(id, found[id])...)
	}
	if size == 0 {
		return answer{Rules: &items}, nil
	}
	page, next, err := pageOf(items, token, min(size, e.options.PageSize))
	return answer{Rules: &page, NextToken: next}, err
}

// pageOf cuts one page out of items. The token is opaque to the client.
func pageOf(items []ruleXML, token string, size int) ([]ruleXML, string, error) {
	start := 0
	if token != "" {
		n, err := strconv.ParseUint(token, 36, 31)
		if err != nil || int(n) > len(items) {
			return nil, "", refuse("InvalidParameterValue", "Invalid value for nextToken")
		}
		start = int(n)
	}
	end := min(start+size, len(items))
	if end == len(items) {
		return items[start:], "", nil
	}
	return items[start:end], strconv.FormatInt(int64(end), 36), nil
}

func (e *EC2) serveDescribeGroups(f *form) (answer, error) {
	ids := f.list("GroupId")
	if err := f.done(); err != nil {
		return answer{}, err
	}
	items, err := e.describeGroups(ids)
	return answer{Groups: &items}, err
}

// describeGroups lists the groups with those ids, all of them without ids. One
// that does not exist is an error.
func (e *EC2) describeGroups(ids []string) ([]infoXML, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(actionDescribeGroups)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if _, err := e.group(id); err != nil {
			return nil, err
		}
	}
	var out []infoXML
	for _, id := range sortedKeys(e.groups) {
		if len(ids) == 0 || slices.Contains(ids, id) {
			out = append(out, infoXML{account, id, e.groups[id].name, "a group of the simulator"})
		}
	}
	return out, fault.after()
}
