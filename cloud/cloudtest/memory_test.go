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

func TestECSMemoryConformance(t *testing.T) {
	for name, older := range map[string]bool{"lenient about duplicates": false, "older": true} {
		t.Run(name, func(t *testing.T) {
			cloudtest.Conformance(t, func(*testing.T) cloudtest.Backend {
				account := cloudtest.NewECS(cloudtest.ECSOptions{Older: older})
				return account.Backend(account.Provider())
			})
		})
	}
}
