package stage

import (
	"context"
	"path/filepath"

	"github.com/portreeve/portreeve/lab"
)

// Credentials that the EC2 front of the lab accepts, and where it listens: in
// the control plane's namespace, beside the manager.
const (
	AccessKey   = "AKIALAB"
	SecretKey   = "lab-secret"
	EC2Address  = "127.0.0.1:4566"
	EC2Endpoint = "http://" + EC2Address
)
