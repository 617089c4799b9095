package etcdapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/etcdshim/shim/backends"
)

// post posts JSON and tells the answer, without the space that the encoder varies
// from build to build.
func post(t *testing.T, url, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, compact(b)
}

func compact(b []byte) string {
	var out bytes.Buffer
	if json.Compact(&out, b) != nil {
		return string(b)
	}
	return out.String()
}

// TestGateway: requests in JSON are answered in JSON, in etcd's shape, with its codes,
// and below the path of etcd 3.3, too.
func TestGateway(t *testing.T) {
	_, address := serveOn(t, newMemory(t), Config{MaxRequestBytes: 4096}, Endpoint{})
	base := "http://" + address
	for _, c := range []struct {
		path, body string
		code       int
		want       string // a part
	}{
		{"/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`, 200, `"revision":"2"`},
		{"/v3beta/kv/put", `{"key":"Zm9v","value":"YmF6","prev_kv":true,"unknown":1}`, 200, `"prev_kv":{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}}`},
		{"/v3/kv/range", `{"key":"Zm9v"}`, 200, `"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"YmF6"}],"count":"1"}`},
		{"/v3/kv/range", `{}`, 400, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"/v3/kv/range", ``, 400, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"/v3/kv/range", `{"key":"Zm9v","revision":"99"}`, 400, `{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}`},
		{"/v3/kv/range", `{"key":`, 400, `{"code":3,"message":"unexpected EOF"}`},
		{"/v3/lease/revoke", `{"ID":"99"}`, 404, `{"code":5,"message":"etcdserver: requested lease not found"}`},
		{"/v3/kv/lease/revoke", `{"ID":99}`, 404, `{"code":5,`},
		{"/v3/no/such", `{}`, 404, `{"code":5,"message":"Not Found"}`},
		{"/v3/kv/put", `{"key":"` + strings.Repeat("Zm9v", 30_000) + `"}`, 400, `{"code":3,"message":"etcdserver: request is too large"}`},
		{"/v3/kv/put", `{"key":"` + strings.Repeat("Zm9v", 2_000_000) + `"}`, 400, `message is too large`},
	} {
		code, body := post(t, base+c.path, c.body)
		if code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s %.80s: %d %.200s, want %d with %s", c.path, c.body, code, body, c.code, c.want)
		}
	}
	code, body, _, err := get(t, http.DefaultClient, base+"/v3/kv/range")
	if err != nil || code != http.StatusNotImplemented || compact([]byte(body)) != `{"code":12,"message":"Method Not Allowed"}` {
		t.Errorf("GET: %d %q, %v", code, body, err)
	}
}

// TestGatewayOff: without the gateway its paths are unknown.
func TestGatewayOff(t *testing.T) {
	_, address := serveOn(t, newMemory(t), Config{DisableGRPCGateway: true}, Endpoint{})
	if code, body := post(t, "http://"+address+"/v3/kv/range", `{"key":"Zm9v"}`); code != http.StatusNotFound || body != "404 page not found\n" {
		t.Errorf("%d %q", code, body)
	}
}

// TestGatewayStream: a stream's answers come as lines, each as soon as it is there.
func TestGatewayStream(t *testing.T) {
	_, address := serveOn(t, newMemory(t), Config{}, Endpoint{})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/v3/watch", strings.NewReader(`{"create_request":{"key":"Zm9v"}}`))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewScanner(answer.Body)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.Contains(compact(lines.Bytes()), want) {
			t.Fatalf("%q, %v; want %s", lines.Text(), lines.Err(), want)
		}
	}
	next(`"created":true`)
	if code, body := post(t, "http://"+address+"/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`); code != http.StatusOK {
		t.Fatal(body)
	}
	next(`"events":[{"kv":{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}}]`)
}

// TestGatewayWebsocket: a websocket carries a stream in both directions.
func TestGatewayWebsocket(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	_, address := serveOn(t, newMemory(t), Config{Logger: zap.New(core), MaxRequestBytes: 64 << 10}, Endpoint{})
	c, answer, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+address+"/v3/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	defer func() { _ = c.Close() }()
	say := func(text string) {
		t.Helper()
		if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(want string) {
		t.Helper()
		_, b, err := c.ReadMessage()
		if err != nil || !strings.Contains(compact(b), want) {
			t.Fatalf("%s, %v; want %s", b, err, want)
		}
	}
	say(`{"create_request":{"key":"Zm9v","watch_id":5}}`)
	hear(`"watch_id":"5","created":true`)
	if code, body := post(t, "http://"+address+"/v3/kv/put", `{"key":"Zm9v","value":"c2VjcmV0"}`); code != http.StatusOK {
		t.Fatal(body)
	}
	hear(`"value":"c2VjcmV0"`)
	say(`{"cancel_request":{"watch_id":5}}`)
	hear(`"canceled":true`)
	// Beyond what any request needs; the connection may end while it is written.
	_ = c.WriteMessage(websocket.TextMessage, bytes.Repeat([]byte(" "), 10<<20))
	if _, b, err := c.ReadMessage(); err == nil {
		t.Errorf("after too large a message: %s", b)
	}
	for _, l := range logs.All() {
		if b, _ := json.Marshal(l.ContextMap()); strings.Contains(l.Message+string(b), "c2VjcmV0") {
			t.Errorf("a value is in the log: %s %s", l.Message, b)
		}
	}
}

// TestGatewayToken: the Authorization header becomes metadata, as etcd's gateway has it.
func TestGatewayToken(t *testing.T) {
	got := make(chan []string, 1)
	b := &fake{ranges: func(ctx context.Context, _ *backends.RangeRequest) (backends.Cursor, error) {
		got <- metadata.ValueFromIncomingContext(ctx, "authorization")
		return &cursor{result: backends.RangeResult{Header: testHeader}}, nil
	}}
	_, address := serveOn(t, b, Config{}, Endpoint{})
	if code, body := post(t, "http://"+address+"/v3/kv/range", `{"key":"Zm9v"}`, "Authorization", "a.token"); code != http.StatusOK {
		t.Fatal(body)
	}
	if v := <-got; len(v) != 1 || v[0] != "a.token" {
		t.Errorf("the metadata is %q", v)
	}
}

// TestGatewayNamesNobody names CVE-2018-16886 (GO-2021-0077): a request through the gateway
// has no certificate, neither the server's nor the one of the client that sent it. Nor does it
// connect to any listener, which could be another's (CVE-2020-15114, CVE-2020-15136, GHSA-j86v-2vjr-fg8f).
func TestGatewayNamesNobody(t *testing.T) {
	a := newAuthority(t)
	seen := make(chan *credentials.TLSInfo, 1)
	config := a.server()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, a.pool
	_, address := serveOn(t, seesTLS(seen), Config{ClientCertAuth: true}, Endpoint{TLS: config})
	client := a.client()
	client.Certificates = []tls.Certificate{a.certificate("root")}
	answer, err := httpClient(t, client, true).Post("https://"+address+"/v3/kv/range", "application/json", strings.NewReader(`{"key":"Zm9v"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if info := <-seen; answer.StatusCode != http.StatusOK || info != nil {
		t.Errorf("%s; the handler sees %v", answer.Status, info)
	}
}

// TestGatewayShutdown: a stream through the gateway ends with the server.
func TestGatewayShutdown(t *testing.T) {
	s, address := serveOn(t, newMemory(t), Config{}, Endpoint{})
	answer, err := http.Post("http://"+address+"/v3/watch", "application/json", strings.NewReader(`{"create_request":{"key":"Zm9v"}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewReader(answer.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	rest, err := io.ReadAll(lines)
	if want := `{"error":{"code":14,"message":"etcdserver: server stopped"}}`; err != nil || compact(rest) != want {
		t.Errorf("it ended with %q, %v", rest, err)
	}
}

// TestFrameLimit: the limit is that of a message, whatever its frames and however they
// arrive, and control frames do not count.
func TestFrameLimit(t *testing.T) {
	frame := func(head byte, n int) []byte {
		b := []byte{head, 0x80 | 126, byte(n >> 8), byte(n), 1, 2, 3, 4}
		return append(b, make([]byte, n)...)
	}
	long := append([]byte{0x81, 127, 0, 0, 0, 0, 0, 0, 3, 232}, make([]byte, 1000)...)
	for _, c := range []struct {
		name   string
		frames [][]byte
		fine   bool
	}{
		{"one message", [][]byte{frame(0x81, 1000)}, true},
		{"two messages", [][]byte{frame(0x81, 1000), frame(0x81, 1000)}, true},
		{"an eight-byte length", [][]byte{long, long}, true},
		{"a ping between", [][]byte{frame(0x01, 500), {0x89, 0x80, 1, 2, 3, 4}, frame(0x80, 500)}, true},
		{"too long", [][]byte{frame(0x81, 1001)}, false},
		{"too long in parts", [][]byte{frame(0x01, 500), frame(0x00, 500), frame(0x80, 1)}, false},
		{"an absurd length", [][]byte{{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}}, false},
	} {
		for _, step := range []int{1, 7, 1 << 20} {
			f := &frameConn{maxBytes: 1000}
			all := bytes.Join(c.frames, nil)
			var err error
			for len(all) > 0 && err == nil {
				n := min(step, len(all))
				err = f.follow(all[:n])
				all = all[n:]
			}
			if (err == nil) != c.fine || err != nil && !errors.Is(err, errMessageTooLarge) {
				t.Errorf("%s in steps of %d: %v", c.name, step, err)
			}
		}
	}
}
