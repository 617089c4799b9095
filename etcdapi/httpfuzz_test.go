package etcdapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

// FuzzHTTP sends an arbitrary HTTP request, as bytes, to both handlers: each answers
// with a known code, never that it failed within, does not panic, and what it calls
// JSON is.
func FuzzHTTP(f *testing.F) {
	b := memory.New(backends.SystemClock{})
	s, err := New(b, Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = s.Shutdown(context.Background())
		_ = b.Close(context.Background())
	})
	for _, target := range []string{
		"/health", "/health?exclude=NOSPACE&serializable=true", "/livez?verbose", "/readyz/serializable_read", "/readyz?exclude=a;b%zz", "/version",
		"/metrics", "/", "/v3/kv/range", "//health", "/health/../version", "/livez/%00", "/readyz/?exclude=", "/debug/vars", "*",
	} {
		f.Add([]byte("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n"))
	}
	f.Add([]byte("POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("PUT /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
	f.Add([]byte("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip, zstd;q=x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, h := range []http.Handler{s.HTTPHandler(), s.MetricsHandler()} {
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
			if err != nil {
				return
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code < 200 || w.Code == http.StatusInternalServerError || w.Code > 599 {
				t.Errorf("%s %s: %d %q", r.Method, r.URL, w.Code, w.Body)
			}
			if w.Code == http.StatusOK && w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s: %q", r.Method, r.URL, w.Body)
			}
		}
	})
}
