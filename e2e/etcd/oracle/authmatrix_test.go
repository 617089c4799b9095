package oracle

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

var matrixFlag = flag.Bool("matrix", false, "ask the matrix of callers: 63,000 calls of each server, some minutes")

// maxReported bounds what is printed of a mode, of each row one cell.
const maxReported = 40

// matrixModes are what the matrix is asked under.
func matrixModes(t *testing.T) []matrixMode {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the secret of all tokens"), 0o600); err != nil {
		t.Fatal(err)
	}
	signed := append(quickElection(), "--auth-token", "jwt,sign-method=HS256,ttl=10h,priv-key="+secret)
	some := func(names ...string) []caller {
		return slices.DeleteFunc(callers(), func(c caller) bool { return !slices.Contains(names, c.name) })
	}
	keys := slices.Concat(keyRows(), otherRows(), turnRows())
	all := func(signed bool) []matrixRow {
		return slices.Concat(keyRows(), accountRows(signed), otherRows(), turnRows())
	}
	return []matrixMode{
		{name: "off", flags: quickElection(), off: true, callers: some("", "!", "root", "rw-key"), rows: all(false)},
		{name: "simple tokens", flags: quickElection(), callers: callers(), rows: all(false)},
		{name: "signed tokens", flags: signed, signed: true, callers: some("", "!", "root", "rw-key", "r-prefix", "w-from"), rows: keys},
		{
			name: "signed tokens of before a change", flags: signed, signed: true, stale: true,
			callers: some("", "!", "root", "rw-key", "r-prefix", "rw-all", "stranger", "gone", "ended"), rows: all(true),
		},
	}
}

// matrixMethods are all RPCs that a server answers: etcd's, and those of its health.
func matrixMethods(t *testing.T) map[string]*method {
	t.Helper()
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Check", "Watch"} {
		m := &method{
			name: "Health." + name, path: "/grpc.health.v1.Health/" + name, serverSends: name == "Watch",
			request: (&healthpb.HealthCheckRequest{}).ProtoReflect().Type(), answer: (&healthpb.HealthCheckResponse{}).ProtoReflect().Type(),
		}
		known[m.name] = m
	}
	return known
}

// TestAuthMatrix ensures that every RPC, in every form in which it is about keys, leases,
// members or users, alone and nested, answers every kind of caller as etcd does, whether
// authentication is on or off; and that no answer shows a key that the caller may not read.
func TestAuthMatrix(t *testing.T) {
	if !*matrixFlag {
		t.Skip("no -matrix")
	}
	known := matrixMethods(t)
	sum := matrixSum{}
	for _, mode := range matrixModes(t) {
		t.Run(mode.name, func(t *testing.T) {
			start := time.Now()
			m := newMatrix(mode)
			etcd, shim := play(t, *dirFlag, known, Script{Flags: mode.flags, Steps: m.steps}, nil)
			m.judge(t, etcd, shim)
			if !t.Failed() && !mode.off {
				sum.add(m, etcd)
			}
			fmt.Printf("auth matrix, %s: %d cells of %d forms, %d calls, %.0f s\n", mode.name, len(m.cells), len(mode.rows), len(m.steps), time.Since(start).Seconds())
		})
	}
	if t.Failed() {
		return
	}
	fmt.Print(sum)
	for _, fault := range sum.lacking(known) {
		t.Error(fault)
	}
}

// judge compares the answers, and looks for what they must not show.
func (m *matrix) judge(t *testing.T, etcd, shim []Answer) {
	t.Helper()
	comparer, faults, reported := NewComparer(), 0, map[string]bool{}
	report := func(row, format string, args ...any) {
		t.Helper()
		if faults++; !reported[row] && len(reported) < maxReported {
			reported[row] = true
			t.Errorf(format, args...)
		}
	}
	defer func() {
		if faults > 0 {
			t.Errorf("%d faults", faults)
		}
	}()
	if len(etcd) < len(m.steps) || len(shim) < len(m.steps) {
		t.Fatalf("%d steps of %d done by etcd, %d by shim: %s %s", len(etcd), len(m.steps), len(shim), etcd[len(etcd)-1].Message, shim[len(shim)-1].Message)
	}
	for _, c := range m.cells {
		for side, answers := range map[string][]Answer{"etcd": etcd, "shim": shim} {
			if keys := m.leaks(c, answers); len(keys) > 0 {
				report("leak of "+c.row.rpc+side, "%s: %s shows %q", c, side, keys)
			}
		}
	}
	for i, step := range m.steps {
		if differences := comparer.Compare(etcd[i], shim[i]); len(differences) > 0 {
			row, at := m.at(i)
			report(row, "%s: %s", at, &verdict{i, step, differences, etcd[i], shim[i]})
		}
	}
}

// at is the row and the cell that a step belongs to.
func (m *matrix) at(step int) (row, at string) {
	for _, c := range m.cells {
		if step >= c.first && step < c.end {
			return c.row.rpc + c.row.what, c.String()
		}
	}
	return fmt.Sprint(step), "outside of the matrix"
}

// refusals are the words with which who may not is refused.
func refusals() []string {
	return []string{"permission denied", "user name is empty", "invalid auth token", "revision of auth store is old", "user name not found"}
}

// refused tells whether an answer is that of authentication, and no other.
func refused(rpc string, a Answer) bool {
	if rpc == "Election.Observe" && a.Code == codes.OK && len(a.Replies) == 0 {
		return true // it ends without a word
	}
	return a.Refused || a.Code != codes.OK && slices.ContainsFunc(refusals(), func(words string) bool { return strings.HasSuffix(a.Message, words) })
}

// matrixSum counts, of each RPC and of each caller, the cells that were refused and the others.
type matrixSum map[string][2]int

func (s matrixSum) add(m *matrix, answers []Answer) {
	for _, c := range m.cells {
		was := 1
		if refused(c.row.rpc, answers[c.asked]) {
			was = 0
		}
		for _, of := range []string{c.row.rpc, fmt.Sprintf("as %q", c.caller.name)} {
			counts := s[of]
			counts[was]++
			s[of] = counts
		}
	}
}

// String is a table.
func (s matrixSum) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-32s %8s %8s\n", "auth matrix", "refused", "let in")
	for _, of := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%-32s %8d %8d\n", of, s[of][0], s[of][1])
	}
	return b.String()
}

// lacking tells of RPCs that nobody was refused, or that nobody was let in to: then the
// matrix asks for the wrong things.
func (s matrixSum) lacking(known map[string]*method) (faults []string) {
	open := map[string]bool{"Auth.Authenticate": true, "Health.Check": true, "Health.Watch": true}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		switch counts := s[name]; {
		case counts[1] == 0:
			faults = append(faults, fmt.Sprintf("%s: nobody was let in", name))
		case (counts[0] == 0) != open[name]:
			faults = append(faults, fmt.Sprintf("%s: %d refused", name, counts[0]))
		}
	}
	for _, c := range callers() {
		if counts := s[fmt.Sprintf("as %q", c.name)]; counts[0] == 0 && !c.root || counts[1] == 0 {
			faults = append(faults, fmt.Sprintf("as %q: %d refused, %d let in", c.name, counts[0], counts[1]))
		}
	}
	return faults
}

// TestShownKeys ensures that the matrix finds what an answer shows, wherever it stands.
func TestShownKeys(t *testing.T) {
	secret := []*mvccpb.KeyValue{{Key: []byte("z/s")}}
	in := func(r *pb.ResponseOp) proto.Message { return &pb.TxnResponse{Responses: []*pb.ResponseOp{r}} }
	ranged := &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Kvs: secret}}}
	nested := &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Responses: []*pb.ResponseOp{ranged}}}}
	reader := cell{caller: callers()[slices.IndexFunc(callers(), func(c caller) bool { return c.name == "r-prefix" })], end: 1}
	for what, message := range map[string]proto.Message{
		"range":         &pb.RangeResponse{Kvs: secret},
		"part of range": &pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: secret}},
		"put":           &pb.PutResponse{PrevKv: secret[0]},
		"delete":        &pb.DeleteRangeResponse{PrevKvs: secret},
		"transaction":   in(ranged), "nested transaction": in(nested),
		"put in a transaction": in(&pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{PrevKv: secret[0]}}}),
		"lease":                &pb.LeaseTimeToLiveResponse{Keys: [][]byte{[]byte("m/k"), []byte("z/s")}},
		"watch":                &pb.WatchResponse{Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("m/k")}, PrevKv: secret[0]}}},
	} {
		answer := replied(message)
		if w, ok := message.(*pb.WatchResponse); ok {
			answer = Answer{Watched: []watched{{1, w}}}
		}
		m := &matrix{}
		if keys := m.leaks(reader, []Answer{answer}); !slices.Equal(keys, []string{"z/s"}) {
			t.Errorf("%s: found %q", what, keys)
		}
		m.mode.off = true
		if keys := m.leaks(reader, []Answer{answer}); keys != nil {
			t.Errorf("%s: found %q with authentication off", what, keys)
		}
	}
}
