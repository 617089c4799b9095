package oracle

// An omission is what no sequence asks for, and why.
type omission struct{ what, why string }

// notAsked are all omissions; every run prints them. What ends etcd is asked of shim alone, by
// TestShimAnswersWhatEndsEtcd.
func notAsked() []omission {
	return []omission{
		{
			"KV.Txn that deletes all from a key on and then puts one of them",
			"etcd does not notice that it is one key twice; with ignore_value or ignore_lease it ends with a panic, and a compaction there takes the key from it",
		},
		{"Maintenance.Alarm with an unknown action", "etcd 3.7.3 ends with a panic"},
		{
			"a range whose end is below its key, by a user with permissions",
			"nothing is in it, but whether etcd permits it depends on the shape of its tree of permissions; shim takes it for its key alone",
		},
		{"Cluster.MemberUpdate of another member with no URL, or one that is none", "etcd 3.7.3 ends with a panic"},
		{
			"Cluster.MemberUpdate to an address that another member has",
			"etcd refuses it, as shim does, and takes it for done all the same when it reads its log again after a kill",
		},
		{"KV.RangeStream with a sort target and no order", "etcd sorts each of its chunks by itself, and goes on from the last key of that order"},
		{"Election.Proclaim and Resign with lease 0", "etcd grants a lease, whose id it tells nobody"},
		{"Cluster.MemberAdd of a voter, and MemberPromote of a learner that came", cluster},
		{"Maintenance.Downgrade that stays enabled", "some seconds later etcd acts on it"},
		{"Maintenance.HashKV at the revision of a compaction that was begun while another may have been under way", "the answer depends on whether that was done"},
		{"the order of messages of different watches of one stream", "etcd's is that of a Go map; those of one watch are compared in order"},
		{"progress on a stream with a watch of the future", "etcd tells none"},
	}
}
