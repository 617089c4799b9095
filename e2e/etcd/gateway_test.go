package etcd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// An ask is one HTTP request, sent to both servers; status, headers and body must be
// equal.
type ask struct {
	method, path, body string
	header             []string // names and values by turns
	host               string   // instead of the address
	// lines ends an answer that does not end by itself, after so many.
	lines int
	// hidden are JSON fields whose values two correct servers may differ in.
	hidden []string
	// anyOrder sorts the lines of a text: etcd's come out of a map.
	anyOrder bool
}

func post(path, body string) ask { return ask{method: http.MethodPost, path: path, body: body} }
func get(path string) ask        { return ask{method: http.MethodGet, path: path} }

func (a ask) hide(fields ...string) ask { a.hidden = fields; return a }
func (a ask) take(lines int) ask        { a.lines = lines; return a }
func (a ask) sorted() ask               { a.anyOrder = true; return a }
func (a ask) at(host string) ask        { a.host = host; return a }
func (a ask) with(header ...string) ask {
	a.header = append(slices.Clone(a.header), header...)
	return a
}
func (a ask) by(method string) ask { a.method = method; return a }
func (a ask) title() string {
	return fmt.Sprintf("%s %s %.100s %q", a.method, a.path, a.body, a.header)
}
func (a ask) token(token string) ask { return a.with("Authorization", token) }
func (a ask) from(origin string) ask { return a.with("Origin", origin) }

// heard is what is compared of an answer.
type heard struct {
	status int
	header string
	body   string
}

// askTimeout bounds an answer, far above what a busy machine needs.
const askTimeout = 30 * time.Second

// do asks one server. A token "$TOKEN" is the last that it gave out.
func (a ask) do(s *side) (heard, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, a.method, "http://"+s.server.Address+a.path, strings.NewReader(a.body))
	if err != nil {
		return heard{}, err
	}
	for i := 0; i < len(a.header); i += 2 {
		r.Header.Set(a.header[i], strings.ReplaceAll(a.header[i+1], "$TOKEN", s.token))
	}
	if a.host != "" {
		r.Host = a.host
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return heard{}, err
	}
	defer func() { _ = answer.Body.Close() }()
	var body []byte
	if a.lines > 0 {
		lines := bufio.NewScanner(answer.Body)
		for n := 0; n < a.lines && lines.Scan(); n++ {
			body = append(append(body, lines.Bytes()...), '\n')
		}
		err = lines.Err()
	} else {
		body, err = io.ReadAll(answer.Body)
	}
	if err != nil {
		return heard{}, err
	}
	var got struct{ Token string }
	if json.Unmarshal(body, &got) == nil && got.Token != "" {
		s.token = got.Token
	}
	return heard{answer.StatusCode, httpHeaderText(answer), a.canonical(body)}, nil
}

// httpHeaderText lists the headers that matter, in order. The length depends on the
// space in JSON, which protobuf's encoder varies from build to build.
func httpHeaderText(answer *http.Response) string {
	var lines []string
	for name, values := range answer.Header {
		if name != "Date" && name != "Content-Length" {
			lines = append(lines, fmt.Sprintf("%s: %q", name, values))
		}
	}
	slices.Sort(lines)
	return strings.Join(append(lines, fmt.Sprintf("transfer: %q", answer.TransferEncoding)), "\n")
}

// protoSpace is what protobuf's texts vary from build to build.
var protoSpace = regexp.MustCompile(`proto:[ \x{a0}]+`)

// canonical is a body whose JSON has no space, sorted fields and hidden values.
func (a ask) canonical(body []byte) string {
	decode := json.NewDecoder(bytes.NewReader(body))
	decode.UseNumber()
	var out []string
	for {
		var v any
		err := decode.Decode(&v)
		if errors.Is(err, io.EOF) && len(out) > 0 {
			return strings.Join(out, "\n")
		}
		if err != nil {
			break // not JSON
		}
		text, err := json.Marshal(hideFields(v, a.hidden))
		if err != nil {
			break
		}
		out = append(out, protoSpace.ReplaceAllString(string(text), "proto: "))
	}
	text := string(body)
	if a.anyOrder {
		lines := strings.Split(text, "\n")
		slices.Sort(lines)
		text = strings.Join(lines, "\n")
	}
	return text
}

// hideFields replaces values by their kind.
func hideFields(v any, fields []string) any {
	switch x := v.(type) {
	case map[string]any:
		for name, value := range x {
			if slices.Contains(fields, name) {
				x[name] = fmt.Sprintf("<%T>", value)
				continue
			}
			x[name] = hideFields(value, fields)
		}
	case []any:
		for i := range x {
			x[i] = hideFields(x[i], fields)
		}
	}
	return v
}

// converse asks both sides, one after the other request, and compares.
func converse(t *testing.T, sides [2]*side, asks []ask) {
	t.Helper()
	for _, a := range asks {
		var got [2]heard
		for i, s := range sides {
			var err error
			if got[i], err = a.do(s); err != nil {
				t.Fatalf("%s: on %s: %v", a.title(), s.name, err)
			}
		}
		if got[0] != got[1] {
			t.Errorf("%s\netcd: %d\n%s\n%s\nshim: %d\n%s\n%s", a.title(),
				got[0].status, got[0].header, got[0].body, got[1].status, got[1].header, got[1].body)
		} else if testing.Verbose() {
			t.Logf("%s: %d %.200s", a.title(), got[0].status, got[0].body)
		}
	}
}

// Keys and values in base64: foo, bar, and the end of all keys.
const (
	foo = `"Zm9v"`
	bar = `"YmFy"`
	end = `"AA=="`
)

// TestGatewayKV compares the key-value calls of the gateway, valid and invalid.
func TestGatewayKV(t *testing.T) {
	converse(t, newSides(t), []ask{
		post("/v3/kv/put", `{"key":`+foo+`,"value":`+bar+`}`),
		post("/v3beta/kv/put", `{"key":`+foo+`,"value":`+bar+`,"prev_kv":true}`),
		post("/v3/kv/range", `{"key":`+foo+`}`),
		post("/v3/kv/range", `{"key":`+foo+`,"range_end":`+end+`,"limit":"1","sort_order":"DESCEND","sort_target":"KEY"}`),
		post("/v3/kv/range", `{"key":`+foo+`,"rangeEnd":`+end+`,"limit":1,"sortOrder":2,"countOnly":true}`),
		post("/v3/kv/range", `{"key":`+foo+`,"serializable":true,"keys_only":true,"revision":2}`),
		post("/v3/kv/range", `{"key":"bm9uZQ=="}`),
		post("/v3/kv/txn", `{"compare":[{"key":`+foo+`,"result":"EQUAL","target":"VALUE","value":`+bar+`}],
			"success":[{"request_put":{"key":`+foo+`,"value":"djI="}},{"request_range":{"key":`+foo+`}},{"requestDeleteRange":{"key":"bm9uZQ=="}}],
			"failure":[{"request_txn":{}}]}`),
		post("/v3/kv/txn", `{"compare":[{"key":`+foo+`,"target":"VERSION","version":"99"}],"failure":[{"request_range":{"key":`+foo+`}}]}`),
		post("/v3/kv/txn", `{"success":[{}]}`),
		post("/v3/kv/txn", `{}`),
		post("/v3/kv/deleterange", `{"key":`+foo+`,"prev_kv":true}`),
		post("/v3/kv/deleterange", `{"key":`+foo+`}`),
		post("/v3/kv/compaction", `{"revision":"3","physical":true}`),
		post("/v3/kv/compaction", `{"revision":3}`),
		post("/v3/kv/compaction", `{"revision":"999"}`),
		post("/v3/kv/range", `{"key":`+foo+`,"revision":"1"}`),
		post("/v3/kv/range", `{"key":`+foo+`,"revision":"999"}`),
		// What cannot be asked so.
		post("/v3/kv/range", ``), post("/v3/kv/range", `{}`), post("/v3/kv/range", `[]`), post("/v3/kv/range", `null`),
		post("/v3/kv/range", `"foo"`), post("/v3/kv/range", `{"key":`), post("/v3/kv/range", `{"key":"no base64!"}`),
		post("/v3/kv/range", `{"key":5}`), post("/v3/kv/range", `{"key":`+foo+`,"limit":"x"}`), post("/v3/kv/range", `{"key":`+foo+`,"limit":1.5}`),
		post("/v3/kv/range", `{"key":`+foo+`,"limit":99999999999999999999}`), post("/v3/kv/range", `{"key":`+foo+`,"sort_order":"SIDEWAYS"}`),
		post("/v3/kv/range", `{"key":`+foo+`,"sort_order":9}`), post("/v3/kv/range", `{"key":`+foo+`,"unknown":{"a":[1]}}`),
		post("/v3/kv/range", `{"key":`+foo+`,"key":`+bar+`}`), post("/v3/kv/range", `{"key":`+foo+`} {"key":`+bar+`}`), post("/v3/kv/range", `{"key":`+foo+`} garbage`),
		post("/v3/kv/range", `{"key":"Zm9vLQ"}`), post("/v3/kv/range", `{"key":"_-8="}`), post("/v3/kv/range", "{\"key\":\"\xff\"}"),
		post("/v3/kv/put", `{"key":`+foo+`,"lease":"77"}`), post("/v3/kv/put", `{"key":`+foo+`,"ignore_value":true,"value":`+bar+`}`),
		post("/v3/kv/put", `{"key":"`+strings.Repeat("Zm9v", 530_000)+`"}`),
		post("/v3/kv/put", `{"key":"`+strings.Repeat("Zm9v", 750_000)+`"}`),
		// Methods, paths and headers.
		get("/v3/kv/range"), get("/v3/kv/range").by(http.MethodPut), get("/v3/kv/range").by(http.MethodDelete), get("/v3/kv/range").by(http.MethodPatch),
		get("/v3/kv/range").by(http.MethodHead), get("/v3/kv/range").by(http.MethodOptions), get("/v3/kv/range").by("NONSENSE"),
		post("/v3/kv", `{}`), post("/v3/", `{}`), post("/v3", `{}`), post("/v3/kv/range/", `{}`), post("/v3/kv//range", `{}`), post("/v3/KV/Range", `{}`),
		post("/v3/kv/rangestream", `{}`), post("/v3beta/", `{}`), post("/v3alpha/kv/range", `{"key":`+foo+`}`), post("/v2/keys/a", ``), post("/v3/kv/range%2F", `{}`),
		post("/v3/kv/range?key=Zm9v", `{}`), post("/v3/kv/range", `{"key":`+foo+`}`).with("Content-Type", "text/plain"),
		post("/v3/kv/range", `{"key":`+foo+`}`).with("Content-Type", "application/x-www-form-urlencoded"),
		post("/v3/kv/range", `{"key":`+foo+`}`).with("Content-Type", "application/json", "Accept", "application/xml"),
		post("/v3/kv/range", `{"key":`+foo+`}`).with("Grpc-Timeout", "5S"), post("/v3/kv/range", `{"key":`+foo+`}`).with("Grpc-Timeout", "bogus"),
		post("/v3/kv/range", `{"key":`+foo+`}`).with("Te", "trailers"), post("/v3/kv/range", `{}`).with("Te", "trailers"),
		post("/v3/kv/range", `{"key":`+foo+`}`).with("Grpc-Metadata-Hasleader", "true"), post("/v3/kv/range", `{"key":`+foo+`}`).with("X-Http-Method-Override", "GET"),
		post("/v3/kv/range", `{"key":`+foo+`}`).with("Accept-Encoding", "gzip"),
	})
}

// TestGatewayStreams compares what streams answer.
func TestGatewayStreams(t *testing.T) {
	converse(t, newSides(t), []ask{
		post("/v3/kv/put", `{"key":`+foo+`,"value":`+bar+`}`),
		post("/v3/kv/put", `{"key":`+foo+`,"value":"djI="}`),
		post("/v3/kv/deleterange", `{"key":`+foo+`}`),
		post("/v3/watch", `{"create_request":{"key":`+foo+`,"start_revision":"2","prev_kv":true}}`).take(2),
		post("/v3/watch", `{"create_request":{"key":`+foo+`,"start_revision":"2","filters":["NODELETE"],"watch_id":"7"}} {"cancel_request":{"watch_id":"7"}}`).take(1),
		post("/v3/watch", `{"create_request":{"key":`+foo+`,"start_revision":"-1"}}`).take(1),
		post("/v3/watch", `{"create_request":{"key":`+bar+`,"range_end":"YQ=="}}`).take(1),
		post("/v3/kv/compaction", `{"revision":"4"}`),
		post("/v3/watch", `{"create_request":{"key":`+foo+`,"start_revision":"2"}}`).take(2),
		post("/v3/lease/grant", `{"ID":"77","TTL":"600"}`),
		post("/v3/lease/grant", `{"ID":"77","TTL":"600"}`),
		post("/v3/lease/grant", `{"TTL":"9000000001"}`),
		post("/v3/kv/put", `{"key":`+foo+`,"lease":"77"}`),
		post("/v3/lease/keepalive", `{"ID":"77"}`),
		post("/v3/lease/keepalive", `{"ID":"77"} {"ID":"78"}`),
		post("/v3/lease/keepalive", ``),
		post("/v3/lease/timetolive", `{"ID":"77","keys":true}`).hide("TTL"),
		post("/v3/kv/lease/timetolive", `{"ID":"78"}`),
		post("/v3/lease/leases", `{}`), post("/v3/kv/lease/leases", `{}`),
		post("/v3/lease/revoke", `{"ID":"77"}`), post("/v3/kv/lease/revoke", `{"ID":"77"}`),
	})
}

// TestGatewayMaintenance compares the calls that are about the server itself.
func TestGatewayMaintenance(t *testing.T) {
	sizes := []string{"raftIndex", "raft_index", "raftAppliedIndex", "dbSize", "dbSizeInUse"}
	converse(t, newSides(t), []ask{
		post("/v3/kv/put", `{"key":`+foo+`,"value":`+bar+`}`),
		post("/v3/maintenance/status", `{}`).hide(sizes...),
		post("/v3/maintenance/alarm", `{}`),
		post("/v3/maintenance/alarm", `{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}`),
		post("/v3/maintenance/alarm", `{"action":"GET"}`),
		post("/v3/kv/put", `{"key":`+foo+`,"value":`+bar+`}`),
		get("/health"), get("/health?exclude=NOSPACE"), get("/health?exclude=CORRUPT"), get("/health?exclude="), get("/readyz"),
		post("/v3/maintenance/alarm", `{"action":"DEACTIVATE","memberID":"5","alarm":"NOSPACE"}`),
		post("/v3/maintenance/alarm", `{"action":"ACTIVATE","memberID":"5","alarm":"CORRUPT"}`),
		get("/health"), get("/health?exclude=CORRUPT"), get("/livez"), get("/readyz/data_corruption"), get("/readyz").sorted(), get("/readyz?exclude=data_corruption"),
		post("/v3/maintenance/alarm", `{"action":"DEACTIVATE","memberID":"5","alarm":"CORRUPT"}`),
		get("/health"),
		post("/v3/maintenance/defragment", `{}`),
		post("/v3/maintenance/hashkv", `{}`), post("/v3/maintenance/hashkv", `{"revision":"999"}`),
		post("/v3/cluster/member/list", `{}`).hide("clientURLs"), post("/v3/cluster/member/list", `{"linearizable":true}`).hide("clientURLs"),
	})
}

// TestGatewayMembers compares calls that change members, leader and version.
func TestGatewayMembers(t *testing.T) {
	converse(t, newSides(t), []ask{
		post("/v3/maintenance/hash", `{}`).hide("hash"),
		post("/v3/maintenance/transfer-leadership", `{"targetID":"5"}`),
		post("/v3/maintenance/downgrade", `{"action":"VALIDATE","version":"3.6"}`), post("/v3/maintenance/downgrade", `{"version":"x"}`),
		post("/v3/cluster/member/remove", `{"ID":"5"}`), post("/v3/cluster/member/promote", `{"ID":"5"}`), post("/v3/cluster/member/update", `{"ID":"5"}`),
		post("/v3/cluster/member/add", `{}`),
	})
}

// TestGatewayAuth compares the calls about users, and what tokens open.
func TestGatewayAuth(t *testing.T) {
	converse(t, newSides(t, "--bcrypt-cost", "4"), []ask{
		post("/v3/auth/status", `{}`), post("/v3/auth/enable", `{}`), post("/v3/auth/authenticate", `{"name":"root","password":"pw"}`),
		post("/v3/auth/user/add", `{"name":"root","password":"pw"}`), post("/v3/auth/user/add", `{"name":"root","password":"pw"}`), post("/v3/auth/user/add", `{}`),
		post("/v3/auth/role/add", `{"name":"root"}`), post("/v3/auth/user/grant", `{"user":"root","role":"root"}`),
		post("/v3/auth/user/add", `{"name":"u","password":"pw"}`), post("/v3/auth/role/add", `{"name":"r"}`), post("/v3/auth/role/add", `{"name":"r"}`),
		post("/v3/auth/role/grant", `{"name":"r","perm":{"permType":"READ","key":`+foo+`}}`), post("/v3/auth/role/grant", `{"name":"r"}`),
		post("/v3/auth/role/get", `{"role":"r"}`), post("/v3/auth/role/get", `{"role":"none"}`), post("/v3/auth/role/list", `{}`),
		post("/v3/auth/user/grant", `{"user":"u","role":"r"}`), post("/v3/auth/user/get", `{"name":"u"}`), post("/v3/auth/user/list", `{}`),
		post("/v3/auth/enable", `{}`), get("/health"), get("/livez?verbose"), get("/readyz?verbose").sorted(),
		post("/v3/kv/range", `{"key":`+foo+`}`), post("/v3/kv/range", `{"key":`+foo+`}`).token("nonsense"),
		post("/v3/auth/authenticate", `{"name":"u","password":"wrong"}`), post("/v3/auth/authenticate", `{"name":"u","password":"pw"}`).hide("token"),
		post("/v3/kv/range", `{"key":`+foo+`}`).token("$TOKEN"), post("/v3/kv/range", `{"key":`+foo+`}`).token("Bearer $TOKEN"),
		post("/v3/kv/range", `{"key":`+foo+`}`).with("Grpc-Metadata-Token", "$TOKEN"), post("/v3/kv/range", `{"key":`+foo+`}`).token(""),
		post("/v3/kv/range", `{"key":`+bar+`}`).token("$TOKEN"), post("/v3/kv/put", `{"key":`+foo+`}`).token("$TOKEN"),
		post("/v3/auth/user/list", `{}`).token("$TOKEN"),
		post("/v3/auth/authenticate", `{"name":"root","password":"pw"}`).hide("token"),
		post("/v3/auth/user/changepw", `{"name":"u","password":"p2"}`).token("$TOKEN"), post("/v3/auth/user/revoke", `{"name":"u","role":"r"}`).token("$TOKEN"),
		post("/v3/auth/role/revoke", `{"role":"r","key":`+foo+`}`).token("$TOKEN"), post("/v3/auth/role/delete", `{"role":"r"}`).token("$TOKEN"),
		post("/v3/auth/user/delete", `{"name":"u"}`).token("$TOKEN"), post("/v3/auth/user/delete", `{"name":"root"}`).token("$TOKEN"),
		post("/v3/auth/status", `{}`).token("$TOKEN"), post("/v3/auth/disable", `{}`), post("/v3/auth/disable", `{}`).token("$TOKEN"),
	})
}

// TestPages compares the pages that are not the gateway's.
func TestPages(t *testing.T) {
	var asks []ask
	for _, path := range []string{
		"/health", "/health?serializable=true", "/health?serializable=false", "/health?serializable=TRUE", "/health?exclude=NOSPACE&exclude=CORRUPT", "/health?exclude=%zz",
		"/livez", "/livez?verbose", "/livez?verbose=false", "/livez?exclude=serializable_read", "/livez?exclude=serializable_read&verbose", "/livez?exclude=no_such&verbose",
		"/livez/serializable_read", "/livez/serializable_read?verbose", "/livez/linearizable_read", "/livez/", "/livez/no_such",
		"/readyz", "/readyz/data_corruption", "/readyz/serializable_read", "/readyz/linearizable_read", "/readyz/non_learner?verbose", "/readyz/no_such",
		"/health/", "//health", "/health/../livez", "/nothing", "/", "/debug/pprof/", "/debug/requests", "/debug/events", "/debug/", "/members", "/raft", "/v2/keys", "/proxy/health",
	} {
		asks = append(asks, get(path), get(path).by(http.MethodPost), get(path).by(http.MethodHead), get(path).by(http.MethodOptions).from("https://a.example"))
	}
	asks = append(asks, get("/readyz?verbose").sorted(), get("/readyz?verbose&exclude=non_learner&exclude=data_corruption").sorted(), get("/readyz?verbose").sorted().at("evil.example"))
	asks = append(asks, get("/version").hide("shim", "backend").by(http.MethodPost), get("/version").by(http.MethodOptions))
	converse(t, newSides(t), asks)
}

// TestWebsocket compares a watch over a websocket.
func TestWebsocket(t *testing.T) {
	var got [2][]string
	for i, s := range newSides(t) {
		c, answer, err := websocket.DefaultDialer.Dial("ws://"+s.server.Address+"/v3/watch", nil)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		_ = answer.Body.Close()
		hear := func(n int) {
			for range n {
				_, b, err := c.ReadMessage()
				if err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				got[i] = append(got[i], ask{}.canonical(b))
			}
		}
		say := func(text string) {
			if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
		}
		say(`{"create_request":{"key":` + foo + `}}`)
		hear(1)
		if _, err := post("/v3/kv/put", `{"key":`+foo+`,"value":`+bar+`}`).do(s); err != nil {
			t.Fatal(err)
		}
		hear(1)
		say(`{"cancel_request":{"watch_id":0}}`)
		hear(1)
		_ = c.Close()
	}
	if !slices.Equal(got[0], got[1]) {
		t.Errorf("etcd: %q\nshim: %q", got[0], got[1])
	}
}
