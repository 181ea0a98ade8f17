package aws_test

import (
	"net/http/httptest"
	"os"
	"testing"

	"github.com/portreeve/portreeve/cloud/aws"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// offline keeps the SDK's chain of credentials from looking anywhere but the
// environment.
func offline(t *testing.T, accessKey, secretKey string) {
	t.Helper()
	for key, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey, "AWS_SESSION_TOKEN": "",
		"AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE":           "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(key, value)
	}
	t.Setenv("AWS_PROFILE", "") // so that it is restored: empty would mean a profile of that name
	if err := os.Unsetenv("AWS_PROFILE"); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, endpoint string) *aws.Provider {
	t.Helper()
	p, err := aws.New(t.Context(), aws.Options{Region: "eu-central-1", Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFrontConformance(t *testing.T) {
	offline(t, "AKIDEXAMPLE", "the secret")
	cloudtest.Conformance(t, func(t *testing.T) cloudtest.Backend {
		account := cloudtest.NewEC2(cloudtest.Options{AccessKey: "AKIDEXAMPLE", SecretKey: "the secret", PageSize: 5})
		server := httptest.NewServer(account)
		t.Cleanup(server.Close)
		return account.Backend(open(t, server.URL))
	})
}
