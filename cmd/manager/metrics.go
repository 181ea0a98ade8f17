package main

import (
	"crypto/tls"
	"net/http"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/portreeve/portreeve/internal/scrape"
)

// metricsOptions serve metrics over TLS, and to whom the API server lets read them,
// unless that is switched off.
func metricsOptions(o options) metricsserver.Options {
	if !o.metricsSecure {
		return metricsserver.Options{BindAddress: o.metrics}
	}
	return metricsserver.Options{
		BindAddress: o.metrics, SecureServing: true, CertDir: o.metricsCertificates,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }},
		FilterProvider: func(config *rest.Config, web *http.Client) (metricsserver.Filter, error) {
			gate, err := scrape.New(config, web)
			if err != nil {
				return nil, err
			}
			return func(log logr.Logger, handler http.Handler) (http.Handler, error) {
				return gate.Before(log, handler), nil
			}, nil
		},
	}
}
