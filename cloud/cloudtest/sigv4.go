package cloudtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	sigV4Algorithm = "AWS4-HMAC-SHA256"
	amzDate        = "20060102T150405Z"
	// sigV4Skew is how far a request's date may be from the service's.
	sigV4Skew   = 15 * time.Minute
	tokenHeader = "x-amz-security-token"
)

// service is one of AWS's, and its codes for what may be wrong with a signature.
type service struct{ name, unknownKey, late, ended string }

// EC2's codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
// ("If you're using temporary security credentials, this error can also occur if the
// credentials have expired"). Those of STS, and of most other services:
// https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html
var (
	ec2Service = service{"ec2", "AuthFailure", "RequestExpired", "RequestExpired"}
	stsService = service{"sts", "InvalidClientTokenId", "RequestExpired", "ExpiredToken"}
)

// authenticate checks the request's Signature Version 4 as AWS documents it:
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
// The signature must cover host, date and body, or a proxy could change them; and the
// session's token, where the credentials are temporary.
func (e *EC2) authenticate(r *http.Request, body []byte, s service) error {
	header, ok := strings.CutPrefix(r.Header.Get("Authorization"), sigV4Algorithm+" ")
	if !ok {
		return refuse("MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(header, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[k] = v
	}
	scope := strings.Split(fields["Credential"], "/") // key/day/region/service/aws4_request
	signed := strings.Split(fields["SignedHeaders"], ";")
	if len(scope) != 5 || scope[3] != s.name || scope[4] != "aws4_request" ||
		!slices.Contains(signed, "host") || !slices.Contains(signed, "x-amz-date") {
		return refuse("AuthFailure", "The authorization header is malformed")
	}
	secret, err := e.secretOf(scope[0], r, signed, s)
	if err != nil {
		return err
	}
	if e.options.Region != "" && scope[2] != e.options.Region {
		return refuse("AuthFailure", "Credential should be scoped to a valid region, not '"+scope[2]+"'.")
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse(amzDate, date)
	if err != nil || scope[1] != date[:8] {
		return refuse("AuthFailure", "The request's date is malformed")
	}
	if skew := e.options.Clock().Sub(at).Abs(); skew > sigV4Skew {
		return refuse(s.late, "Request has expired. Timestamp date is "+date)
	}
	toSign := strings.Join([]string{
		sigV4Algorithm, date, strings.Join(scope[1:], "/"), hexHash([]byte(canonicalRequest(r, signed, body))),
	}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range scope[1:] {
		key = hmacSHA256(key, part)
	}
	if !hmac.Equal([]byte(fields["Signature"]), []byte(hex.EncodeToString(hmacSHA256(key, toSign)))) {
		return refuse("SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
	}
	return nil
}

// secretOf returns the secret key that belongs to the access key, which is the account's
// own or that of a session.
func (e *EC2) secretOf(key string, r *http.Request, signed []string, s service) (string, error) {
	if key == e.options.AccessKey {
		return e.options.SecretKey, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	own, ok := e.sessions[key]
	switch {
	case !ok, r.Header.Get(tokenHeader) != own.token, !slices.Contains(signed, tokenHeader):
		return "", refuse(s.unknownKey, "AWS was not able to validate the provided access credentials")
	case !e.options.Clock().Before(own.ends):
		return "", refuse(s.ended, "The security token included in the request is expired")
	}
	return own.secret, nil
}

func canonicalRequest(r *http.Request, signed []string, body []byte) string {
	var headers strings.Builder
	for _, name := range signed {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host": // net/http takes these two out of the header
			value = r.Host
		case "content-length":
			value = r.Header.Get("Content-Length")
		}
		headers.WriteString(name + ":" + strings.Join(strings.Fields(value), " ") + "\n")
	}
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	return strings.Join([]string{
		r.Method, path, query, headers.String(), strings.Join(signed, ";"), hexHash(body),
	}, "\n")
}

func hexHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func hmacSHA256(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}
