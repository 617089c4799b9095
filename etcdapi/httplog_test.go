package etcdapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// troubled is a backend that does not tell its status.
type troubled struct {
	*fake
	status func() (backends.Status, error)
}

func (b troubled) Status(context.Context) (backends.Status, error) { return b.status() }

// TestMetricsWithoutStatus: a backend that is away, or that tells its status only to
// those who say who they are, takes its own numbers with it and no others.
func TestMetricsWithoutStatus(t *testing.T) {
	for _, fault := range []error{backends.ErrUserEmpty, backends.ErrTimeout} {
		s, err := New(troubled{&fake{}, func() (backends.Status, error) { return backends.Status{}, fault }}, Config{ShimVersion: "0.1"})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		page := w.Body.String()
		if w.Code != http.StatusOK || !strings.Contains(page, "\nshim_build_info{") || !strings.Contains(page, "\ngrpc_server_started_total{") {
			t.Errorf("%v: %d %.300s", fault, w.Code, page)
		}
		if strings.Contains(page, "etcd_server_has_leader") {
			t.Errorf("%v: there is a leader nobody was told of", fault)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestPanicInPage: a page that panics ends its connection, is told of in the log, and
// ends nothing else.
func TestPanicInPage(t *testing.T) {
	core, logs := observer.New(zapcore.ErrorLevel)
	var calm atomic.Bool
	b := troubled{&fake{}, func() (backends.Status, error) {
		if !calm.Load() {
			panic("no status")
		}
		return backends.Status{}, nil
	}}
	_, address := serveOn(t, b, Config{Logger: zap.New(core)}, Endpoint{})
	if code, body, _, err := get(t, http.DefaultClient, "http://"+address+"/version"); err == nil {
		t.Errorf("answered %d %q", code, body)
	}
	calm.Store(true)
	if code, _, _, err := get(t, http.DefaultClient, "http://"+address+"/version"); err != nil || code != http.StatusOK {
		t.Errorf("afterwards: %d, %v", code, err)
	}
	lines := logs.FilterMessage("panic in a request").All()
	if len(lines) == 0 || lines[0].ContextMap()["method"] != "GET /version" || lines[0].ContextMap()["panic"] != "no status" {
		t.Errorf("logged %v", logs.All())
	}
}

// TestPanicBehindWebsocket: the proxy of websockets calls the gateway where nobody
// recovers; a panic there must not end the process.
func TestPanicBehindWebsocket(t *testing.T) {
	core, logs := observer.New(zapcore.ErrorLevel)
	s, err := New(newMemory(t), Config{Logger: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Shutdown(context.Background()) }()
	var inner *http.Request
	limitFrames(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { inner = r }), 1).ServeHTTP(httptest.NewRecorder(), func() *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/v3/watch", nil)
		r.Header.Set("Sec-WebSocket-Key", "a")
		return r
	}())
	bad := s.survive(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("bad") }))
	bad.ServeHTTP(httptest.NewRecorder(), inner)
	if logs.FilterMessage("panic in a request").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
	defer func() {
		if recover() == nil {
			t.Error("a panic that net/http would see is hidden from it")
		}
	}()
	bad.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v3/watch", nil))
}

// TestHealthWarnings: why /health says no is logged in etcd's words.
func TestHealthWarnings(t *testing.T) {
	fails := func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
		return nil, errors.New("broken")
	}
	for message, b := range map[string]*fake{
		"serving /health false due to an alarm": {status: backends.Status{Alarms: []backends.Alarm{{MemberID: 255, Kind: backends.AlarmNoSpace}}}},
		"serving /health false; no leader":      {status: backends.Status{Header: backends.Header{Term: 2}}},
		"serving /health false; Range fails":    {ranges: fails},
	} {
		core, logs := observer.New(zapcore.WarnLevel)
		s, err := New(b, Config{Logger: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health", nil))
		if w.Code != http.StatusServiceUnavailable || logs.FilterMessage(message).Len() != 1 || logs.FilterMessage("/health error").Len() != 1 {
			t.Errorf("%s: %d, logged %v", message, w.Code, logs.All())
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestCommandLine: no page shows a password of the command line.
func TestCommandLine(t *testing.T) {
	args := os.Args
	t.Cleanup(func() { os.Args = args })
	os.Args = append(args[:len(args):len(args)], "--backend=postgres://user:secret@host/db")
	h := handler(t, Config{EnablePprof: true})
	for _, path := range []string{"/debug/vars", "/debug/pprof/cmdline"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if body := w.Body.String(); strings.Contains(body, "secret") || !strings.Contains(body, "postgres://user:xxxxx@host/db") {
			t.Errorf("%s: %.300s", path, body)
		}
	}
}

// TestRequestStats: each request is told of while the log shows debug lines, with
// etcd's fields, and no value in them.
func TestRequestStats(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	_, conn := serve(t, newMemory(t), Config{Logger: zap.New(core)})
	kv := pb.NewKVClient(conn)
	put := &pb.PutRequest{Key: []byte("a"), Value: []byte("secret")}
	if _, err := kv.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	ops := []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}, {Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}}
	if _, err := kv.Txn(t.Context(), &pb.TxnRequest{Success: ops}); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	want := [][2]int64{{1, 0}, {2, 0}, {0, 1}, {0, 1}}
	lines := logs.FilterMessage("request stats").FilterFieldKey("start time").All()
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	for i, l := range lines {
		fields := l.ContextMap()
		if l.Level != zapcore.DebugLevel || fields["request count"] != want[i][0] || fields["response count"] != want[i][1] {
			t.Errorf("%d: %s %v, want counts %v", i, l.Level, fields, want[i])
		}
		if content, _ := fields["request content"].(string); content == "" || strings.Contains(content, "secret") {
			t.Errorf("%d: content %q", i, content)
		}
	}
}
