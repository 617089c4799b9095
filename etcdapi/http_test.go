package etcdapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// TestUnhealthy: each fault has etcd's status code and body, and what excludes it
// from the answer does.
func TestUnhealthy(t *testing.T) {
	fine := func(context.Context, *backends.RangeRequest) (backends.Cursor, error) { return &cursor{}, nil }
	led := backends.Header{MemberID: 1, Term: 2}
	noLeader := func(_ context.Context, r *backends.RangeRequest) (backends.Cursor, error) {
		if r.Serializable {
			return &cursor{}, nil
		}
		return nil, backends.ErrTimeout
	}
	alarm := func(kinds ...backends.AlarmKind) *fake {
		f := &fake{ranges: fine, status: backends.Status{Header: led, Leader: 1}}
		for _, k := range kinds {
			f.status.Alarms = append(f.status.Alarms, backends.Alarm{MemberID: 1, Kind: k})
		}
		return f
	}
	leaderless := &fake{ranges: noLeader, status: backends.Status{Header: led}}
	learner := &fake{ranges: fine, status: backends.Status{Header: led, Leader: 2, Learner: true}}
	for _, c := range []struct {
		backend *fake
		path    string
		code    int
		body    string
	}{
		{alarm(backends.AlarmNoSpace), "/health", 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{alarm(backends.AlarmCorrupt), "/health?exclude=NOSPACE", 503, `{"health":"false","reason":"ALARM CORRUPT"}` + "\n"},
		{alarm(backends.AlarmNoSpace), "/health?exclude=NOSPACE", 200, `{"health":"true","reason":""}`},
		{alarm(9), "/health", 503, `{"health":"false","reason":"ALARM UNKNOWN"}` + "\n"},
		{leaderless, "/health", 503, `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"},
		{leaderless, "/health?serializable=true", 200, `{"health":"true","reason":""}`},
		{leaderless, "/livez", 200, "ok\n"},
		{leaderless, "/readyz", 503, "[+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: etcdserver: request timed out\n[+]non_learner ok\n\n"},
		{leaderless, "/readyz?exclude=linearizable_read", 200, "ok\n"},
		{leaderless, "/readyz/linearizable_read", 503, "[-]linearizable_read failed: etcdserver: request timed out\n\n"},
		{leaderless, "/readyz/serializable_read?verbose", 200, "[+]serializable_read ok\nok\n"},
		{alarm(backends.AlarmCorrupt), "/readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"},
		{learner, "/readyz/non_learner", 503, "[-]non_learner failed: not supported for learner\n\n"},
		{learner, "/livez?verbose", 200, "[+]serializable_read ok\nok\n"},
	} {
		s, err := New(c.backend, Config{})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []http.Handler{s.HTTPHandler(), s.MetricsHandler()} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, c.path, nil))
			if w.Code != c.code || w.Body.String() != c.body {
				t.Errorf("%s: %d %q, want %d %q", c.path, w.Code, w.Body.String(), c.code, c.body)
			}
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestMetrics: the page has the backend's numbers and the counters of each method.
func TestMetrics(t *testing.T) {
	f := &fake{status: backends.Status{Header: testHeader, Leader: 7, SizeBytes: 4096, QuotaBytes: 1 << 31}}
	s, err := New(f, Config{ShimVersion: "0.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Shutdown(context.Background()) }()
	w := httptest.NewRecorder()
	s.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		"etcd_server_has_leader 1", "etcd_server_is_leader 1", `etcd_server_version{server_version="3.7.3"} 1`,
		`etcd_cluster_version{cluster_version="3.7"} 1`, "etcd_mvcc_db_total_size_in_bytes 4096",
		"etcd_debugging_mvcc_current_revision 12345", `shim_build_info{backend="fake",version="0.1"} 1`,
		`grpc_server_started_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 0`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
}
