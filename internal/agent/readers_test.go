package agent

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestWhoReadsMetricsOfAnAgent(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"token": "secret\n", "empty": "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const stranger, loopback, loopback6 = "203.0.113.7:40000", "127.0.0.1:40000", "[::ffff:127.0.0.1]:40000"
	for _, c := range []struct {
		file, from, authorization string
		want                      int
	}{
		{"token", stranger, "", http.StatusUnauthorized},
		{"token", stranger, "Bearer other", http.StatusUnauthorized},
		{"token", stranger, "Bearer ", http.StatusUnauthorized},
		{"token", stranger, "secret", http.StatusUnauthorized},
		{"token", stranger, "Bearer secret", http.StatusOK},
		{"token", loopback, "", http.StatusOK},
		{"token", loopback6, "", http.StatusOK},
		{"empty", stranger, "Bearer ", http.StatusForbidden},
		{"empty", loopback, "", http.StatusOK},
		{"none", stranger, "Bearer secret", http.StatusForbidden},
		{"none", "[::1]:40000", "", http.StatusOK},
		{"", stranger, "", http.StatusOK},
	} {
		file := c.file
		if file != "" {
			file = filepath.Join(dir, file)
		}
		handler := toReaders(file, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
		r.RemoteAddr = c.from
		if c.authorization != "" {
			r.Header.Set("Authorization", c.authorization)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%q from %s with %q: %d, want %d", c.file, c.from, c.authorization, w.Code, c.want)
		}
	}
}
