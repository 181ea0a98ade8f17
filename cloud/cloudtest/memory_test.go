package cloudtest_test

import (
	"testing"

	"github.com/portreeve/portreeve/cloud/cloudtest"
)

func TestMemoryConformance(t *testing.T) {
	cloudtest.Conformance(t, func(*testing.T) cloudtest.Backend {
		account := cloudtest.NewEC2(cloudtest.Options{})
		return account.Backend(account.Provider())
	})
}
