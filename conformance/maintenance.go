package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"regexp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// maintenanceCases are the cases of Status, Hash, HashKV, MoveLeader, Snapshot, Defragment and the health service.
func maintenanceCases() []Case {
	return []Case{
		{Name: "maintenance/status", RPC: "Maintenance.Status", Run: maintStatus},
		{Name: "maintenance/status-store", RPC: "Maintenance.Status", Needs: Snapshotter, Absent: snapshotAbsent, Run: maintStatusStore},
		{Name: "maintenance/status-revision", RPC: "Maintenance.Status", Run: maintStatusRevision},
		{Name: "maintenance/hashkv", RPC: "Maintenance.HashKV", Needs: Hasher, Covers: []string{"HashKVRequest.revision"}, Run: maintHash},
		{Name: "maintenance/hashkv-after-compaction", RPC: "Maintenance.HashKV", Needs: Hasher, Run: maintHashCompacted},
		{Name: "maintenance/hash", RPC: "Maintenance.Hash", Needs: Hasher, Run: maintFileHash},
		{Name: "maintenance/move-leader-to-the-leader", RPC: "Maintenance.MoveLeader", Needs: LeaderMover, Run: maintMoveLeader},
		{Name: "badinput/row-33-move-leader", RPC: "Maintenance.MoveLeader", Needs: LeaderMover,
			Covers: []string{"MoveLeaderRequest.targetID"}, Run: maintMoveLeaderBad},
		{Name: "maintenance/snapshot", RPC: "Maintenance.Snapshot", Needs: Snapshotter, Run: maintSnapshot},
		{Name: "maintenance/defragment", RPC: "Maintenance.Defragment", Needs: Defragmenter, Run: maintDefragment},
		{Name: "maintenance/health-check", RPC: "Health.Check", Covers: []string{"HealthCheckRequest.service"}, Run: maintHealth},
		{Name: "maintenance/health-list", RPC: "Health.List", Run: maintHealthList},
		{Name: "maintenance/health-watch", RPC: "Health.Watch", Covers: []string{"Watch.service"}, Run: maintHealthWatch},
		{Name: "badinput/row-32-hashkv-revision", RPC: "Maintenance.HashKV", Needs: Hasher, Run: maintHashRevisions},
	}
}

func (c *C) status() *pb.StatusResponse {
	c.Helper()
	s, err := c.Maintenance.Status(c.Ctx, &pb.StatusRequest{})
	c.must(err, "status")
	return s
}

func maintStatus(c *C) {
	rev := c.put("a", "1").Header.Revision
	s := c.status()
	c.header("status", s.Header)
	equal(c, "header revision", s.Header.Revision, rev)
	if !regexp.MustCompile(`^3\.7\.\d+$`).MatchString(s.Version) {
		c.Errorf("version %q, want one of 3.7", s.Version)
	}
	if s.Leader == 0 || s.DbSize <= 0 || s.DbSizeInUse <= 0 {
		c.Errorf("something is zero: %s", text(s))
	}
	if s.DbSizeInUse > s.DbSize {
		c.Errorf("dbSizeInUse %d above dbSize %d", s.DbSizeInUse, s.DbSize)
	}
	if s.RaftAppliedIndex > s.RaftIndex {
		c.Errorf("applied index %d above committed %d", s.RaftAppliedIndex, s.RaftIndex)
	}
	equal(c, "term", s.RaftTerm, s.Header.RaftTerm)
	equal(c, "learner", s.IsLearner, false)
	equal(c, "errors", len(s.Errors), 0)
	equal(c, "downgrade enabled", s.DowngradeInfo.GetEnabled(), false)
}

// maintStatusStore: what only a server with a log and a store file has.
func maintStatusStore(c *C) {
	s := c.status()
	equal(c, "storage version", s.StorageVersion, "3.7.0")
	if s.RaftIndex == 0 || s.RaftAppliedIndex == 0 || s.DbSizeQuota <= 0 {
		c.Errorf("something is zero: %s", text(s))
	}
	c.put("a", "1")
	if after := c.status(); after.RaftAppliedIndex <= s.RaftAppliedIndex || after.RaftIndex <= s.RaftIndex {
		c.Errorf("a write did not raise the indices: %s", text(after))
	}
}

// snapshotAbsent is what cases of other RPCs that need a store file assert where there is none.
func snapshotAbsent(c *C) { c.wantUnimplemented("Maintenance.Snapshot") }

func maintStatusRevision(c *C) {
	before := c.status()
	c.fill(1000, 10)
	after := c.status()
	equal(c, "header revision", after.Header.Revision, before.Header.Revision+10)
}

func (c *C) hash(revision int64) *pb.HashKVResponse {
	c.Helper()
	r, err := c.Maintenance.HashKV(c.Ctx, &pb.HashKVRequest{Revision: revision})
	c.must(err, "hash at %d", revision)
	c.header("hash", r.Header)
	return r
}

func maintHash(c *C) {
	r1 := c.put("a", "1").Header.Revision
	first := c.hash(0)
	equal(c, "hash revision", first.HashRevision, r1)
	r2 := c.put("a", "2").Header.Revision
	second := c.hash(0)
	if first.Hash == second.Hash {
		c.Errorf("a put did not change the hash %d", first.Hash)
	}
	again := c.hash(r1)
	equal(c, "hash at the older revision", again.Hash, first.Hash)
	equal(c, "hash revision", again.HashRevision, r1)
	equal(c, "header revision", again.Header.Revision, r2)
	equal(c, "hash at the newer revision", c.hash(r2).Hash, second.Hash)
	equal(c, "compact revision", again.CompactRevision, second.CompactRevision)
}

func maintHashCompacted(c *C) {
	c.put("a", "1")
	r1 := c.put("a", "2").Header.Revision
	c.put("a", "3")
	c.compact(r1, true)
	r := c.hash(0)
	equal(c, "compact revision", r.CompactRevision, r1)
	equal(c, "hash revision", r.HashRevision, r1+1)
	equal(c, "hash again", c.hash(0).Hash, r.Hash)
}

func maintHashRevisions(c *C) {
	r1 := c.put("a", "1").Header.Revision
	r2 := c.put("a", "2").Header.Revision
	_, err := c.Maintenance.HashKV(c.Ctx, &pb.HashKVRequest{Revision: r2 + 1000})
	c.wantError(err, codes.OutOfRange, msgFuture)
	c.compact(r2, true)
	_, err = c.Maintenance.HashKV(c.Ctx, &pb.HashKVRequest{Revision: r1})
	c.wantError(err, codes.OutOfRange, msgCompacted)
	// Below zero nothing is hashed but the bucket's name, and the revision is echoed.
	for _, revision := range []int64{-1, -9, math.MinInt64} {
		r := c.hash(revision)
		equal(c, "hash of nothing", r.Hash, 1084519789)
		equal(c, "hash revision", r.HashRevision, revision)
		equal(c, "header revision", r.Header.Revision, c.revision())
	}
}

// maintFileHash: the hash of the file changes with the file, and with nothing else.
func maintFileHash(c *C) {
	hash := func() uint32 {
		r, err := c.Maintenance.Hash(c.Ctx, &pb.HashRequest{})
		c.must(err, "hash")
		c.header("hash", r.Header)
		return r.Hash
	}
	c.put("a", "1")
	first := hash()
	c.get("a")
	c.status()
	equal(c, "hash of what was not changed", hash(), first)
	c.del("absent")
	equal(c, "hash after a delete of nothing", hash(), first)
	c.put("a", "1")
	if hash() == first {
		c.Errorf("a put did not change the hash %d", first)
	}
}

func maintMoveLeader(c *C) {
	s := c.status()
	if s.Leader != s.Header.MemberId {
		c.Fatalf("this case is for the leader, and %x leads", s.Leader)
	}
	r, err := c.Maintenance.MoveLeader(c.Ctx, &pb.MoveLeaderRequest{TargetID: s.Leader})
	c.must(err, "move leader")
	if r.Header != nil {
		c.Errorf("the answer has a header: %s", text(r))
	}
	after := c.status()
	equal(c, "leader", after.Leader, s.Leader)
	equal(c, "term", after.RaftTerm, s.RaftTerm)
}

func maintMoveLeaderBad(c *C) {
	for _, id := range []uint64{0, c.status().Leader ^ 0x5555, 1<<64 - 1} {
		_, err := c.Maintenance.MoveLeader(c.Ctx, &pb.MoveLeaderRequest{TargetID: id})
		c.wantError(err, codes.FailedPrecondition, msgBadTransferee)
	}
	c.put("alive", "1")
}

func maintSnapshot(c *C) {
	c.fill(200, 1000)
	marker := "marker-" + c.prefix
	c.put("m", marker)
	stream, err := c.Maintenance.Snapshot(c.Ctx, &pb.SnapshotRequest{})
	c.must(err, "snapshot")
	var file []byte
	var messages []*pb.SnapshotResponse
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		c.must(err, "receive")
		equal(c, "version", m.Version, "3.7.0")
		file = append(file, m.Blob...)
		messages = append(messages, m)
	}
	if len(file) < 8192+sha256.Size {
		c.Fatalf("the snapshot has %d bytes", len(file))
	}
	data, trailer := file[:len(file)-sha256.Size], file[len(file)-sha256.Size:]
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], trailer) {
		c.Errorf("the last 32 bytes %x are not the sha256 %x of what is before", trailer, sum)
	}
	equal(c, "size modulo 512", len(data)%512, 0)
	// bbolt's magic number stands after the 16-byte header of the first page.
	equal(c, "magic number", binary.LittleEndian.Uint32(data[16:]), 0xED0CDAED)
	if !bytes.Contains(data, []byte(marker)) {
		c.Errorf("the snapshot does not hold what was put before it")
	}
	sent := 0
	for i, m := range messages {
		sent += len(m.Blob)
		if want := max(0, len(data)-sent); m.RemainingBytes != uint64(want) {
			c.Errorf("message %d of %d: %d bytes remaining, want %d", i, len(messages), m.RemainingBytes, want)
		}
	}
}

func maintDefragment(c *C) {
	c.fill(500, 4000)
	want := c.rng(c.all())
	_, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: c.key("0002"), RangeEnd: c.key("0005")})
	c.must(err, "delete")
	c.compact(c.revision(), true)
	before := c.status()
	_, err = c.Maintenance.Defragment(c.Ctx, &pb.DefragmentRequest{})
	c.must(err, "defragment")
	after := c.status()
	if after.DbSize >= before.DbSize {
		c.Errorf("dbSize %d before, %d after", before.DbSize, after.DbSize)
	}
	equal(c, "revision", after.Header.Revision, before.Header.Revision)
	got := c.rng(c.all())
	equal(c, "keys", len(got.Kvs), 200)
	for i, kv := range got.Kvs {
		equalProto(c, "key", kv, want.Kvs[i])
	}
	c.put("after", "1")
}

func maintHealth(c *C) {
	r, err := c.Health.Check(c.Ctx, &healthpb.HealthCheckRequest{})
	c.must(err, "check of the server")
	equal(c, "status", r.Status, healthpb.HealthCheckResponse_SERVING)
	_, err = c.Health.Check(c.Ctx, &healthpb.HealthCheckRequest{Service: "no.such.Service"})
	c.wantError(err, codes.NotFound, "unknown service")
}

func maintHealthList(c *C) {
	r, err := c.Health.List(c.Ctx, &healthpb.HealthListRequest{})
	c.must(err, "list")
	equal(c, "services", len(r.Statuses), 1)
	equal(c, "status", r.Statuses[""].GetStatus(), healthpb.HealthCheckResponse_SERVING)
}

func maintHealthWatch(c *C) {
	stream, err := c.Health.Watch(c.Ctx, &healthpb.HealthCheckRequest{})
	c.must(err, "watch")
	r, err := stream.Recv()
	c.must(err, "receive")
	equal(c, "status", r.Status, healthpb.HealthCheckResponse_SERVING)
	stream, err = c.Health.Watch(c.Ctx, &healthpb.HealthCheckRequest{Service: "no.such.Service"})
	c.must(err, "watch")
	r, err = stream.Recv()
	c.must(err, "receive")
	equal(c, "status", r.Status, healthpb.HealthCheckResponse_SERVICE_UNKNOWN)
}
