package etcdapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

// fuzzPatience is how long a request may wait, as a watch does, until its client goes
// away.
const fuzzPatience = 100 * time.Millisecond

// hijackable is a recorder that can be taken over, as net/http's writers of HTTP/1
// can: the client at the other end hears one answer, says nothing and goes away.
type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	near, far := net.Pipe()
	go func() {
		_, _ = far.Read(make([]byte, 4096))
		_ = far.Close()
	}()
	return near, bufio.NewReadWriter(bufio.NewReader(near), bufio.NewWriter(near)), nil
}

// isJSON tells whether b is one JSON value after the other.
func isJSON(b []byte) bool {
	d := json.NewDecoder(bytes.NewReader(b))
	for {
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return err == io.EOF
		}
	}
}

// isUnknown tells whether an answer is the gateway's form of an error without a code:
// so etcd answers some calls of locks and elections.
func isUnknown(b []byte) bool {
	var e struct{ Code codes.Code }
	return json.Unmarshal(b, &e) == nil && e.Code == codes.Unknown
}

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
	f.Add([]byte("POST /v3/watch HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n{\"create_request\":{\"key\":\"Zm9v\"}}"))
	f.Add([]byte("POST /v3/election/leader HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\n{\"name\":\"Zm9v\"}"))
	f.Add([]byte("GET /v3/watch HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	f.Add([]byte("PUT /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
	f.Add([]byte("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip, zstd;q=x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, h := range []http.Handler{s.HTTPHandler(), s.MetricsHandler()} {
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
			if err != nil {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), fuzzPatience)
			w := httptest.NewRecorder()
			h.ServeHTTP(hijackable{w}, r.WithContext(ctx))
			cancel()
			body := w.Body.Bytes()
			if w.Code < 200 || w.Code > 599 || w.Code == http.StatusInternalServerError && !isUnknown(body) {
				t.Errorf("%s %s: %d %q", r.Method, r.URL, w.Code, body)
			}
			if w.Code == http.StatusOK && w.Header().Get("Content-Type") == "application/json" && !isJSON(body) {
				t.Errorf("%s %s: %q", r.Method, r.URL, body)
			}
		}
	})
}
