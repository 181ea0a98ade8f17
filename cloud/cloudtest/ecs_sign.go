package cloudtest

import (
	"crypto/hmac"
	"crypto/sha1" // what the vendor signs with
	"encoding/base64"
	"net/url"
	"strings"
	"time"
)

// ecsSkew: InvalidTimeStamp.Expired, "the interval between the request and the server's
// time is more than 15 minutes".
const ecsSkew = 15 * time.Minute

// authenticate checks the request's signature as the vendor documents it (Request
// syntax and signature method V2 for RPC APIs): base64(HMAC-SHA1(secret + "&", method +
// "&%2F&" + enc(sorted parameters))). Parameters count wherever they stand.
func (e *ECS) authenticate(method string, values url.Values) error {
	key := values.Get("AccessKeyId")
	for _, name := range []string{"Signature", "SignatureNonce", "Timestamp"} {
		if values.Get(name) == "" {
			return refuseECS("IncompleteSignature", "The request signature does not conform to Aliyun standards: no "+name+".")
		}
	}
	if values.Get("SignatureMethod") != "HMAC-SHA1" || values.Get("SignatureVersion") != "1.0" {
		return refuseECS("IncompleteSignature", "The request signature does not conform to Aliyun standards.")
	}
	if key != e.options.AccessKey {
		return refuseECS("InvalidAccessKeyId.NotFound", "Specified access key is not found.")
	}
	at, err := time.Parse("2006-01-02T15:04:05Z", values.Get("Timestamp"))
	if err != nil {
		return refuseECS("InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted.")
	}
	now := e.options.Clock()
	if now.Sub(at).Abs() > ecsSkew {
		return refuseECS("InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
	}
	toSign := stringToSign(method, values)
	mac := hmac.New(sha1.New, []byte(e.options.SecretKey+"&"))
	mac.Write([]byte(toSign))
	if want := base64.StdEncoding.EncodeToString(mac.Sum(nil)); !hmac.Equal([]byte(values.Get("Signature")), []byte(want)) {
		return refuseECS("SignatureDoesNotMatch", "Specified signature is not matched with our calculation. server string to sign is:"+toSign)
	}
	if values.Get("SecurityToken") != e.options.SecurityToken {
		return refuseECS("InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
	}
	return e.useNonce(values.Get("SignatureNonce"), now)
}

// useNonce refuses a nonce that was used before within the time in which its request
// would still be accepted.
func (e *ECS) useNonce(nonce string, now time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for old, at := range e.nonces {
		if now.Sub(at) > 2*ecsSkew {
			delete(e.nonces, old)
		}
	}
	if _, used := e.nonces[nonce]; used {
		return refuseECS("SignatureNonceUsed", "Specified signature nonce was used already.")
	}
	e.nonces[nonce] = now
	return nil
}

func stringToSign(method string, values url.Values) string {
	var pairs []string
	for _, key := range sortedKeys(values) {
		if key != "Signature" {
			pairs = append(pairs, percent(key)+"="+percent(values.Get(key)))
		}
	}
	return method + "&%2F&" + percent(strings.Join(pairs, "&"))
}

// percent escapes as RFC 3986 does: only letters, digits and -_.~ stay.
func percent(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}
