package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
)

// gateway speaks JSON over HTTP as Patroni does (patroni/dcs/etcd3.py): bytes in base64, 64-bit
// numbers as strings, fields that are zero left out.
type gateway struct {
	f    *flow
	base string // the server's URL
	path string // what paths of the API begin with
}

// object is a JSON object.
type object = map[string]any

// b64 is how bytes stand in JSON.
func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// text undoes b64.
func (g *gateway) text(v any) string {
	g.f.Helper()
	s, ok := v.(string)
	if v != nil && !ok {
		g.f.Fatalf("%v is no string", v)
	}
	b, err := base64.StdEncoding.DecodeString(s)
	g.f.must(err)
	return string(b)
}

// do sends a request and returns the answer, whose body the caller closes.
func (g *gateway) do(method, path string, body any) *http.Response {
	g.f.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		g.f.must(err)
		in = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(g.f.ctx, method, g.base+path, in)
	g.f.must(err)
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	g.f.must(err)
	return answer
}

// ask calls an RPC and returns the HTTP status and the answer.
func (g *gateway) ask(path string, body object) (int, object) {
	g.f.Helper()
	answer := g.do(http.MethodPost, g.path+path, body)
	defer func() { _ = answer.Body.Close() }()
	b, err := io.ReadAll(answer.Body)
	g.f.must(err)
	var out object
	if err := json.Unmarshal(b, &out); err != nil {
		g.f.Fatalf("%s answers %s %q: %v", path, answer.Status, b, err)
	}
	return answer.StatusCode, out
}

// call is ask for what must succeed.
func (g *gateway) call(path string, body object) object {
	g.f.Helper()
	status, out := g.ask(path, body)
	if status != http.StatusOK {
		g.f.Fatalf("%s: %d %v", path, status, out)
	}
	return out
}

// refused is ask for what must fail with a status, a gRPC code and a text.
func (g *gateway) refused(path string, body object, status, code int, message string) {
	g.f.Helper()
	got, out := g.ask(path, body)
	if got != status || out["code"] != float64(code) || out["message"] != message {
		g.f.Errorf("%s: got %d %v, want %d with code %d %q", path, got, out, status, code, message)
	}
}

// created is the transaction by which a key is taken that must not be there.
func created(key, value, lease string) object {
	put := object{"key": b64(key), "value": b64(value)}
	if lease != "" {
		put["lease"] = lease
	}
	return object{
		"compare": []object{{"key": b64(key), "target": "CREATE", "create_revision": "0"}},
		"success": []object{{"request_put": put}},
	}
}

// grant makes a lease.
func (g *gateway) grant(ttl int) string {
	g.f.Helper()
	r := g.call("/lease/grant", object{"TTL": ttl})
	equal[any](g.f, "TTL", r["TTL"], fmt.Sprint(ttl))
	return r["ID"].(string)
}

// list reads a prefix as "key=value key=value", and the revision.
func (g *gateway) list(key, end string) (story, revision string) {
	g.f.Helper()
	r := g.call("/kv/range", object{"key": b64(key), "range_end": b64(end), "serializable": true})
	kvs, _ := r["kvs"].([]any)
	for i, kv := range kvs {
		if i > 0 {
			story += " "
		}
		record := kv.(object)
		story += g.text(record["key"])[len(key):] + "=" + g.text(record["value"])
	}
	return story, r["header"].(object)["revision"].(string)
}

// stream calls an RPC that answers in a stream, and returns a function that takes the next result.
func (g *gateway) stream(path string, body object) (next func() object) {
	g.f.Helper()
	answer := g.do(http.MethodPost, g.path+path, body)
	g.f.Cleanup(func() { _ = answer.Body.Close() })
	decoder := json.NewDecoder(answer.Body)
	return func() object {
		g.f.Helper()
		var message object
		g.f.must(decoder.Decode(&message))
		result, ok := message["result"].(object)
		if !ok {
			g.f.Fatalf("the stream of %s tells %v", path, message)
		}
		return result
	}
}

// connect finds out where the API is, as a client that was written for several releases.
func connect(f *flow) *gateway {
	f.Helper()
	g := &gateway{f: f, base: "http://" + f.server.Address, path: "/v3"}
	answer := g.do(http.MethodGet, "/version", nil)
	defer func() { _ = answer.Body.Close() }()
	var version object
	f.must(json.NewDecoder(answer.Body).Decode(&version))
	equal[any](f, "version of the server", version["etcdserver"], "3.7.3")
	equal[any](f, "version of the cluster", version["etcdcluster"], "3.7.0")
	members := g.call("/cluster/member/list", object{})["members"].([]any)
	equal[any](f, "client URL", members[0].(object)["clientURLs"].([]any)[0], g.base)
	return g
}

// TestGatewayHighAvailability: what two members of a Patroni cluster do: they register, race for the
// leader's key, keep it by a lease, write under comparisons, and follow a watch; the leader is
// gone, and the other takes over.
func TestGatewayHighAvailability(t *testing.T) {
	each(t, func(f *flow) {
		g := connect(f)
		const prefix, end = "/service/db/", "/service/db0"
		g.refused("/auth/authenticate", object{"name": "a", "password": "b"}, http.StatusBadRequest, 9, "etcdserver: authentication is not enabled")
		one, two := g.grant(5), g.grant(60)
		equal[any](f, "initialize", g.call("/kv/txn", created(prefix+"initialize", "7000", ""))["succeeded"], true)
		equal[any](f, "initialize again", g.call("/kv/txn", created(prefix+"initialize", "7001", ""))["succeeded"], nil)
		for name, lease := range map[string]string{"one": one, "two": two} {
			g.call("/kv/put", object{"key": b64(prefix + "members/" + name), "value": b64("{}"), "lease": lease})
		}
		equal[any](f, "one takes the lead", g.call("/kv/txn", created(prefix+"leader", "one", one))["succeeded"], true)
		equal[any](f, "two does not", g.call("/kv/txn", created(prefix+"leader", "two", two))["succeeded"], nil)
		story, revision := g.list(prefix, end)
		equal(f, "keys", story, "initialize=7000 leader=one members/one={} members/two={}")
		next := g.stream("/watch", object{"create_request": object{
			"key": b64(prefix), "range_end": b64(end), "start_revision": revision, "filters": []object{}}})
		equal[any](f, "created", next()["created"], true)
		equal(f, "the last write again", g.events(next()), "leader=one")

		alive := g.call("/lease/keepalive", object{"ID": one})["result"].(object)
		equal[any](f, "TTL of a renewal", alive["TTL"], "5")
		r := g.call("/kv/txn", object{
			"compare": []object{{"key": b64(prefix + "leader"), "target": "VALUE", "value": b64("one")}},
			"success": []object{{"request_put": object{"key": b64(prefix + "status"), "value": b64(`{"optime":1}`)}}},
			"failure": []object{{"request_txn": created(prefix+"leader", "one", one)}},
		})
		equal[any](f, "status of the leader", r["succeeded"], true)
		equal(f, "the status", g.events(next()), `status={"optime":1}`)
		changed := r["header"].(object)["revision"].(string)
		update := func(modRevision string) any {
			return g.call("/kv/txn", object{
				"compare": []object{{"key": b64(prefix + "status"), "target": "MOD", "mod_revision": modRevision}},
				"success": []object{{"request_put": object{"key": b64(prefix + "status"), "value": b64("2")}}},
			})["succeeded"]
		}
		equal(f, "update of what was read", update(changed), any(true))
		equal(f, "update of what changed since", update(changed), nil)
		equal(f, "the update", g.events(next()), "status=2")

		// One does not renew its lease any more.
		equal(f, "one is gone", g.events(next()), "-leader -members/one")
		equal[any](f, "TTL of a lost lease", g.call("/lease/keepalive", object{"ID": one})["result"].(object)["TTL"], nil)
		g.refused("/kv/put", object{"key": b64("x"), "lease": one}, http.StatusNotFound, 5, "etcdserver: requested lease not found")
		equal[any](f, "two takes the lead", g.call("/kv/txn", created(prefix+"leader", "two", two))["succeeded"], true)
		equal(f, "the new leader", g.events(next()), "leader=two")
		g.call("/lease/revoke", object{"ID": two})
		equal(f, "two is gone", g.events(next()), "-leader -members/two")
		d := g.call("/kv/deleterange", object{"key": b64(prefix), "range_end": b64(end)})
		equal[any](f, "deleted", d["deleted"], "2")
		story, _ = g.list(prefix, end)
		equal(f, "keys left", story, "")
	})
}

// events writes the events of a watch's message as "key=value -key", without the prefix.
func (g *gateway) events(result object) string {
	g.f.Helper()
	s := ""
	events, _ := result["events"].([]any)
	for i, e := range events {
		if i > 0 {
			s += " "
		}
		kv := e.(object)["kv"].(object)
		key := g.text(kv["key"])[len("/service/db/"):]
		if e.(object)["type"] == "DELETE" {
			s += "-" + key
		} else {
			s += key + "=" + g.text(kv["value"])
		}
	}
	return s
}

// TestGatewayLockAndElection: the Lock and Election services over the gateway.
func TestGatewayLockAndElection(t *testing.T) {
	each(t, func(f *flow) {
		g := connect(f)
		lease := g.grant(60)
		held := g.call("/lock/lock", object{"name": b64("l"), "lease": lease})
		equal(f, "key", g.text(held["key"])[:2], "l/")
		g.call("/lock/unlock", object{"key": held["key"]})
		g.refused("/lock/lock", object{"name": b64("l"), "lease": "12345"}, http.StatusInternalServerError, 2, "etcdserver: requested lease not found")

		g.refused("/election/leader", object{"name": b64("e")}, http.StatusInternalServerError, 2, "election: no leader")
		leader := g.call("/election/campaign", object{"name": b64("e"), "lease": lease, "value": b64("1")})["leader"]
		next := g.stream("/election/observe", object{"name": b64("e")})
		equal(f, "observed", g.text(next()["kv"].(object)["value"]), "1")
		g.call("/election/proclaim", object{"leader": leader, "value": b64("2")})
		equal(f, "observed", g.text(next()["kv"].(object)["value"]), "2")
		equal(f, "leader", g.text(g.call("/election/leader", object{"name": b64("e")})["kv"].(object)["value"]), "2")
		g.call("/election/resign", object{"leader": leader})
		g.refused("/election/proclaim", object{"leader": leader, "value": b64("3")}, http.StatusInternalServerError, 2, "election: not leader")
		g.refused("/election/resign", object{}, http.StatusInternalServerError, 2, `"leader" field must be provided`)
	})
}
