package conformance

import (
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Capability names something that a backend may lack.
type Capability string

// The capabilities. KV and Watch are what every backend has.
const (
	Leases       Capability = "Leases"
	Members      Capability = "Members"
	Alarms       Capability = "Alarms"
	Hasher       Capability = "Hasher"
	Snapshotter  Capability = "Snapshotter"
	Defragmenter Capability = "Defragmenter"
	LeaderMover  Capability = "LeaderMover"
	Downgrader   Capability = "Downgrader"
	Auth         Capability = "Auth"
)

// AllCapabilities is what a full server, such as etcd, has.
func AllCapabilities() map[Capability]bool {
	return map[Capability]bool{
		Leases: true, Members: true, Alarms: true, Hasher: true, Snapshotter: true, Defragmenter: true,
		LeaderMover: true, Downgrader: true, Auth: true,
	}
}

// Condition is what a case needs of its server beyond being one.
type Condition string

// The conditions.
const (
	// Live is any server, also one that holds data.
	Live Condition = ""
	// SmallQuota is a server whose storage quota is QuotaBytes.
	SmallQuota Condition = "small-quota"
	// QuickProgress is a server that sends progress notifications each
	// ProgressInterval.
	QuickProgress Condition = "quick-progress"
	// Accounts is a server whose users, roles and authentication are the suite's alone, and
	// whose passwords are hashed at AccountsBcryptCost. Its cases turn authentication on and,
	// at their end, off; they run one after another.
	Accounts Condition = "accounts"
	// ShortTokens is such a server whose tokens end TokenTTL after they were used last.
	ShortTokens Condition = "short-tokens"
	// SignedTokens is such a server whose tokens are signed by HS256 with SignedTokenSecret.
	SignedTokens Condition = "signed-tokens"
	// NoQuorum is a member that served and has lost its quorum.
	NoQuorum Condition = "no-quorum"
)

const (
	// QuotaBytes is the quota of a SmallQuota server. etcd refuses a Put once
	// the file's size and the Put exceed it.
	QuotaBytes = 8 << 20
	// ProgressInterval is the progress interval of a QuickProgress server.
	ProgressInterval = 200 * time.Millisecond
	// AccountsBcryptCost is the cost of hashing a password where cases set many: the least.
	AccountsBcryptCost = 4
	// TokenTTL is how long tokens of a ShortTokens server live unused: etcd's flag is in seconds.
	TokenTTL = time.Second
	// SignedTokenSecret is the key of a SignedTokens server.
	SignedTokenSecret = "the key of the tokens of a server under test"
)

// Endpoint is a server under test.
type Endpoint struct {
	// Name is what the table calls it.
	Name string
	// Address is the host:port of the client port: gRPC and HTTP, plain text.
	Address string
	// Conn is a connection to Address. The endpoint's maker closes it.
	Conn *grpc.ClientConn
	// Capabilities holds what the server can do.
	Capabilities map[Capability]bool
	// Upstream says that this is etcd itself: the one request that stops an
	// etcd 3.7.3 process (an alarm with an unknown action) is not sent.
	Upstream bool
}

// Opener makes a server in a condition, or returns nil if that cannot be had. The server
// lives until t ends.
type Opener func(t *testing.T, condition Condition) *Endpoint

// maxReceiveBytes bounds one answer that the suite accepts; etcd's client
// accepts MaxInt32.
const maxReceiveBytes = 256 << 20

// Dial returns an endpoint at address, with a connection that t closes.
func Dial(t *testing.T, name, address string, capabilities map[Capability]bool) *Endpoint {
	t.Helper()
	return &Endpoint{Name: name, Address: address, Conn: dial(t, address), Capabilities: capabilities}
}

// dial opens a connection of its own to address.
func dial(t *testing.T, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes), grpc.WaitForReady(true)),
	}, options...)
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		t.Fatalf("dial %s: %v", address, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
