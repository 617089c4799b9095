package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/encoding/prototext"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

func init() {
	backends.Register(backends.Driver{Scheme: "etcd", Parameters: parameters(), Open: open})
}

const (
	// openTimeout is how long the upstream may take to answer at start.
	openTimeout = 10 * time.Second
	// A connection that is silent for pingInterval is asked for a sign of life,
	// and given up pingTimeout later. etcd refuses pings more often than each 5 s.
	pingInterval = 30 * time.Second
	pingTimeout  = 10 * time.Second
	// defaultPort is etcd's.
	defaultPort = "2379"
)

// Backend passes requests on. It implements backends.Backend and every
// capability that exists.
type Backend struct {
	conn  *grpc.ClientConn
	clock backends.Clock
	// version is empty when the upstream tells it to known users alone.
	version string
	// anonymous tells that the connection has a client certificate which names none of the callers.
	anonymous bool
	closed    atomic.Bool
	// noStream is set once the upstream said that it has no RangeStream.
	noStream atomic.Bool
}

func open(ctx context.Context, u *url.URL, env backends.Env) (backends.Backend, error) {
	if u.User != nil || (u.Path != "" && u.Path != "/") || u.Host == "" {
		return nil, fmt.Errorf("backend URL %q: want etcd://host:port[,host:port...]", u.Redacted())
	}
	addresses, err := addresses(u.Host)
	if err != nil {
		return nil, fmt.Errorf("backend URL %q: %w", u.Redacted(), err)
	}
	security, err := transport(u.Query())
	if err != nil {
		return nil, fmt.Errorf("backend URL %q: %w", u.Redacted(), err)
	}
	b, err := dial(addresses, security, env.Clock)
	if err != nil {
		return nil, err
	}
	named, _ := strconv.ParseBool(u.Query().Get(paramCertUser)) // transport has refused what is neither
	b.anonymous = u.Query().Get(paramCert) != "" && !named
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	st := &pb.StatusResponse{}
	err = b.call(ctx, reading, pb.Maintenance_Status_FullMethodName, backends.Caller{}, &pb.StatusRequest{}, st, grpc.WaitForReady(true))
	if err != nil && !errors.Is(err, backends.ErrUserEmpty) { // then it is there, and authentication is on
		return nil, errors.Join(fmt.Errorf("etcd backend: no answer from %s: %w", u.Host, err), b.Close(ctx))
	}
	b.version = st.Version
	return b, nil
}

// addresses splits a list of hosts, with or without ports.
func addresses(hosts string) ([]resolver.Address, error) {
	var list []resolver.Address
	for host := range strings.SplitSeq(hosts, ",") {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		name, port, err := net.SplitHostPort(host)
		if err != nil {
			return nil, err
		}
		if name == "" || port == "" {
			return nil, fmt.Errorf("address %q lacks a host or a port", host)
		}
		list = append(list, resolver.Address{Addr: host})
	}
	return list, nil
}

// dial makes a backend without waiting for a connection.
func dial(addresses []resolver.Address, security credentials.TransportCredentials, clock backends.Clock) (*Backend, error) {
	r := manual.NewBuilderWithScheme("etcd")
	r.InitialState(resolver.State{Addresses: addresses})
	conn, err := grpc.NewClient("etcd:///upstream",
		grpc.WithResolvers(r),
		grpc.WithAuthority(addresses[0].Addr),
		grpc.WithTransportCredentials(security),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.WithStatsHandler(observer{}),
		// Only what certainly was not processed is sent again, which grpc does anyway.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			// What etcd's client allows itself.
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
			grpc.MaxCallSendMsgSize(math.MaxInt32),
		),
	)
	if err != nil {
		return nil, fmt.Errorf("etcd backend: %w", err)
	}
	return &Backend{conn: conn, clock: clock}, nil
}

// Status implements backends.Backend. It is one request to the upstream, which
// does not tell its compacted revision.
func (b *Backend) Status(ctx context.Context) (backends.Status, error) {
	r := &pb.StatusResponse{}
	if err := b.call(ctx, reading, pb.Maintenance_Status_FullMethodName, backends.CallerOf(ctx), &pb.StatusRequest{}, r); err != nil {
		return backends.Status{}, err
	}
	st := backends.Status{
		Header:         header(r.Header),
		SizeBytes:      r.DbSize,
		SizeInUseBytes: r.DbSizeInUse,
		QuotaBytes:     r.DbSizeQuota,
		Leader:         r.Leader,
		Learner:        r.IsLearner,
		RaftIndex:      r.RaftIndex,
		AppliedIndex:   r.RaftAppliedIndex,
		StorageVersion: r.StorageVersion,
		Downgrade: backends.DowngradeInfo{
			Enabled: r.DowngradeInfo.GetEnabled(), TargetVersion: r.DowngradeInfo.GetTargetVersion(),
		},
	}
	for _, text := range r.Errors {
		// Alarms are reported as the text form of their messages; the absence of a
		// leader is told by Leader already.
		var a pb.AlarmMember
		switch {
		case prototext.Unmarshal([]byte(text), &a) == nil && a.Alarm != pb.AlarmType_NONE:
			st.Alarms = append(st.Alarms, backends.Alarm{MemberID: a.MemberID, Kind: backends.AlarmKind(a.Alarm)})
		case r.Leader == 0 && text == "etcdserver: no leader":
		default:
			st.Errors = append(st.Errors, text)
		}
	}
	return st, nil
}

// Info implements backends.Backend.
func (b *Backend) Info() backends.Info {
	return backends.Info{
		Name:         "etcd",
		Version:      b.version,
		KeyAlphabet:  backends.AnyBytes,
		MultiKeyTxn:  true,
		OldRevisions: true,
		Versions:     true,
	}
}

// Close implements backends.Backend.
func (b *Backend) Close(context.Context) error {
	b.closed.Store(true)
	return b.conn.Close()
}

// header is nil-safe: some of etcd's answers have none.
func header(h *pb.ResponseHeader) backends.Header {
	return backends.Header{
		ClusterID: h.GetClusterId(),
		MemberID:  h.GetMemberId(),
		Revision:  h.GetRevision(),
		Term:      h.GetRaftTerm(),
	}
}
