package etcdapi

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt"
)

// apiPage is the table of the API; "make docs" writes it.
const apiPage = "../docs/API.md"

var updateDocs = flag.Bool("update", false, "write the generated pages of docs instead of comparing them")

// apiServices are etcd's, in the order of the table.
func apiServices() []protoreflect.FullName {
	return []protoreflect.FullName{
		"etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "etcdserverpb.Cluster", "etcdserverpb.Maintenance", "etcdserverpb.Auth",
		"v3lockpb.Lock", "v3electionpb.Election", "grpc.health.v1.Health",
	}
}

// TestAPIPage ensures that the table of the API is what the descriptors and HTTP rules of
// etcd say, with the state that each call of each backend has when it is asked.
func TestAPIPage(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	native, err := raftbolt.Open(t.Context(), raftbolt.Config{DataDir: dir, Name: "default"}, backends.Env{
		Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(), Clock: backends.SystemClock{}, Fatal: func(err error) { t.Error(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = native.Close(context.Background()) })
	askers := []*asker{newAsker(t, "raftbolt", native), newAsker(t, "memory", newMemory(t))}
	<-native.Ready()

	var page strings.Builder
	page.WriteString("# API\n\nEvery call of etcd 3.7.3, and its paths in the JSON gateway (POST; streams also as websockets; below `/v3beta/`, too).\n" +
		"Written by `make docs` from etcd's descriptors and HTTP rules, by asking each call of each backend once; a test compares.\n" +
		"A backend without a capability answers its calls with `Unimplemented`, and its name.\n\n" +
		"| call | kind | gateway | raftbolt | memory |\n|---|---|---|---|---|\n")
	for _, name := range apiServices() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			paths := gatewayPaths(m)
			for _, a := range askers {
				for _, path := range paths {
					a.checkGateway(path)
				}
			}
			fmt.Fprintf(&page, "| `%s/%s` | %s | %s | %s | %s |\n", name, m.Name(), kindOf(m), strings.Join(quoteAll(paths), " "), askers[0].state(m), askers[1].state(m))
		}
	}
	if *updateDocs {
		if err := os.WriteFile(apiPage, []byte(page.String()), 0o644); err != nil { //nolint:gosec // a page for all to read
			t.Fatal(err)
		}
		return
	}
	written, err := os.ReadFile(apiPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != page.String() {
		t.Errorf("%s is not what the server says; run make docs. Now:\n%s", apiPage, page.String())
	}
}

func kindOf(m protoreflect.MethodDescriptor) string {
	switch {
	case m.IsStreamingClient():
		return "both stream"
	case m.IsStreamingServer():
		return "server streams"
	}
	return "unary"
}

// gatewayPaths are the paths that the HTTP rules of a method name.
func gatewayPaths(m protoreflect.MethodDescriptor) []string {
	rule, ok := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		return nil
	}
	var paths []string
	for _, r := range append([]*annotations.HttpRule{rule}, rule.AdditionalBindings...) {
		paths = append(paths, r.GetPost())
	}
	return paths
}

func quoteAll(words []string) []string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "`" + w + "`"
	}
	return quoted
}

// asker asks a server over one backend.
type asker struct {
	t       *testing.T
	name    string
	address string
	conn    *grpc.ClientConn
}

func newAsker(t *testing.T, name string, b backends.Backend) *asker {
	t.Helper()
	_, address := serveOn(t, b, Config{}, Endpoint{})
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &asker{t, name, address, conn}
}

// streamPatience is how long a stream may be silent until it counts as served: a
// refusal comes at once.
const streamPatience = time.Second

// state is whether a call is served, told by what it answers to an empty request.
func (a *asker) state(m protoreflect.MethodDescriptor) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), streamPatience)
	defer cancel()
	method := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	stream, err := a.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err == nil {
		err = errors.Join(stream.SendMsg(dynamicpb.NewMessage(m.Input())), stream.CloseSend())
	}
	if err == nil {
		err = stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
	}
	switch {
	case status.Code(err) == codes.Unimplemented:
		return "-"
	case err != nil && !errors.Is(err, io.EOF) && slices.Contains([]codes.Code{codes.Internal, codes.Unavailable}, status.Code(err)):
		a.t.Errorf("%s on %s: %v", method, a.name, err)
	}
	return "served"
}

// checkGateway ensures that the gateway knows a path.
func (a *asker) checkGateway(path string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), streamPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.address+path, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	// A path that is known is one that takes another method.
	if answer.StatusCode != http.StatusNotImplemented {
		a.t.Errorf("GET %s on %s: %s", path, a.name, answer.Status)
	}
}
