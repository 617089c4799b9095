package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/tmc/grpc-websocket-proxy/wsproxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	kvgw "go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	electiongw "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb/gw"
	lockgw "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb/gw"
)

// gatewayPrefix is the path of all that the gateway answers.
const gatewayPrefix = "/v3/"

// jsonExpansion bounds how much longer a request may be in JSON than the largest gRPC
// message: a byte takes 1.4 characters in base64 and up to 6 in a string, and each
// field brings its name.
const jsonExpansion = 8

// gateway answers JSON over HTTP with the answers of the server's own gRPC services.
// It calls them over a connection within the process, which is no listener's: its
// requests can neither come back to it nor carry the server's certificate, whose name
// a client could otherwise act under (CVE-2018-16886). Who asks is told by the
// Authorization header alone, which becomes the metadata of that name.
type gateway struct {
	http.Handler
	conn   *grpc.ClientConn
	inward *queue
}

// newGateway makes the gateway and serves its connection.
func newGateway(s *Server) (*gateway, error) {
	g := &gateway{inward: newQueue(processAddr{})}
	var err error
	// The connection is made at the first request.
	g.conn, err = grpc.NewClient("passthrough:///gateway",
		grpc.WithContextDialer(g.dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	)
	if err != nil {
		return nil, err
	}
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
		Marshaler: newJSON(int64(s.cfg.MaxRequestBytes + overheadBytes)),
	}))
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		kvgw.RegisterKVHandler,
		kvgw.RegisterWatchHandler,
		kvgw.RegisterLeaseHandler,
		kvgw.RegisterClusterHandler,
		kvgw.RegisterMaintenanceHandler,
		kvgw.RegisterAuthHandler,
		lockgw.RegisterLockHandler,
		electiongw.RegisterElectionHandler,
	} {
		if err := register(s.stopped, mux, g.conn); err != nil {
			return nil, errors.Join(err, g.conn.Close())
		}
	}
	g.Handler = limitFrames(wsproxy.WebsocketProxy(s.survive(mux),
		wsproxy.WithRequestMutator(func(_, out *http.Request) *http.Request {
			out.Method = http.MethodPost // a websocket begins as a GET
			return out
		}),
		wsproxy.WithMaxRespBodyBufferSize(math.MaxInt32),
		wsproxy.WithLogger(websocketLog{s.log}),
	), jsonExpansion*int64(s.cfg.MaxRequestBytes+overheadBytes))
	s.background.Go(func() { _ = s.grpc.Serve(g.inward) }) // until grpc stops
	return g, nil
}

// dial connects to the server itself.
func (g *gateway) dial(context.Context, string) (net.Conn, error) {
	near, far := net.Pipe()
	go g.inward.put(far)
	return near, nil
}

// close ends the connection, and what still comes over it.
func (g *gateway) close() {
	_ = g.conn.Close() // closed before: then nothing is left to end
	_ = g.inward.Close()
}

// processAddr is the address of a connection within the process.
type processAddr struct{}

// Network is "pipe", as of net.Pipe.
func (processAddr) Network() string { return "pipe" }

// String names the only user.
func (processAddr) String() string { return "gateway" }

// gatewayJSON is JSON as etcd's gateway speaks it (embed/serve.go, registerGateway):
// fields by their names in the .proto files, without those that are zero; fields that
// are unknown are passed over. A single message is bounded, a stream of them is not.
type gatewayJSON struct {
	*runtime.JSONPb
	maxBytes int64 // of one message
}

func newJSON(maxMessageBytes int64) gatewayJSON {
	return gatewayJSON{
		JSONPb: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		},
		maxBytes: jsonExpansion * maxMessageBytes,
	}
}

// NewDecoder decodes messages of at most maxBytes each.
func (j gatewayJSON) NewDecoder(r io.Reader) runtime.Decoder {
	bounded := &messageReader{from: r, maxBytes: j.maxBytes}
	d := j.JSONPb.NewDecoder(bounded)
	return runtime.DecoderFunc(func(v any) error {
		bounded.read = 0
		return d.Decode(v)
	})
}

// messageReader fails when more than maxBytes were read for one message.
type messageReader struct {
	from           io.Reader
	read, maxBytes int64
}

// Read reads, up to the bound.
func (m *messageReader) Read(b []byte) (int, error) {
	left := m.maxBytes - m.read
	if left <= 0 {
		return 0, fmt.Errorf("%w: more than %d bytes of JSON", errMessageTooLarge, m.maxBytes)
	}
	n, err := m.from.Read(b[:min(int64(len(b)), left)])
	m.read += int64(n)
	return n, err
}

// websocketLog logs what goes wrong with websockets. Its debug lines have keys, values
// and tokens in them and are dropped.
type websocketLog struct{ log *zap.Logger }

// Warnln logs.
func (l websocketLog) Warnln(words ...any) {
	l.log.Warn("websocket", zap.String("event", fmt.Sprint(words...)))
}

// Debugln drops.
func (websocketLog) Debugln(...any) {}
