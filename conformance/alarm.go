package conformance

import (
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// alarmCases are the cases of Alarm.
func alarmCases() []Case {
	return []Case{
		{Name: "maintenance/alarm-list", RPC: "Maintenance.Alarm", Run: maintAlarmList},
		{Name: "maintenance/alarm-nospace", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent,
			Covers: []string{"AlarmRequest.action"}, Run: maintAlarm},
		{Name: "maintenance/alarm-kind", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent,
			Covers: []string{"AlarmRequest.alarm"}, Run: maintAlarmKind},
		{Name: "maintenance/alarm-member", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent,
			Covers: []string{"AlarmRequest.memberID"}, Run: maintAlarmMember},
		{Name: "maintenance/alarm-of-no-or-unknown-kind", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent, Run: maintAlarmOdd},
		{Name: "badinput/row-66-corrupt-alarm", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent, Run: maintAlarmCorrupt},
		{Name: "maintenance/alarms-and-turns", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent, Run: maintAlarmTurns},
		{Name: "badinput/row-54-quota-exceeded", RPC: "Maintenance.Alarm", Needs: Alarms, Absent: alarmAbsent, Condition: SmallQuota, Run: maintQuota},
	}
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

// maintAlarmOdd: an alarm of no kind is never raised, and one of a kind that etcd has not is kept and refuses nothing.
func maintAlarmOdd(c *C) {
	id := c.put("a", "1").Header.MemberId
	equal(c, "answer of activate", c.alarm(pb.AlarmRequest_ACTIVATE, id, pb.AlarmType_NONE), "")
	equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), "")
	equal(c, "answer of deactivate", c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NONE), "")
	for _, kind := range []pb.AlarmType{7, -1} {
		want := fmt.Sprintf("%x:%s", id, kind)
		equal(c, "answer of activate", c.alarm(pb.AlarmRequest_ACTIVATE, id, kind), want)
		equal(c, "activate again", c.alarm(pb.AlarmRequest_ACTIVATE, id, kind), want)
		equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), want)
		equal(c, "alarms of that kind", c.alarm(pb.AlarmRequest_GET, id^1, kind), want)
		equal(c, "errors of status", len(c.status().Errors), 1)
		c.put("a", "2")
		equal(c, "answer of deactivate", c.alarm(pb.AlarmRequest_DEACTIVATE, id, kind), want)
		equal(c, "deactivate again", c.alarm(pb.AlarmRequest_DEACTIVATE, id, kind), "")
		equal(c, "alarms", c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE), "")
	}
}

// maintAlarmCorrupt: every write is refused, also beside NOSPACE and whoever the alarm is of; reads are not.
func maintAlarmCorrupt(c *C) {
	id := c.put("a", "1").Header.MemberId
	lease := int64(0)
	if c.Endpoint.Capabilities[Leases] {
		lease = c.grant(600)
		defer c.revoke(lease)
	}
	other := id ^ 0x5555
	defer c.alarm(pb.AlarmRequest_DEACTIVATE, other, pb.AlarmType_CORRUPT)
	defer c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE)
	c.alarm(pb.AlarmRequest_ACTIVATE, other, pb.AlarmType_CORRUPT)
	before := c.revision()
	for range 2 {
		for what, err := range c.writes(lease) {
			if status.Code(err) != codes.DataLoss || status.Convert(err).Message() != msgCorrupt {
				c.Errorf("%s: got %v, want %v %q", what, err, codes.DataLoss, msgCorrupt)
			}
		}
		c.alarm(pb.AlarmRequest_ACTIVATE, id, pb.AlarmType_NOSPACE)
	}
	nested := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
		Success: []*pb.RequestOp{opGet(c.key("a"))},
	}}}}}
	_, err := c.KV.Txn(c.Ctx, nested) // which is one for a write, whatever it holds
	c.wantError(err, codes.DataLoss, msgCorrupt)
	equal(c, "value", string(c.get("a").Kvs[0].Value), "1")
	equal(c, "revision", c.revision(), before)
	equal(c, "succeeded", c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opGet(c.key("a"))}}).Succeeded, true)
	if lease != 0 {
		c.ttl(lease)
	}
	all := strings.Fields(c.alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
	slices.Sort(all)
	want := []string{fmt.Sprintf("%x:CORRUPT", other), fmt.Sprintf("%x:NOSPACE", id)}
	slices.Sort(want)
	equal(c, "alarms", strings.Join(all, " "), strings.Join(want, " "))
	c.alarm(pb.AlarmRequest_DEACTIVATE, other, pb.AlarmType_CORRUPT)
	equal(c, "succeeded with nothing but the lack of room", c.txn(nested).Succeeded, true)
	_, err = c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a")})
	c.wantError(err, codes.ResourceExhausted, msgNoSpace)
	equal(c, "deleted", c.del("a").Deleted, 1)
	c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE)
	c.put("a", "2")
}

// maintAlarmTurns: without space nobody can take a turn or proclaim, and those that have one can leave
// it to who waits already; while the store is corrupt they cannot either.
func maintAlarmTurns(c *C) {
	if !c.Endpoint.Capabilities[Leases] {
		c.wantUnimplemented("Lock.Lock")
		return
	}
	id := c.put("a", "1").Header.MemberId
	lease := c.grant(longTTL)
	held := c.lock("l", lease)
	waits := c.waitLock(c.Ctx, "l")
	leader := c.campaign("e", lease, "1").Leader
	takes := func(message string) {
		c.Helper()
		for _, lease := range []int64{lease, waits.lease, 0} { // that of the holder, too
			_, err := c.Lock.Lock(c.Ctx, &v3lockpb.LockRequest{Name: c.key("l"), Lease: lease})
			c.refused("lock", err, message)
			_, err = c.Election.Campaign(c.Ctx, &v3electionpb.CampaignRequest{Name: c.key("other"), Lease: lease})
			c.refused("campaign", err, message)
		}
		_, err := c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte("2")})
		c.refused("proclaim", err, message)
	}
	defer c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_NOSPACE)
	c.alarm(pb.AlarmRequest_ACTIVATE, id, pb.AlarmType_NOSPACE)
	takes(msgNoSpace)
	equal(c, "value of the leader", string(c.leads("e").Kv.Value), "1")
	held = c.acquired(waits, c.unlock(held.Key).Header.Revision)

	defer c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_CORRUPT)
	c.alarm(pb.AlarmRequest_ACTIVATE, id, pb.AlarmType_CORRUPT)
	takes(msgCorrupt)
	_, err := c.Lock.Unlock(c.Ctx, &v3lockpb.UnlockRequest{Key: held.Key})
	c.refused("unlock", err, msgCorrupt)
	_, err = c.Election.Resign(c.Ctx, &v3electionpb.ResignRequest{Leader: leader})
	c.refused("resign", err, msgCorrupt)
	c.alarm(pb.AlarmRequest_DEACTIVATE, id, pb.AlarmType_CORRUPT)
	c.unlock(held.Key)
	c.resign(leader)
}

// writes makes a request of each kind that writes, and tells what became of it.
func (c *C) writes(lease int64) map[string]error {
	out := map[string]error{}
	_, out["put"] = c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: []byte("2")})
	_, out["delete"] = c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: c.key("a")})
	_, out["txn"] = c.KV.Txn(c.Ctx, &pb.TxnRequest{Success: []*pb.RequestOp{opDelete(c.key("a"), nil)}})
	_, out["compact"] = c.KV.Compact(c.Ctx, &pb.CompactionRequest{Revision: c.revision()})
	if lease != 0 {
		_, out["grant"] = c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: 60})
		_, out["revoke"] = c.Lease.LeaseRevoke(c.Ctx, &pb.LeaseRevokeRequest{ID: lease})
	}
	return out
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
