package main

import (
	"context"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/alibaba"
	"github.com/portreeve/portreeve/cloud/aws"
	"github.com/portreeve/portreeve/controllers"
)

// providers are the clouds this manager speaks to. The paces are one for all, so that
// two CloudFirewalls of one account keep one rate.
func providers(paces *cloud.Paces) map[v1alpha1.Provider]controllers.Connect {
	return map[v1alpha1.Provider]controllers.Connect{
		v1alpha1.ProviderAWS: func(ctx context.Context, spec v1alpha1.CloudFirewallSpec, keys *controllers.Keys) (cloud.Provider, error) {
			return aws.New(ctx, awsOptions(spec, keys, paces))
		},
		v1alpha1.ProviderAlibaba: func(_ context.Context, spec v1alpha1.CloudFirewallSpec, keys *controllers.Keys) (cloud.Provider, error) {
			return alibaba.New(alibabaOptions(spec, keys, paces))
		},
	}
}

func awsOptions(spec v1alpha1.CloudFirewallSpec, keys *controllers.Keys, paces *cloud.Paces) aws.Options {
	o := aws.Options{Region: spec.Region, Endpoint: spec.Endpoint, Paces: paces}
	if keys != nil {
		o.Keys = aws.Keys{AccessKeyID: keys.ID, SecretAccessKey: keys.Secret, SessionToken: keys.Session}
	}
	if role := roleOf(spec); role != nil {
		o.AssumeRole = aws.AssumeRole{ARN: role.ARN, ExternalID: role.ExternalID}
	}
	return o
}

func alibabaOptions(spec v1alpha1.CloudFirewallSpec, keys *controllers.Keys, paces *cloud.Paces) alibaba.Options {
	o := alibaba.Options{Region: spec.Region, Endpoint: spec.Endpoint, Paces: paces}
	if spec.Priority != nil {
		o.Priority = int(*spec.Priority)
	}
	if keys != nil {
		o.Keys = alibaba.Keys{AccessKeyID: keys.ID, AccessKeySecret: keys.Secret, SecurityToken: keys.Session}
	}
	if role := roleOf(spec); role != nil {
		o.AssumeRole = alibaba.AssumeRole{ARN: role.ARN, ExternalID: role.ExternalID}
	}
	return o
}

func roleOf(spec v1alpha1.CloudFirewallSpec) *v1alpha1.AssumeRole {
	if spec.Credentials == nil {
		return nil
	}
	return spec.Credentials.AssumeRole
}
