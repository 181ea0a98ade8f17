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
	actionListEntries:    (*EC2).serveEntries,
}

// ServeHTTP speaks the EC2 Query protocol: a signed form in, XML out.
func (e *EC2) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, body, err := readForm(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	requestID := e.requestID()
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("x-amzn-RequestId", requestID)
	out, err := e.serve(r, body, f)
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
	text = append([]byte(xml.Header), text...)
	// A client that knows the length need not read on for the end, and fail, when all is said.
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	// The client has gone when this fails; there is nobody left to tell.
	_, _ = w.Write(text)
}

// readForm reads what is posted, at most 1 MiB.
func readForm(w http.ResponseWriter, r *http.Request) (*form, []byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		return nil, nil, err
	}
	values, err := url.ParseQuery(string(body))
	return newForm(values), body, err
}

func (e *EC2) serve(r *http.Request, body []byte, f *form) (answer, error) {
	if err := e.authenticate(r, body, ec2Service); err != nil {
		return answer{}, err
	}
	if r.Method != http.MethodPost {
		return answer{}, refuse("InvalidAction", "expected a form in a POST")
	}
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
	filters, ids := f.filters("group-id"), f.list("SecurityGroupRuleId")
	page := f.page(5, 1000)
	if err := f.done(); err != nil {
		return answer{}, err
	}
	found, err := e.describe(filters["group-id"])
	if err != nil {
		return answer{}, err
	}
	var items []ruleXML
	for _, group := range sortedKeys(found) {
		for _, item := range rulesXML(group, found[group]) {
			if len(ids) == 0 || slices.Contains(ids, item.ID) {
				items = append(items, item)
			}
		}
	}
	if len(items) < len(ids) {
		return answer{}, refuse("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '"+ids[0]+"' does not exist")
	}
	items, next, err := pageOf(items, page, e.options.PageSize)
	return answer{Rules: &items, NextToken: next}, err
}

func (e *EC2) serveDescribeGroups(f *form) (answer, error) {
	ids, filters := f.list("GroupId"), f.filters("group-id", "tag:")
	page := f.page(5, 1000)
	if err := f.done(); err != nil {
		return answer{}, err
	}
	items, err := e.describeGroups(ids, filters)
	if err != nil {
		return answer{}, err
	}
	items, next, err := pageOf(items, page, e.options.PageSize)
	return answer{Groups: &items, NextToken: next}, err
}

func (e *EC2) serveEntries(f *form) (answer, error) {
	id, page := f.required("PrefixListId"), f.page(1, 100)
	if err := f.done(); err != nil {
		return answer{}, err
	}
	entries, err := e.entries(id)
	if err != nil {
		return answer{}, err
	}
	items := make([]entryXML, len(entries))
	for i, cidr := range entries {
		items[i] = entryXML{cidr.String()}
	}
	items, next, err := pageOf(items, page, e.options.PageSize)
	return answer{Entries: &items, NextToken: next}, err
}

// page is which part of a listing is asked for; size 0: all of it.
type page struct {
	size  int
	token string
}

// page reads MaxResults, which the action takes between least and most, and NextToken:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html#api-pagination
func (f *form) page(least, most int) page {
	size := f.number("MaxResults", 0)
	if size != 0 && (size < least || size > most) {
		f.fail(refuse("InvalidParameterValue", fmt.Sprintf("Value ( %d ) for parameter maxResults is invalid. Expecting a value between %d and %d.", size, least, most)))
	}
	return page{size, f.text("NextToken")}
}

// pageOf cuts one page out of items, of at most so many. The token is opaque to the
// client.
func pageOf[T any](items []T, p page, most int) ([]T, string, error) {
	if p.size == 0 {
		return items, "", nil
	}
	start := 0
	if p.token != "" {
		n, err := strconv.ParseUint(p.token, 36, 31)
		if err != nil || int(n) > len(items) {
			return nil, "", refuse("InvalidParameterValue", "Invalid value for nextToken")
		}
		start = int(n)
	}
	end := min(start+min(p.size, most), len(items))
	if end == len(items) {
		return items[start:], "", nil
	}
	return items[start:end], strconv.FormatInt(int64(end), 36), nil
}
