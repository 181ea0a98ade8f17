package stage

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"

	"k8s.io/client-go/rest"
)

// Proxied returns the manager's access to the API server through a proxy of the
// caller's: wrap stands between every request, credentials and watches included,
// and the API server. An error of its RoundTrip breaks the connection without an
// answer. close ends the proxy.
func (s *Stage) Proxied(ctx context.Context, wrap func(http.RoundTripper) http.RoundTripper) (config *rest.Config, stop func(), err error) {
	upstream := s.AnonymousConfig()
	target, err := url.Parse(upstream.Host)
	if err != nil {
		return nil, nil, err
	}
	transport, err := rest.TransportFor(upstream)
	if err != nil {
		return nil, nil, err
	}
	if config, err = s.ManagerConfig(ctx); err != nil {
		return nil, nil, err
	}
	listener, err := s.ControlPlane().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	quiet := log.New(io.Discard, "", 0)
	server := &httptest.Server{Listener: listener, Config: &http.Server{
		ErrorLog: quiet,
		Handler: &httputil.ReverseProxy{
			Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
			FlushInterval: -1, // watches
			Transport:     wrap(transport),
			ErrorLog:      quiet,
			ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		},
	}}
	server.StartTLS() // client-go sends no token without
	config.Host = server.URL
	config.CAData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return config, server.Close, nil
}
