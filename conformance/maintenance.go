package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// maintenanceCases are the cases of Status, Alarm, HashKV, Snapshot, Defragment and the health service.
func maintenanceCases() []Case {
	return []Case{
		{Name: "maintenance/status", RPC: "Maintenance.Status", Run: maintStatus},
		{Name: "maintenance/status-store", RPC: "Maintenance.Status", Needs: Snapshotter, Absent: snapshotAbsent, Run: maintStatusStore},
		{Name: "maintenance/status-revision", RPC: "Maintenance.Status", Run: maintStatusRevision},
		{Name: "maintenance/alarm-list", RPC: "Maintenance.Alarm", Run: maintAlarmList},
		{Name: "maintenance/alarm-nospace", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent,
			Covers: []string{"AlarmRequest.action"}, Run: maintAlarm},
		{Name: "maintenance/alarm-kind", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent,
			Covers: []string{"AlarmRequest.alarm"}, Run: maintAlarmKind},
		{Name: "maintenance/alarm-member", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent,
			Covers: []string{"AlarmRequest.memberID"}, Run: maintAlarmMember},
		{Name: "maintenance/hashkv", RPC: "Maintenance.HashKV", Needs: Hasher, Covers: []string{"HashKVRequest.revision"}, Run: maintHash},
		{Name: "maintenance/hashkv-after-compaction", RPC: "Maintenance.HashKV", Needs: Hasher, Run: maintHashCompacted},
		{Name: "maintenance/snapshot", RPC: "Maintenance.Snapshot", Needs: Snapshotter, Run: maintSnapshot},
		{Name: "maintenance/defragment", RPC: "Maintenance.Defragment", Needs: Defragmenter, Run: maintDefragment},
		{Name: "maintenance/health-check", RPC: "Health.Check", Covers: []string{"HealthCheckRequest.service"}, Run: maintHealth},
		{Name: "maintenance/health-watch", RPC: "Health.Watch", Covers: []string{"Watch.service"}, Run: maintHealthWatch},
		{Name: "badinput/row-32-hashkv-revision", RPC: "Maintenance.HashKV", Needs: Hasher, Run: maintHashRevisions},
		{Name: "badinput/row-54-quota-exceeded", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent, Condition: SmallQuota, Run: maintQuota},
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

// alarm sends an alarm request that must succeed and returns the alarms as "member:ALARM ...".
func (c *C) alarm(action pb.AlarmRequest_AlarmAction, member uint64, alarm pb.AlarmType) string {
	c.Helper()
	r, err := c.Maintenance.Alarm(c.Ctx, &pb.AlarmRequest{Action: action, MemberID: member, Alarm: alarm})
	c.must(err, "alarm %s", action)
	c.header("alarm", r.Header)
	var all []string
	for _, a := range r.Alarms {
		all = append(all, fmt.Sprintf("%x:%s", a.MemberID, a.Alarm))
	}
	return strings.Join(all, " ")
}

// alarmAbsent: without alarms none is ever set, and setting one is unimplemented.
func alarmAbsent(c *C) {
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), "")
	_, err := c.Maintenance.Alarm(c.Ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
	if status.Code(err) != codes.Unimplemented {
		c.Errorf("activate without the capability: got %v, want Unimplemented", err)
	}
}

func maintAlarmList(c *C) {
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), "")
}

func maintAlarm(c *C) {
	id := c.put("a", "1").Header.MemberId
	defer c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE)
	want := fmt.Sprintf("%x:NOSPACE", id)
	equal(c, "answer of activate", c.alarm(pb.AlarmRequest_ACTIVATE, id, pb.AlarmType_NOSPACE), want)
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), want)
	// protobuf's text form varies its white space from build to build
	equal(c, "errors of status", strings.Join(strings.Fields(strings.Join(c.status().Errors, "; ")), " "),
		fmt.Sprintf("memberID:%d alarm:NOSPACE", id))
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("b")})
	c.wantError(err, codes.ResourceExhausted, msgNoSpace)
	_, err = c.KV.Txn(c.Ctx, &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(c.key("b"), "")}})}})
	c.wantError(err, codes.ResourceExhausted, msgNoSpace)
	if c.Endpoint.Capabilities[Leases] {
		_, err = c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: 60})
		c.wantError(err, codes.ResourceExhausted, msgNoSpace)
	}
	equal(c, "count", c.get("a").Count, 1)
	equal(c, "succeeded", c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opGet(c.key("a"))}}).Succeeded, true)
	equal(c, "deleted", c.del("a").Deleted, 1)
	c.compact(c.revision(), false)
	equal(c, "answer of deactivate", c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE), want)
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), "")
	equal(c, "errors of status", len(c.status().Errors), 0)
	c.put("b", "1")
}

func maintAlarmKind(c *C) {
	id := c.put("a", "1").Header.MemberId
	defer c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE)
	c.alarm(pb.AlarmRequest_ACTIVATE, id, pb.AlarmType_NOSPACE)
	equal(c, "alarms of kind CORRUPT", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_CORRUPT), "")
	equal(c, "alarms of kind NOSPACE", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NOSPACE), fmt.Sprintf("%x:NOSPACE", id))
	equal(c, "deactivate another kind", c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_CORRUPT), "")
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), fmt.Sprintf("%x:NOSPACE", id))
}

func maintAlarmMember(c *C) {
	id := c.put("a", "1").Header.MemberId
	other := id ^ 0x5555
	defer c.alarm(pb.AlarmRequest_DEACTIVATE, other, pb.AlarmType_NOSPACE)
	want := fmt.Sprintf("%x:NOSPACE", other)
	equal(c, "answer of activate", c.alarm(pb.AlarmRequest_ACTIVATE, other, pb.AlarmType_NOSPACE), want)
	equal(c, "deactivate another member's", c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE), "")
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), want)
	equal(c, "deactivate that member's", c.alarm(pb.AlarmRequest_DEACTIVATE, other, pb.AlarmType_NOSPACE), want)
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), "")
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

// maintQuota fills a server up to its quota and makes room again.
func maintQuota(c *C) {
	c.put("before", "1")
	value := []byte(strings.Repeat("v", 1<<20))
	refused := false
	for i := range 4 * QuotaBytes >> 20 {
		_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key(fmt.Sprintf("big%d", i)), Value: value})
		if err != nil {
			c.wantError(err, codes.ResourceExhausted, msgNoSpace)
			refused = true
			break
		}
	}
	if !refused {
		c.Fatalf("%d bytes were accepted by a quota of %d", 4*QuotaBytes, QuotaBytes)
	}
	id := c.status().Header.MemberId
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), fmt.Sprintf("%x:NOSPACE", id))
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("small")})
	c.wantError(err, codes.ResourceExhausted, msgNoSpace)
	equal(c, "quota in status", c.status().DbSizeQuota, QuotaBytes)
	equal(c, "count", c.get("before").Count, 1)
	_, err = c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: c.key("big"), RangeEnd: c.end("big")})
	c.must(err, "delete under the alarm")
	c.compact(c.revision(), true)
	if c.Endpoint.Capabilities[Defragmenter] {
		_, err = c.Maintenance.Defragment(c.Ctx, &pb.DefragmentRequest{})
		c.must(err, "defragment")
	}
	c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE)
	c.put("small", "1")
}
