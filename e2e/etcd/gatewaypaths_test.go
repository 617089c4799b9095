package etcd

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// apiPage lists the gateway's paths; it is written from etcd's HTTP rules.
const apiPage = "../../docs/API.md"

// gatewayPaths are all paths of the gateway.
func gatewayPaths(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile(apiPage)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, m := range regexp.MustCompile("`(/v3/[a-z/-]+)`").FindAllStringSubmatch(string(page), -1) {
		paths = append(paths, m[1])
	}
	if len(paths) < 45 {
		t.Fatalf("%s lists %d paths", apiPage, len(paths))
	}
	return paths
}

// TestGatewayEveryPath compares every path of the gateway, below both of its prefixes:
// the smallest request, what is no JSON, JSON of another type, and another method.
func TestGatewayEveryPath(t *testing.T) {
	// What two correct servers may differ in, wherever it stands.
	hidden := []string{"ID", "clientURLs", "hash", "dbSize", "dbSizeInUse", "raftIndex", "raftAppliedIndex"}
	// An empty request to these waits, or is answered with what is compared elsewhere.
	waits := []string{"/v3/watch", "/v3/lock/lock", "/v3/election/campaign", "/v3/election/observe", "/v3/maintenance/snapshot"}
	// These wait for more after what they cannot read.
	listens := []string{"/v3/watch", "/v3/lease/keepalive"}
	var asks []ask
	for _, path := range gatewayPaths(t) {
		for _, p := range []string{path, strings.Replace(path, "/v3/", "/v3beta/", 1)} {
			if body := `{}`; !slices.Contains(waits, path) {
				switch path {
				case "/v3/lease/grant":
					body = `{"TTL":"600"}` // one that does not end meanwhile
				case "/v3/maintenance/hashkv":
					// To etcd the hash of a compaction at revision 0, which comes before,
					// is that of the current revision then.
					body = `{"revision":"1"}`
				}
				asks = append(asks, post(p, body).hide(hidden...))
			}
			if !slices.Contains(listens, path) {
				asks = append(asks, post(p, `{"`), post(p, `"text"`), post(p, `[{}]`))
			}
			asks = append(asks, get(p), get(p).by(http.MethodPut), get(p).by(http.MethodOptions))
		}
	}
	converse(t, newSides(t), asks)
}

// part is one message of a snapshot in JSON.
type part struct {
	Result struct {
		Header         map[string]string
		RemainingBytes string `json:"remaining_bytes"`
		Blob           []byte
		Version        string
	}
}

// TestGatewaySnapshot ensures that a snapshot comes through the gateway whole, as a
// stream of messages with etcd's fields, below both prefixes.
func TestGatewaySnapshot(t *testing.T) {
	var shapes [2][]string
	for i, s := range newSides(t) {
		for n := range 20 {
			if _, err := post("/v3/kv/put", fmt.Sprintf(`{"key":"%s","value":"%s"}`, []string{"YQ==", "Yg=="}[n%2], strings.Repeat("Zm9v", 20_000))).do(s); err != nil {
				t.Fatal(err)
			}
		}
		for _, path := range []string{"/v3/maintenance/snapshot", "/v3beta/maintenance/snapshot"} {
			shapes[i] = append(shapes[i], snapshotShape(t, s, path)...)
		}
	}
	if !slices.Equal(shapes[0], shapes[1]) {
		t.Errorf("etcd: %q\nshim: %q", shapes[0], shapes[1])
	}
}

// snapshotShape reads a snapshot, checks it, and tells what its first, inner and last
// messages have.
func snapshotShape(t *testing.T, s *side, path string) []string {
	t.Helper()
	answer, err := http.Post("http://"+s.server.Address+path, "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 64<<20)
	var file []byte
	var kinds []string
	for lines.Scan() {
		var p part
		var fields struct{ Result map[string]any }
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			t.Fatalf("%s: %v in %.200s", s.name, err, lines.Bytes())
		}
		if err := json.Unmarshal(lines.Bytes(), &fields); err != nil {
			t.Fatal(err)
		}
		file = append(file, p.Result.Blob...)
		kinds = append(kinds, fmt.Sprint(slices.Sorted(maps.Keys(fields.Result)), p.Result.Version, p.Result.Header["cluster_id"], p.Result.RemainingBytes == ""))
	}
	if err := lines.Err(); err != nil || len(file) < sha256.Size {
		t.Fatalf("%s: %d bytes, %v", s.name, len(file), err)
	}
	body, sum := file[:len(file)-sha256.Size], file[len(file)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		t.Errorf("%s: the snapshot of %d bytes has another checksum", s.name, len(body))
	}
	return append(slices.Compact(kinds), answer.Status, answer.Header.Get("Content-Type"), fmt.Sprint(answer.TransferEncoding))
}

// A talk is what is said and heard over one websocket.
type talk struct {
	path   string
	header http.Header
	turns  []speech
}

// A speech is messages that are sent, one by one, and how many are to be awaited then.
type speech struct {
	said  []string
	heard int
}

// silence is how long nothing may be heard at the end of a talk.
const silence = 300 * time.Millisecond

// hear has a talk with a server, and tells the protocol that it chose and what it said.
func (c talk) hear(t *testing.T, s *side) []string {
	t.Helper()
	ws, answer, err := websocket.DefaultDialer.Dial("ws://"+s.server.Address+c.path, c.header)
	if err != nil {
		t.Fatalf("%s on %s: %v", c.path, s.name, err)
	}
	defer func() { _ = ws.Close() }()
	_ = answer.Body.Close()
	got := []string{answer.Header.Get("Sec-WebSocket-Protocol")}
	listen := func(patience time.Duration) error {
		if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		kind, b, err := ws.ReadMessage()
		if err == nil {
			got = append(got, fmt.Sprint(kind)+ask{hidden: []string{"TTL"}}.canonical(b))
		}
		return err
	}
	for _, turn := range c.turns {
		for _, text := range turn.said {
			if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
				t.Fatalf("%s on %s: %v", c.path, s.name, err)
			}
		}
		for range turn.heard {
			if err := listen(askTimeout); err != nil {
				t.Fatalf("%s on %s: %v after %q", c.path, s.name, err, got)
			}
		}
	}
	err = listen(silence)
	if late, ok := errors.AsType[net.Error](err); !ok || !late.Timeout() {
		got = append(got, fmt.Sprint(err)) // it is over, or it said more
	}
	return got
}

// TestWebsockets compares what websockets answer, of streams and of single calls. A
// request that is not a stream of requests waits for the end of what the websocket says,
// and nothing is answered then.
func TestWebsockets(t *testing.T) {
	sides := newSides(t)
	converse(t, sides, []ask{
		post("/v3/kv/put", `{"key":`+foo+`,"value":`+bar+`}`),
		post("/v3/lease/grant", `{"ID":"77","TTL":"600"}`), post("/v3/election/campaign", `{"name":`+bar+`,"lease":"77","value":`+foo+`}`),
	})
	once := func(heard int, said ...string) []speech { return []speech{{said, heard}} }
	for _, c := range []talk{
		{"/v3/kv/range", nil, once(0, `{}`)},
		{"/v3/kv/range?method=GET", nil, once(0, `{"key":`+foo+`}`)},
		{"/v3/no/such", nil, once(1)},
		{"/v3beta/kv/range", nil, once(0, `{"key":`, foo, `}`)},
		{"/v3/lease/keepalive", nil, once(2, `{"ID":"77"}`, `{"ID":"78"}`)},
		{"/v3/election/observe", nil, once(0, `{"name":`+bar+`}`)},
		{"/v3/watch", nil, once(2, `{"create_request":{"key":`+foo+`,"start_revision":"1"}}`)},
		{"/v3/watch", nil, []speech{{[]string{`{"create_request":{"key":` + foo + `}} {"create_request":{"key":` + bar + `}}`}, 2}, {[]string{`{"progress_request":{}}`}, 1}}},
		{"/v3/watch", nil, once(0, `"text"`)},
		{"/v3/watch", http.Header{"Sec-Websocket-Protocol": {"Bearer, nonsense"}}, once(1, `{"create_request":{"key":`+foo+`}}`)},
		{"/v3/watch", http.Header{"Origin": {"https://elsewhere.example"}}, once(1, `{"create_request":{"key":`+foo+`}}`)},
		// It may be done when the websocket ends, or not, so that it comes last.
		{"/v3/kv/put", nil, once(0, `{"key":`+foo+`,"value":`+bar+`}`)},
	} {
		compareSides(t, sides, fmt.Sprint("websocket ", c), func(s *side) string { return strings.Join(c.hear(t, s), "\n") })
	}
}

// TestDebugPages compares which pages for debugging there are, and which variables.
func TestDebugPages(t *testing.T) {
	for _, flags := range [][]string{nil, {"--enable-pprof"}, {"--log-level=debug"}} {
		sides := newSides(t, flags...)
		var got [2][]string
		for i, s := range sides {
			for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine", "/debug/pprof/mutex", "/debug/pprof/block", "/debug/pprof/threadcreate",
				"/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/none", "/debug/pprof", "/debug/requests", "/debug/events", "/debug/none"} {
				heard, err := get(path).do(s)
				if err != nil {
					t.Fatal(err)
				}
				got[i] = append(got[i], fmt.Sprint(path, " ", heard.status))
			}
			heard, err := get("/debug/vars").do(s)
			if err != nil {
				t.Fatal(err)
			}
			var vars map[string]any
			if err := json.Unmarshal([]byte(heard.body), &vars); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			got[i] = append(got[i], heard.header, fmt.Sprint(slices.Sorted(maps.Keys(vars))))
		}
		if !slices.Equal(got[0], got[1]) {
			t.Errorf("%v\netcd: %q\nshim: %q", flags, got[0], got[1])
		}
	}
}
