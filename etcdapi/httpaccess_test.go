package etcdapi

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// handler is that of the client port of a server with cfg.
func handler(t *testing.T, cfg Config) http.Handler {
	t.Helper()
	s, err := New(newMemory(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	return s.HTTPHandler()
}

// TestHostWhitelist names CVE-2018-1099, DNS rebinding, and CVE-2018-1098, forged requests of
// a web page: a plaintext request that names another host is refused, before anything else is looked at.
func TestHostWhitelist(t *testing.T) {
	for _, c := range []struct {
		list []string
		host string
		tls  bool
		code int
	}{
		{nil, "evil.example", false, 200},
		{[]string{"*"}, "evil.example", false, 200},
		{[]string{"good.example"}, "good.example", false, 200},
		{[]string{"good.example"}, "good.example:2379", false, 200},
		{[]string{"good.example"}, "evil.example", false, 421},
		{[]string{"good.example"}, "127.0.0.1:2379", false, 421},
		{[]string{"good.example"}, "evil.example", true, 200},
	} {
		h := handler(t, Config{HostWhitelist: c.list})
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			r := httptest.NewRequest(method, "/version", nil)
			if r.Host = c.host; c.tls {
				r.TLS = &tls.ConnectionState{}
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.code {
				t.Errorf("%s of %q, TLS %t, with %v: %d", method, c.host, c.tls, c.list, w.Code)
			}
			if c.code == 421 && !strings.Contains(w.Body.String(), "etcd --host-whitelist \""+hostOf(r)+"\"\n") {
				t.Errorf("the answer is %q", w.Body)
			}
		}
	}
}

// TestCORS: the origins that were asked for may read answers, and OPTIONS is answered.
func TestCORS(t *testing.T) {
	const origin = "https://a.example"
	for _, c := range []struct {
		list    []string
		origin  string
		allowed string
	}{
		{nil, "", "*"},
		{nil, origin, "*"},
		{[]string{"*", origin}, "https://b.example", "*"},
		{[]string{origin}, origin, origin},
		{[]string{origin}, "https://b.example", ""},
		{[]string{origin}, "", ""},
	} {
		h := handler(t, Config{CORS: c.list})
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			r := httptest.NewRequest(method, "/version", nil)
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			methods, headers := "", ""
			if c.allowed != "" {
				methods, headers = "POST, GET, OPTIONS, PUT, DELETE", "accept, content-type, authorization"
			}
			if got := w.Header(); w.Code != 200 || got.Get("Access-Control-Allow-Origin") != c.allowed ||
				got.Get("Access-Control-Allow-Methods") != methods || got.Get("Access-Control-Allow-Headers") != headers {
				t.Errorf("%s from %q with %v: %d %v", method, c.origin, c.list, w.Code, got)
			}
			if method == http.MethodOptions && w.Body.Len() != 0 {
				t.Errorf("OPTIONS says %q", w.Body)
			}
		}
	}
}

// TestDebugPaths: the pages for debugging are there under etcd's conditions only.
func TestDebugPaths(t *testing.T) {
	debug, _ := observer.New(zapcore.DebugLevel)
	info, _ := observer.New(zapcore.InfoLevel)
	for _, c := range []struct {
		cfg         Config
		trace, prof int
	}{
		{Config{Logger: zap.New(info)}, 404, 404},
		{Config{Logger: zap.New(info), EnablePprof: true}, 404, 200},
		{Config{Logger: zap.New(debug)}, 200, 404},
	} {
		h := handler(t, c.cfg)
		for path, want := range map[string]int{
			"/debug/vars": 200, "/debug/requests": c.trace, "/debug/events": c.trace,
			"/debug/pprof/": c.prof, "/debug/pprof/cmdline": c.prof, "/debug/pprof/heap": c.prof, "/debug/pprof/mutex": c.prof, "/debug/nothing": 404,
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			if w.Code != want {
				t.Errorf("%s: %d, want %d", path, w.Code, want)
			}
		}
	}
}
