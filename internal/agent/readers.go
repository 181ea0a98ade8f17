package agent

import (
	"bytes"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"os"
	"strings"
)

// toReaders puts what the node itself may read, and else who shows the token that stands
// in the file: the agent listens on every address of its node, in front of everybody, and
// is to have no right to ask the API server about others. While the file is not there,
// or empty, nobody else may. A path of "" lets everybody read.
//
// The file is read each time, as a Secret may come and change at any time.
func toReaders(file string, handler http.Handler) http.Handler {
	if file == "" {
		return handler
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && from.Addr().Unmap().IsLoopback() {
			handler.ServeHTTP(w, r)
			return
		}
		want, err := os.ReadFile(file) //nolint:gosec // a flag
		want = bytes.TrimSpace(want)
		if err != nil || len(want) == 0 {
			http.Error(w, "metrics are for the node itself until there is a token", http.StatusForbidden)
			return
		}
		shown, is := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !is || subtle.ConstantTimeCompare([]byte(shown), want) != 1 {
			http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	})
}
