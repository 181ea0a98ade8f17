package cloudtest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	stsVersion   = "2011-06-15"
	stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"
)

// Role is an IAM role of the account that somebody may take on.
type Role struct {
	ARN string
	// ExternalID is what its trust policy demands; empty: nothing.
	ExternalID string
	// WebIdentity is the one token of an identity provider that it trusts, as the
	// projected token of a service account is; empty: none.
	WebIdentity string
}

// session are temporary credentials.
type session struct {
	secret, token string
	ends          time.Time
}

// AddRole makes a role, or replaces it.
func (e *EC2) AddRole(r Role) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.roles[r.ARN] = r
}

// STS is the Security Token Service beside the account: it hands out sessions that
// ServeHTTP accepts until they end. AssumeRole must be signed; the web identity's token
// is a proof by itself.
func (e *EC2) STS() http.Handler { return http.HandlerFunc(e.serveSTS) }

type stsAnswer struct {
	XMLName   xml.Name
	Namespace string     `xml:"xmlns,attr"`
	Result    sessionXML `xml:"Result"`
	RequestID string     `xml:"ResponseMetadata>RequestId"`
}

// sessionXML is the result of both actions, which differ in its name.
type sessionXML struct {
	XMLName    xml.Name
	RoleID     string `xml:"AssumedRoleUser>AssumedRoleId"`
	ARN        string `xml:"AssumedRoleUser>Arn"`
	Key        string `xml:"Credentials>AccessKeyId"`
	Secret     string `xml:"Credentials>SecretAccessKey"`
	Token      string `xml:"Credentials>SessionToken"`
	Expiration string `xml:"Credentials>Expiration"`
}

type stsErrorXML struct {
	XMLName   xml.Name `xml:"ErrorResponse"`
	Namespace string   `xml:"xmlns,attr"`
	Type      string   `xml:"Error>Type"`
	Code      string   `xml:"Error>Code"`
	Message   string   `xml:"Error>Message"`
	RequestID string   `xml:"RequestId"`
}

func (e *EC2) serveSTS(w http.ResponseWriter, r *http.Request) {
	f, body, err := readForm(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	requestID := e.requestID()
	w.Header().Set("Content-Type", "text/xml")
	action := f.required("Action")
	result, err := e.assume(r, body, action, f)
	if err == nil {
		result.XMLName.Local = action + "Result"
		out := stsAnswer{Namespace: stsNamespace, Result: result, RequestID: requestID}
		out.XMLName.Local = action + "Response"
		writeXML(w, http.StatusOK, out)
		return
	}
	var refused *Error
	if !errors.As(err, &refused) {
		panic(http.ErrAbortHandler) // the answer is lost
	}
	writeXML(w, refused.Status, stsErrorXML{
		Namespace: stsNamespace, Type: "Sender", Code: refused.Code, Message: refused.Message, RequestID: requestID,
	})
}

func (e *EC2) assume(r *http.Request, body []byte, action string, f *form) (sessionXML, error) {
	if v := f.required("Version"); v != stsVersion || action != actionAssume && action != actionAssumeByToken {
		return sessionXML{}, refuse("InvalidAction", "Could not find operation "+action+" for version "+v)
	}
	if action == actionAssume {
		if err := e.authenticate(r, body, stsService); err != nil {
			return sessionXML{}, err
		}
	}
	arn, name := f.required("RoleArn"), f.required("RoleSessionName")
	externalID, token := "", ""
	if action == actionAssume {
		externalID = f.text("ExternalId")
	} else {
		token = f.required("WebIdentityToken")
	}
	seconds := f.number("DurationSeconds", 3600)
	if seconds < 900 || seconds > 43200 {
		f.fail(refuse("ValidationError", "1 validation error detected: durationSeconds"))
	}
	if err := f.done(); err != nil {
		return sessionXML{}, err
	}

	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(action)
	if err != nil {
		return sessionXML{}, err
	}
	if err := e.trusts(action, arn, externalID, token); err != nil {
		return sessionXML{}, err
	}
	return e.open(arn, name, time.Duration(seconds)*time.Second), fault.after()
}

// trusts says whether the role may be taken on. A role that does not exist and one that
// does not trust the caller have the same answer; the external id is a condition of the
// trust policy, and does not harm where there is none:
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
func (e *EC2) trusts(action, arn, externalID, token string) error {
	role, ok := e.roles[arn]
	switch {
	case action == actionAssumeByToken && ok && role.WebIdentity != "" && role.WebIdentity != token:
		return refuse("InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider")
	case action == actionAssumeByToken && (!ok || role.WebIdentity == ""):
		return refuse("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
	case action == actionAssume && (!ok || role.ExternalID != "" && role.ExternalID != externalID):
		return refuse("AccessDenied", "User is not authorized to perform: sts:AssumeRole on resource: "+arn)
	}
	return nil
}

// open starts a session of the role. The caller holds the lock.
func (e *EC2) open(arn, name string, length time.Duration) sessionXML {
	e.created++
	key := fmt.Sprintf("ASIA%016X", e.created)
	s := session{secret: "secret of " + key, token: "token of " + key, ends: e.options.Clock().Add(length)}
	e.sessions[key] = s
	assumed := strings.Replace(strings.Replace(arn, ":iam:", ":sts:", 1), ":role/", ":assumed-role/", 1)
	return sessionXML{
		RoleID: "AROA" + key[4:] + ":" + name, ARN: assumed + "/" + name,
		Key: key, Secret: s.secret, Token: s.token, Expiration: s.ends.UTC().Format(time.RFC3339),
	}
}
