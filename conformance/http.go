package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sort"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// httpCases are the cases of the plain HTTP paths on the client port.
func httpCases() []Case {
	return []Case{
		{Name: "http/health", RPC: "HTTP", Run: httpHealth},
		{Name: "http/health-alarm", RPC: "HTTP", Needs: Alarms, Absent: alarmAbsent, Run: httpHealthAlarm},
		{Name: "http/livez", RPC: "HTTP", Run: httpLivez},
		{Name: "http/readyz", RPC: "HTTP", Run: httpReadyz},
		{Name: "http/version", RPC: "HTTP", Run: httpVersion},
		{Name: "http/metrics", RPC: "HTTP", Run: httpMetrics},
		{Name: "http/method-not-allowed", RPC: "HTTP", Run: httpMethod},
		{Name: "http/unknown-path", RPC: "HTTP", Run: httpUnknown},
	}
}

// http sends a request to the endpoint and returns status, headers and body.
func (c *C) http(method, path string) (int, http.Header, string) {
	c.Helper()
	r, err := http.NewRequestWithContext(c.Ctx, method, "http://"+c.Endpoint.Address+path, nil)
	c.must(err, "request")
	answer, err := http.DefaultClient.Do(r)
	c.must(err, "%s %s", method, path)
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	c.must(err, "body of %s", path)
	return answer.StatusCode, answer.Header, string(body)
}

// wantHTTP requires status and body of a GET.
func (c *C) wantHTTP(path string, code int, body string) {
	c.Helper()
	gotCode, _, gotBody := c.http(http.MethodGet, path)
	equal(c, "status of "+path, gotCode, code)
	equal(c, "body of "+path, gotBody, body)
}

func httpHealth(c *C) {
	for _, path := range []string{"/health", "/health?serializable=true", "/health?exclude=NOSPACE"} {
		c.wantHTTP(path, http.StatusOK, `{"health":"true","reason":""}`)
	}
}

func httpHealthAlarm(c *C) {
	id := c.status().Header.MemberId
	defer c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE)
	c.alarm(pb.AlarmRequest_ACTIVATE, id, pb.AlarmType_NOSPACE)
	c.wantHTTP("/health", http.StatusServiceUnavailable, `{"health":"false","reason":"ALARM NOSPACE"}`+"\n")
	c.wantHTTP("/health?exclude=NOSPACE", http.StatusOK, `{"health":"true","reason":""}`)
	c.wantHTTP("/livez", http.StatusOK, "ok\n")
	c.wantHTTP("/readyz", http.StatusOK, "ok\n")
	c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE)
	c.wantHTTP("/health", http.StatusOK, `{"health":"true","reason":""}`)
}

func httpLivez(c *C) {
	c.wantHTTP("/livez", http.StatusOK, "ok\n")
	c.wantHTTP("/livez?verbose", http.StatusOK, "[+]serializable_read ok\nok\n")
	c.wantHTTP("/livez/serializable_read", http.StatusOK, "ok\n")
	c.wantHTTP("/livez/linearizable_read", http.StatusNotFound, "404 page not found\n")
}

func httpReadyz(c *C) {
	c.wantHTTP("/readyz", http.StatusOK, "ok\n")
	checks := []string{"data_corruption", "linearizable_read", "non_learner", "serializable_read"}
	for _, check := range checks {
		c.wantHTTP("/readyz/"+check, http.StatusOK, "ok\n")
	}
	for _, query := range []string{"?verbose", "?verbose&exclude=non_learner"} {
		code, _, body := c.http(http.MethodGet, "/readyz"+query)
		equal(c, "status", code, http.StatusOK)
		lines := strings.Split(strings.TrimSuffix(body, "\nok\n"), "\n")
		sort.Strings(lines) // etcd's order is a map's
		var want []string
		for _, check := range checks {
			if !strings.Contains(query, check) {
				want = append(want, "[+]"+check+" ok")
			}
		}
		equal(c, "checks of "+query, strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func httpVersion(c *C) {
	code, header, body := c.http(http.MethodGet, "/version")
	equal(c, "status", code, http.StatusOK)
	equal(c, "content type", header.Get("Content-Type"), "application/json")
	var v map[string]string
	c.must(json.Unmarshal([]byte(body), &v), "JSON %s", body)
	equal(c, "etcdserver", v["etcdserver"], c.status().Version)
	equal(c, "etcdcluster", v["etcdcluster"], "3.7.0")
	if c.Endpoint.Capabilities[Snapshotter] {
		equal(c, "storage", v["storage"], "3.7.0")
	}
}

func httpMetrics(c *C) {
	c.put("a", "1")
	code, header, body := c.http(http.MethodGet, "/metrics")
	equal(c, "status", code, http.StatusOK)
	if got := header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		c.Errorf("content type %q", got)
	}
	for _, line := range []string{
		`etcd_server_has_leader 1`, `etcd_server_is_leader [01]`,
		fmt.Sprintf(`etcd_server_version\{server_version="%s"\} 1`, regexp.QuoteMeta(c.status().Version)),
		`etcd_mvcc_db_total_size_in_bytes [1-9]\S*`,
		`etcd_debugging_mvcc_current_revision [1-9]\S*`,
		`etcd_server_client_requests_total\{client_api_version="unknown",type="unary"\} [1-9]\S*`,
		`grpc_server_handled_total\{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"\} [1-9]\S*`,
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(body) {
			c.Errorf("no line like %s", line)
		}
	}
}

func httpMethod(c *C) {
	for _, path := range []string{"/health", "/livez", "/readyz", "/version"} {
		code, header, body := c.http(http.MethodPost, path)
		equal(c, "status of POST "+path, code, http.StatusMethodNotAllowed)
		equal(c, "allow of "+path, header.Get("Allow"), "GET")
		equal(c, "body of "+path, body, "Method Not Allowed\n")
	}
}

func httpUnknown(c *C) {
	c.wantHTTP("/no/such/path", http.StatusNotFound, "404 page not found\n")
}
