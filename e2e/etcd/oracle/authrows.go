package oracle

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// keyRows are the rows of KV, with leases and watches behind them: what is about keys.
func keyRows() []matrixRow {
	var rows []matrixRow
	for _, part := range [][]matrixRow{rangeRows(), putRows(), deleteRows(), txnRows(), compareRows(), compactRows(), leaseRows(), watchRows()} {
		rows = append(rows, part...)
	}
	return rows
}

// matrixSpans are the ranges that are asked for: of single keys, of prefixes, from a key on.
func matrixSpans() []span {
	return []span{
		{"m/k", ""}, {"m/a", ""}, {"z/s", ""}, {"m/absent", ""},
		{"m/k", "m/k\x00"}, {"m/", "m0"}, {"m/k", "m/m"}, {"m/k", "z/t"}, {"m/k", "\x00"}, {"\x00", "\x00"},
	}
}

func (s span) String() string { return fmt.Sprintf("%q %q", s.key, s.end) }

func rangeRows() []matrixRow {
	var rows []matrixRow
	row := func(rpc, what string, r *pb.RangeRequest) {
		rows = append(rows, matrixRow{rpc: rpc, what: what, ask: func(m *matrix) *Step { return m.call(rpc, r) }})
	}
	for _, s := range matrixSpans() {
		key, end := []byte(s.key), []byte(s.end)
		for _, rpc := range []string{"KV.Range", "KV.RangeStream"} {
			row(rpc, s.String(), &pb.RangeRequest{Key: key, RangeEnd: end})
			row(rpc, s.String()+", serializable", &pb.RangeRequest{Key: key, RangeEnd: end, Serializable: true})
			row(rpc, s.String()+", count", &pb.RangeRequest{Key: key, RangeEnd: end, CountOnly: true})
			row(rpc, s.String()+", keys", &pb.RangeRequest{Key: key, RangeEnd: end, KeysOnly: true, Limit: 1})
			row(rpc, s.String()+", compacted", &pb.RangeRequest{Key: key, RangeEnd: end, Revision: 1})
			row(rpc, s.String()+", future", &pb.RangeRequest{Key: key, RangeEnd: end, Revision: now(1000)})
		}
	}
	row("KV.Range", "no key", &pb.RangeRequest{})
	row("KV.RangeStream", "sorted", &pb.RangeRequest{Key: []byte("m/k"), SortOrder: pb.RangeRequest_DESCEND})
	return rows
}

// matrixPuts are the forms of a put.
func matrixPuts() map[string]*pb.PutRequest {
	out := map[string]*pb.PutRequest{}
	for _, name := range []string{"m/k", "m/z", "z/s"} {
		key := []byte(name)
		for what, r := range map[string]*pb.PutRequest{
			"":                      {Value: []byte("new")},
			", prev_kv":             {Value: []byte("new"), PrevKv: true},
			", lease without keys":  {Value: []byte("new"), Lease: leaseFree},
			", lease of m/k":        {Value: []byte("new"), Lease: leaseOwn},
			", lease of z/s":        {Value: []byte("new"), Lease: leaseForeign},
			", lease of m/a, z/t":   {Value: []byte("new"), Lease: leaseMixed, PrevKv: true},
			", unknown lease":       {Value: []byte("new"), Lease: leaseUnknown},
			", ignore_value":        {IgnoreValue: true},
			", ignore_lease, prev":  {Value: []byte("new"), IgnoreLease: true, PrevKv: true},
			", value and ignore it": {Value: []byte("new"), IgnoreValue: true},
		} {
			r.Key = key
			out[fmt.Sprintf("%q%s", name, what)] = r
		}
	}
	return out
}

func putRows() []matrixRow {
	var rows []matrixRow
	puts := matrixPuts()
	for _, what := range ordered(puts) {
		r := puts[what]
		rows = append(rows, matrixRow{rpc: "KV.Put", what: what, ask: func(m *matrix) *Step { return m.call("KV.Put", r) }, after: (*matrix).restoreKeys})
	}
	return rows
}

// matrixDeletes are the forms of a delete.
func matrixDeletes() map[string]*pb.DeleteRangeRequest {
	out := map[string]*pb.DeleteRangeRequest{}
	for _, s := range matrixSpans() {
		out[s.String()] = &pb.DeleteRangeRequest{Key: []byte(s.key), RangeEnd: []byte(s.end)}
		out[s.String()+", prev_kv"] = &pb.DeleteRangeRequest{Key: []byte(s.key), RangeEnd: []byte(s.end), PrevKv: true}
	}
	return out
}

func deleteRows() []matrixRow {
	var rows []matrixRow
	deletes := matrixDeletes()
	for _, what := range ordered(deletes) {
		r := deletes[what]
		rows = append(rows, matrixRow{rpc: "KV.DeleteRange", what: what, ask: func(m *matrix) *Step { return m.call("KV.DeleteRange", r) }, after: (*matrix).restoreKeys})
	}
	return rows
}

// matrixDepth is how deep operations are nested.
const matrixDepth = 3

// nestedIn puts a transaction into others, depth of them, in turn in the list that runs and in the
// other, which does not.
func nestedIn(t *pb.TxnRequest, depth int) *pb.TxnRequest {
	for i := range depth {
		op := []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}}
		if t = (&pb.TxnRequest{Success: op}); i == 1 {
			t = &pb.TxnRequest{Failure: op}
		}
	}
	return t
}

// txnRows are each operation, in the list that runs and in the other, alone and nested, and
// behind one that is permitted to more.
func txnRows() []matrixRow {
	type form struct {
		what   string
		op     *pb.RequestOp
		writes bool
	}
	var forms []form
	for _, s := range matrixSpans() {
		r := &pb.RangeRequest{Key: []byte(s.key), RangeEnd: []byte(s.end)}
		forms = append(forms, form{"range " + s.String(), &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}, false})
	}
	puts, deletes := matrixPuts(), matrixDeletes()
	for _, what := range ordered(puts) {
		forms = append(forms, form{"put " + what, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: puts[what]}}, true})
	}
	for _, what := range ordered(deletes) {
		forms = append(forms, form{"delete " + what, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: deletes[what]}}, true})
	}
	var rows []matrixRow
	row := func(what string, t *pb.TxnRequest, writes bool) {
		r := matrixRow{rpc: "KV.Txn", what: what, ask: func(m *matrix) *Step { return m.call("KV.Txn", t) }}
		if writes {
			r.after = (*matrix).restoreKeys
		}
		rows = append(rows, r)
	}
	row("of nothing", &pb.TxnRequest{}, false)
	mine := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("m/k")}}}
	for _, f := range forms {
		for depth := range matrixDepth {
			row(fmt.Sprintf("%s, nested %d times", f.what, depth), nestedIn(&pb.TxnRequest{Success: []*pb.RequestOp{f.op}}, depth), f.writes)
			row(fmt.Sprintf("%s, not run, nested %d times", f.what, depth), nestedIn(&pb.TxnRequest{Failure: []*pb.RequestOp{f.op}}, depth), f.writes)
		}
		row(f.what+", behind a range", &pb.TxnRequest{Success: []*pb.RequestOp{mine, f.op}}, f.writes)
	}
	return rows
}

// compareRows are comparisons, before nothing and before a put, alone and nested.
func compareRows() []matrixRow {
	var rows []matrixRow
	for _, s := range matrixSpans() {
		for depth := range matrixDepth {
			compare := &pb.Compare{
				Key: []byte(s.key), RangeEnd: []byte(s.end), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL,
				TargetUnion: &pb.Compare_Value{Value: []byte("secret")},
			}
			reads := nestedIn(&pb.TxnRequest{Compare: []*pb.Compare{compare}}, depth)
			writes := nestedIn(&pb.TxnRequest{Compare: []*pb.Compare{compare}, Success: []*pb.RequestOp{put("m/k", "equal")}, Failure: []*pb.RequestOp{put("m/k", "other")}}, depth)
			what := fmt.Sprintf("compare %s, nested %d times", s, depth)
			rows = append(rows,
				matrixRow{rpc: "KV.Txn", what: what, ask: func(m *matrix) *Step { return m.call("KV.Txn", reads) }},
				matrixRow{rpc: "KV.Txn", what: what + ", and put", ask: func(m *matrix) *Step { return m.call("KV.Txn", writes) }, after: (*matrix).restoreKeys},
			)
		}
	}
	return rows
}

func compactRows() []matrixRow {
	var rows []matrixRow
	for what, revision := range map[string]int64{"present": now(0), "past": 1, "future": now(1000), "none": 0} {
		r := &pb.CompactionRequest{Revision: revision, Physical: true}
		rows = append(rows, matrixRow{rpc: "KV.Compact", what: what, ask: func(m *matrix) *Step { return m.call("KV.Compact", r) }, after: (*matrix).restoreKeys})
	}
	return sortedRows(rows)
}

func leaseRows() []matrixRow {
	rows := []matrixRow{
		{rpc: "Lease.LeaseGrant", what: "taken", ask: func(m *matrix) *Step {
			return m.call("Lease.LeaseGrant", &pb.LeaseGrantRequest{ID: leaseOwn, TTL: 100})
		}},
		{rpc: "Lease.LeaseGrant", what: "too long", ask: func(m *matrix) *Step {
			return m.call("Lease.LeaseGrant", &pb.LeaseGrantRequest{ID: leaseUnknown, TTL: 9_000_000_001})
		}},
		{rpc: "Lease.LeaseGrant", what: "new", ask: func(m *matrix) *Step {
			return m.call("Lease.LeaseGrant", &pb.LeaseGrantRequest{ID: leaseUnknown, TTL: 100_000})
		}, after: func(m *matrix) { m.keep("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: leaseUnknown}) }},
		{rpc: "Lease.LeaseKeepAlive", what: "one after the other", ask: func(m *matrix) *Step {
			s := m.call("Lease.LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: leaseFree})
			s.Requests = append(s.Requests, &pb.LeaseKeepAliveRequest{ID: leaseOwn}, &pb.LeaseKeepAliveRequest{ID: leaseForeign})
			return s
		}},
		{rpc: "Lease.LeaseLeases", what: "all", ask: func(m *matrix) *Step { return m.call("Lease.LeaseLeases", &pb.LeaseLeasesRequest{}) }},
		{rpc: "Lease.LeaseLeases", what: "without keys of others", before: func(m *matrix) {
			for _, id := range []int64{leaseForeign, leaseMixed} {
				m.keep("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: id})
			}
		}, ask: func(m *matrix) *Step { return m.call("Lease.LeaseLeases", &pb.LeaseLeasesRequest{}) }, after: (*matrix).restoreLeases},
	}
	for id := int64(leaseFree); id <= leaseUnknown; id++ {
		what := fmt.Sprintf("lease %d", id)
		rows = append(rows,
			matrixRow{rpc: "Lease.LeaseRevoke", what: what, ask: func(m *matrix) *Step {
				return m.call("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: id})
			}, after: (*matrix).restoreLeases},
			matrixRow{rpc: "Lease.LeaseKeepAlive", what: what, ask: func(m *matrix) *Step {
				return m.call("Lease.LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: id})
			}},
		)
		for _, keys := range []bool{false, true} {
			rows = append(rows, matrixRow{rpc: "Lease.LeaseTimeToLive", what: fmt.Sprintf("%s, keys %t", what, keys), ask: func(m *matrix) *Step {
				return m.call("Lease.LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
			}})
		}
	}
	return rows
}

// watchRows are watches, each on a stream of its own; after each, keys change, within and without it.
func watchRows() []matrixRow {
	var rows []matrixRow
	after := func(m *matrix) {
		m.keep("KV.DeleteRange", &pb.DeleteRangeRequest{Key: []byte("m/z")})
		m.restoreKeys()
		m.steps = append(m.steps, Step{Verb: verbClose, Stream: 1})
	}
	for i, s := range append(matrixSpans(), span{"", ""}, span{"", "\x00"}) {
		forms := map[string]*pb.WatchCreateRequest{"": {}, ", prev_kv": {PrevKv: true}}
		if i%4 == 0 { // a key, a key as a range, from a key on
			forms[", what was"] = &pb.WatchCreateRequest{StartRevision: now(0)} // etcd may take 100 ms for it
			forms[", of the first"] = &pb.WatchCreateRequest{StartRevision: 1}
			forms[", before the first"] = &pb.WatchCreateRequest{StartRevision: -1}
			forms[", an id, no puts"] = &pb.WatchCreateRequest{WatchId: 7, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}
			forms[", fragments"] = &pb.WatchCreateRequest{Fragment: true, ProgressNotify: true}
		}
		for what, r := range forms {
			r.Key, r.RangeEnd = []byte(s.key), []byte(s.end)
			rows = append(rows, matrixRow{rpc: "Watch.Watch", what: s.String() + what, ask: func(m *matrix) *Step { return m.watch(1, m.caller.name, r) }, after: after})
		}
	}
	return sortedRows(rows)
}
