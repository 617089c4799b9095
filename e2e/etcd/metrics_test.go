package etcd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// metricsPage is where what is left out, and what is shim's own, is listed.
const metricsPage = "../../docs/METRICS.md"

// TestMetrics ensures that each of etcd's metrics is told by shim under the same name, with
// the same labels and of the same type, or is listed as left out with a reason; that nothing is
// listed without need; and that what is shim's own is named so and listed.
func TestMetrics(t *testing.T) {
	t.Run("basic", func(t *testing.T) { compareMetrics(t) })
	t.Run("extensive", func(t *testing.T) { compareMetrics(t, "--metrics=extensive") })
}

func compareMetrics(t *testing.T, flags ...string) {
	t.Helper()
	sides := newSides(t, flags...)
	var told [2]map[string]string
	var calls [2][]string
	for i, s := range sides {
		exercise(t, s)
		told[i], calls[i] = scrape(t, s)
	}
	etcd, shim := told[0], told[1]
	for i, other := range []int{1, 0} {
		for _, c := range calls[i] {
			// etcd counts locks and elections from their first call on.
			late := i == 1 && (strings.Contains(c, "v3lockpb") || strings.Contains(c, "v3electionpb"))
			if !late && !slices.Contains(calls[other], c) {
				t.Errorf("%s tells %s, and %s does not", sides[i].name, c, sides[other].name)
			}
		}
	}
	leftOut, own := listed(t, "Left out"), listed(t, "Of shim's own")
	for _, name := range slices.Sorted(maps.Keys(etcd)) {
		_, omitted := leftOut[name]
		switch kind, ok := shim[name]; {
		case ok && omitted:
			t.Errorf("%s is listed as left out, and told", name)
		case !ok && !omitted:
			t.Errorf("%s (%s) is not told, and not listed as left out", name, etcd[name])
		case ok && kind != etcd[name]:
			t.Errorf("%s: etcd's is %s, shim's is %s", name, etcd[name], kind)
		}
	}
	for name, why := range leftOut {
		if etcd[name] == "" {
			t.Errorf("%s is listed as left out, and etcd does not tell it either", name)
		}
		if len(why) < 10 {
			t.Errorf("%s is left out for no reason", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shim)) {
		if etcd[name] != "" {
			continue
		}
		if _, ok := own[name]; !ok || !strings.HasPrefix(name, "shim_") {
			t.Errorf("%s (%s) is not etcd's, and not listed as shim's own", name, shim[name])
		}
	}
	for name := range own {
		if shim[name] == "" {
			t.Errorf("%s is listed, and not told", name)
		}
	}
}

// scrape tells the type and labels of each metric of a server; and the samples of those
// about RPCs, which there are for each call and code from the start.
func scrape(t *testing.T, s *side) (kinds map[string]string, calls []string) {
	t.Helper()
	answer, err := http.Get("http://" + s.server.Address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	types, labels := map[string]string{}, map[string][]string{}
	sample := regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$`)
	label := regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"`)
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) == 4 && words[0] == "#" && words[1] == "TYPE" {
			types[words[2]] = words[3]
			continue
		}
		m := sample.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name := m[1]
		if strings.HasPrefix(name, "grpc_server_") {
			pairs := strings.Split(m[2], ",")
			slices.Sort(pairs)
			calls = append(calls, fmt.Sprint(name, pairs))
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && (types[base] == "histogram" || types[base] == "summary") {
				name = base
			}
		}
		if labels[name] == nil {
			labels[name] = []string{}
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "le" && l[1] != "quantile" && !slices.Contains(labels[name], l[1]) {
				labels[name] = append(labels[name], l[1])
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	kinds = make(map[string]string, len(labels))
	for name, names := range labels {
		slices.Sort(names)
		kinds[name] = fmt.Sprintf("%s %v", types[name], names)
	}
	if len(kinds) < 50 {
		t.Fatalf("%s tells %d metrics", s.name, len(kinds))
	}
	return kinds, calls
}

// listed reads a table of the page: names in backquotes, and what is said of them.
func listed(t *testing.T, section string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(metricsPage))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", metricsPage, section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	names := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|(.*)\\|$").FindAllStringSubmatch(rest, -1) {
		names[m[1]] = strings.TrimSpace(m[2])
	}
	if len(names) == 0 {
		t.Fatalf("section %q of %s lists nothing", section, metricsPage)
	}
	return names
}

// exercise has a server do a little of everything, so that metrics with labels have some.
func exercise(t *testing.T, s *side) {
	t.Helper()
	ctx := t.Context()
	conn, err := grpc.NewClient("passthrough:///"+s.server.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	kv, lease, maintenance := pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	watch, err := pb.NewWatchClient(conn).Watch(ctx)
	must(err)
	must(watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}))
	_, err = watch.Recv()
	must(err)
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	must(err)
	_, err = watch.Recv()
	must(err)
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("b")}}}
	read := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{put, read}})
	must(err)
	_, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("b")})
	must(err)
	_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	must(err)
	_, _ = kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 99}) // a failure counts, too
	granted, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 100})
	must(err)
	alive, err := lease.LeaseKeepAlive(ctx)
	must(err)
	must(alive.Send(&pb.LeaseKeepAliveRequest{ID: granted.ID}))
	_, err = alive.Recv()
	must(err)
	_, err = lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: granted.ID})
	must(err)
	_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: 3, Physical: true})
	must(err)
	_, err = maintenance.HashKV(ctx, &pb.HashKVRequest{})
	must(err)
	_, err = maintenance.Defragment(ctx, &pb.DefragmentRequest{})
	must(err)
	snapshot, err := maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
	must(err)
	for err == nil {
		_, err = snapshot.Recv()
	}
	if !errors.Is(err, io.EOF) {
		must(err)
	}
	_, err = maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 5, Alarm: pb.AlarmType_NOSPACE})
	must(err)
	for _, path := range []string{"/health", "/health?exclude=NOSPACE", "/livez", "/readyz"} {
		r, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, "http://"+s.server.Address+path, nil)
		must(err)
		answer, err := http.DefaultClient.Do(r)
		must(err)
		must(answer.Body.Close())
	}
}
