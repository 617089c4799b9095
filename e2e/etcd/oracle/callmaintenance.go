package oracle

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func maintenanceCalls() []call {
	return []call{
		{"Maintenance.Status", 6, 30, func(g *generator) { g.add("Maintenance.Status", &pb.StatusRequest{}) }, nil},
		{"Maintenance.Alarm", 6, 50, (*generator).alarm, (*generator).badAlarm},
		{"Maintenance.HashKV", 14, 35, (*generator).hashKV, (*generator).badHashKV},
		{"Maintenance.Hash", 3, 60, (*generator).hash, nil},
		{"Maintenance.Snapshot", 2, 60, func(g *generator) { g.add("Maintenance.Snapshot", &pb.SnapshotRequest{}) }, nil},
		{"Maintenance.Defragment", 2, 65, func(g *generator) { g.add("Maintenance.Defragment", &pb.DefragmentRequest{}) }, nil},
		{"Maintenance.MoveLeader", 3, 70, func(g *generator) { g.add("Maintenance.MoveLeader", &pb.MoveLeaderRequest{TargetID: selfSymbol()}) }, (*generator).badMoveLeader},
		{"Maintenance.Downgrade", 3, 60, (*generator).downgrade, (*generator).badDowngrade},
	}
}

// alarm raises an alarm, lets writes meet it, and disarms it; or looks.
func (g *generator) alarm() {
	if g.alarmed || g.chance(70) {
		g.add("Maintenance.Alarm", &pb.AlarmRequest{MemberID: pick(g, 0, selfSymbol(), 99), Alarm: pb.AlarmType(g.IntN(3))})
		return
	}
	g.alarmed = true
	kind := pick(g, pb.AlarmType_NOSPACE, pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT)
	member := pick(g, selfSymbol(), selfSymbol(), 0, 99)
	user := g.user
	if g.profile.auth {
		user = "root"
	}
	g.add("Maintenance.Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: kind}).As = user
	row := 54
	if kind == pb.AlarmType_CORRUPT {
		row = 66
	}
	for range 1 + g.IntN(3) {
		g.add("KV.Put", &pb.PutRequest{Key: g.key(), Value: []byte("x")}, row)
		g.add(pick(g, "KV.Range", "KV.RangeStream"), &pb.RangeRequest{Key: g.key()})
		g.add("KV.DeleteRange", &pb.DeleteRangeRequest{Key: g.key()})
	}
	g.add("Maintenance.Alarm", &pb.AlarmRequest{})
	g.add("Maintenance.Status", &pb.StatusRequest{})
	g.in(1+g.IntN(6), func() {
		g.add("Maintenance.Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: member, Alarm: kind}).As = user
		g.alarmed = false
	})
}

// badAlarm does not ask for an unknown action: see notAsked. An alarm of an unknown kind
// etcd keeps, and refuses nothing for it.
func (g *generator) badAlarm() {
	switch g.IntN(3) {
	case 0:
		g.add("Maintenance.Alarm", &pb.AlarmRequest{Alarm: pb.AlarmType(pick(g, 3, 9, -1))}, 34)
	case 1:
		kind := pb.AlarmType(pick(g, 3, 9, -1))
		for _, action := range []pb.AlarmRequest_AlarmAction{pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_GET, pb.AlarmRequest_DEACTIVATE} {
			g.add("Maintenance.Alarm", &pb.AlarmRequest{Action: action, MemberID: 99, Alarm: kind}, 34)
			g.add("Maintenance.Status", &pb.StatusRequest{})
		}
	default: // to disarm one that is not raised
		g.add("Maintenance.Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 12345, Alarm: pb.AlarmType(g.IntN(3))})
	}
}

// hash asks for the hash of the file, sometimes again: it has not changed then.
func (g *generator) hash() {
	for range 1 + g.IntN(2) {
		g.add("Maintenance.Hash", &pb.HashRequest{})
	}
}

// hashKV asks for the present and for revisions above the latest compaction.
func (g *generator) hashKV() {
	if !g.hashes {
		g.badHashKV()
		return
	}
	if !g.alarmed && !g.profile.auth && g.chance(25) {
		g.hashOfCompaction()
		return
	}
	g.add("Maintenance.HashKV", &pb.HashKVRequest{Revision: pick(g, 0, 0, 0, compacted(1), compacted(2), -1)})
}

// hashOfCompaction asks for the hash that a compaction took, at its very revision. One is taken
// only if the compaction before was done by then, so that one is awaited, too; each has
// something to do. Else what is told is a matter of time.
func (g *generator) hashOfCompaction() {
	for range 2 {
		g.add("KV.Put", &pb.PutRequest{Key: g.key(), Value: g.value()})
		g.add("KV.Compact", &pb.CompactionRequest{Revision: now(0), Physical: true})
	}
	g.add("Maintenance.HashKV", &pb.HashKVRequest{Revision: compacted(0)})
	g.add("KV.Put", &pb.PutRequest{Key: g.key(), Value: g.value()})
	g.add("Maintenance.HashKV", &pb.HashKVRequest{Revision: pick(g, compacted(0), compacted(1), 0)})
}

// badHashKV takes 1 for a compacted revision: see begin.
func (g *generator) badHashKV() {
	g.add("Maintenance.HashKV", &pb.HashKVRequest{Revision: pick(g, now(1+g.IntN(9)), 1)}, 32)
}

func (g *generator) badMoveLeader() {
	g.add("Maintenance.MoveLeader", &pb.MoveLeaderRequest{TargetID: pick[uint64](g, 0, 1, 99)}, 33)
}

// aDowngrade is a version that etcd 3.6 could take over with.
func (g *generator) aDowngrade() string { return pick(g, "3.6", "3.6.0", "3.6.99") }

// downgrade asks whether etcd 3.6 could take over.
func (g *generator) downgrade() {
	g.add("Maintenance.Downgrade", &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: g.aDowngrade()})
}

// downgradeAndBack begins a downgrade and takes it back at once. Each 4 s from its start on etcd
// looks whether it is to act on one (v3 server.go, monitorVersions), so this comes first of all.
func (g *generator) downgradeAndBack() {
	version := g.aDowngrade()
	g.add("Maintenance.Downgrade", &pb.DowngradeRequest{Action: pb.DowngradeRequest_ENABLE, Version: version})
	g.add("Maintenance.Downgrade", &pb.DowngradeRequest{Action: pick(g, pb.DowngradeRequest_ENABLE, pb.DowngradeRequest_VALIDATE), Version: version})
	g.add("Maintenance.Status", &pb.StatusRequest{})
	g.add("Maintenance.Downgrade", &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})
}

func (g *generator) badDowngrade() {
	switch g.IntN(4) {
	case 0: // none is in flight
		g.add("Maintenance.Downgrade", &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}, 35)
	case 1:
		g.add("Maintenance.Downgrade", &pb.DowngradeRequest{Action: pb.DowngradeRequest_DowngradeAction(pick(g, 3, 9, -1)), Version: "3.6"}, 34, 35)
	default:
		action := pick(g, pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE)
		g.add("Maintenance.Downgrade", &pb.DowngradeRequest{Action: action, Version: pick(g, "x.y", "3.1", "", "3.7", "3.8", "4.0", "2.3", "3", "3.5.0")}, 35)
	}
}
