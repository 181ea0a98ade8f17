package stage

import (
	"net/http"
	"strings"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// Credentials that the EC2 front of the lab accepts, where it listens (in the
// control plane's namespace, beside the manager), and the group it has.
const (
	AccessKey = "AKIALAB"
	SecretKey = "lab-secret"
	Endpoint  = "http://127.0.0.1:4566"
	Region    = "eu-central-1"
	Group     = "sg-0123456789abcdef0"
)

// stsEndpoint is where the account's STS listens, for firewalls that assume a role.
const stsEndpoint = "http://127.0.0.1:4568"

// Foreign are the rules that somebody else has in the group.
var Foreign = []cloud.Rule{
	cloudtest.Foreign("TCP 22 10.0.0.0/8"),
	cloudtest.Foreign("TCP 443 0.0.0.0/0"),
}

// ServeEC2 serves an EC2 account with one group, and its STS, beside the manager, until
// the lab closes. through, if any, are handlers around it, the innermost first.
func (s *Stage) ServeEC2(through ...func(http.Handler) http.Handler) (*cloudtest.EC2, error) {
	account := cloudtest.NewEC2(cloudtest.Options{AccessKey: AccessKey, SecretKey: SecretKey, Region: Region})
	account.AddGroup(Group)
	account.Seed(Group, Foreign...)
	handler := http.Handler(account)
	for _, wrap := range through {
		handler = wrap(handler)
	}
	for address, handler := range map[string]http.Handler{Endpoint: handler, stsEndpoint: account.STS()} {
		listener, err := s.ControlPlane().Listen("tcp", strings.TrimPrefix(address, "http://"))
		if err != nil {
			return nil, err
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = server.Serve(listener) }() // ends with the listener's namespace
	}
	return account, nil
}
