package stage

import (
	"net/http"
	"time"

	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// What ServeECS serves: where it listens (beside the manager), and its region. The
// keys and the group are those of the EC2 account.
const (
	AlibabaEndpoint = "http://127.0.0.1:4567"
	AlibabaRegion   = "cn-hangzhou"
)

// ServeECS serves an Alibaba Cloud account with one group beside the manager, until
// the lab closes.
func (s *Stage) ServeECS() (*cloudtest.ECS, error) {
	account := cloudtest.NewECS(cloudtest.ECSOptions{AccessKey: AccessKey, SecretKey: SecretKey, Region: AlibabaRegion})
	account.AddGroup(Group)
	account.Seed(Group, Foreign...)
	listener, err := s.ControlPlane().Listen("tcp", "127.0.0.1:4567")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: account, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with the listener's namespace
	return account, nil
}
