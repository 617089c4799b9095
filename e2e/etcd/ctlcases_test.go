package etcd

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// sameHash asks for the hash over all keys and revisions: it has no mask.
func sameHash() turn { return run("endpoint hashkv -w json") }

// inOrder joins turns and lists of turns to a script.
func inOrder(parts ...any) []turn {
	var out []turn
	for _, p := range parts {
		switch p := p.(type) {
		case turn:
			out = append(out, p)
		case []turn:
			out = append(out, p...)
		default:
			panic("a script is made of turns")
		}
	}
	return out
}

// putTurns ensure that put, with each flag, answers as on etcd.
func putTurns() []turn {
	return inOrder(
		run("put a 1"), run("put a 2 --prev-kv"), run("put new 1 --prev-kv"),
		run("put stdin").in("from stdin\nsecond line"), with("put", "empty", ""), with("put", "-w=json", "--", "-dash", "-value"),
		with("put", "", "x"), run("put"), run("put a b c"),
		run("put a 3 --prev-kv").formats(everyFormat...),
		grant(0x1234, 1000),
		run("put a 4 --lease=1234"), run("get a -w json"), run("put a 5 --ignore-lease"), run("get a -w json"),
		run("put a --ignore-value"), run("get a -w json"), run("put a --ignore-value --lease=1234"), run("get a -w fields"),
		run("put absent --ignore-value"), run("put absent x --ignore-lease"), run("put a x --ignore-value"),
		run("put a x --ignore-lease --lease=1234"), run("put a x --lease=77"), run("put a x --lease=zz"), run("put a x --lease=0"),
		run("get a -w json"), run("put a x --unknown"), run("get --prefix -w json").with(""), sameHash(),
	)
}

// with appends an argument.
func (s turn) with(args ...string) turn { s.args = append(slices.Clone(s.args), args...); return s }

// seed makes ten keys with several versions, at revisions 2 to 13.
func seed() []turn {
	return inOrder(
		run("put k1 c"), run("put k2 b"), run("put k3 a"), run("put k2 bb"), run("put m/1 x"), run("put m/2 y"), run("put m/2 z"),
		run("del m/1"), run("put m/1 again"), run("put z last"), run("put k1 cc"), with("put", "k4", "two words"),
	)
}

// getTurns ensure that get, with each flag, answers as on etcd.
func getTurns() []turn {
	steps := seed()
	for _, flags := range []string{
		"k1", "k1 k3", "k1 z", "k --prefix", "k2 --from-key", "absent", "z a", "k --prefix --limit=2", "k --prefix --limit=0",
		"k --prefix --limit=-1", "k --prefix --keys-only", "k --prefix --count-only", "k --prefix --print-value-only", "k1 --print-value-only",
		"m --prefix --rev=6", "m --prefix --rev=9", "m/1 --rev=9", "k --prefix --rev=1", "k --prefix --rev=99", "k --prefix --rev=-1",
		"k --prefix --consistency=s", "k --prefix --consistency=l", "k --prefix --consistency=x",
		"k --prefix --min-mod-rev=5", "k --prefix --max-mod-rev=5", "k --prefix --min-create-rev=3", "k --prefix --max-create-rev=3",
		"k --prefix --min-mod-rev=3 --max-mod-rev=5 --limit=1", "k --prefix --min-mod-rev=5 --count-only",
		"k --prefix --from-key", "k1 k3 --prefix", "k1 k3 --from-key", "k1 --keys-only --count-only", "", "a b c",
		"k --prefix --order=SIDEWAYS", "k --prefix --sort-by=COLOUR", "k --prefix --sort-by=KEY --limit=1 --order=DESCEND", "--rev=x k",
		"k --prefix --stream", "k --prefix --stream --limit=2", "k --prefix --stream --keys-only", "k --prefix --stream --count-only",
		"k --prefix --stream --rev=4", "k --prefix --stream --rev=99", "k --prefix --stream --sort-by=VALUE", "k --prefix --stream --order=DESCEND",
		"k --prefix --stream --min-mod-rev=3", "k1 --stream", "absent --stream", "k --prefix --stream --consistency=s",
		"k --prefix --stream --print-value-only", "k --prefix --stream --sort-by=KEY --order=ASCEND",
		"k --prefix --sort-by=VALUE --limit=2", "k --prefix --sort-by=VALUE --limit=2 --order=ASCEND", "k --prefix --sort-by=VALUE --limit=4", "k --prefix --stream --sort-by=VALUE --limit=4",
	} {
		steps = append(steps, run("get "+flags))
	}
	for _, by := range []string{"CREATE", "KEY", "MODIFY", "VALUE", "VERSION"} {
		for _, order := range []string{"ASCEND", "DESCEND"} {
			steps = append(steps, run("get k --prefix --sort-by="+by+" --order="+order))
		}
	}
	for _, what := range []string{
		"k --prefix", "k1", "absent", "k --prefix --count-only", "k --prefix --keys-only", "k --prefix --limit=1", "k --prefix --rev=4",
		"k --prefix --stream", "k --prefix --stream --limit=1", "k --prefix --print-value-only", "k --prefix --rev=99",
	} {
		steps = append(steps, run("get "+what).formats(everyFormat...)...)
	}
	steps = inOrder(steps, with("get", "", "--prefix"), with("get", "", "--from-key", "-w", "json"), with("get", ""), run("get k1 --hex"), run("get k1 -w yaml"),
		run("compaction 6"), run("get k --prefix --rev=5"), run("get k --prefix --rev=6"), run("get k --prefix --stream --rev=5"),
		run("get k --prefix --rev=5 -w json"), sameHash())
	return steps
}

// delTurns ensure that del, with each flag, answers as on etcd.
func delTurns() []turn {
	return inOrder(
		seed(), run("del k1"), run("del k1"), run("del k2 --prev-kv"), run("del k3 --prev-kv").formats(everyFormat...),
		seed(), run("del k2 k4"), run("del m --prefix --prev-kv"), run("del m --prefix"), run("del k4 --from-key --prev-kv -w json"),
		seed(), run("del k1 --range --prev-kv"), run("del k2 k4 --range"), run("del k2 k9 --range -w json --prev-kv"), run("del z a"), run("del"), run("del a b c"), with("del", ""),
		run("del k --prefix --from-key"), run("del k l --prefix"), run("del k l --from-key"), with("del", "", "--prefix"), with("del", "", "--from-key"),
		seed(), run("del k --prefix").formats("fields"), with("get", "", "--prefix", "-w", "json"), sameHash(),
	)
}

// txnTurns ensure that txn compares all targets and runs both branches as
// on etcd. A compare of a lease is not asked: it stops etcdctl 3.7.3 with a panic
// of its own, before it calls a server.
func txnTurns() []turn {
	steps := seed()
	for _, compares := range []string{
		`value("k1") = "cc"`, `value("k1") = "no"`, `value("k1") != "cc"`, `value("k1") < "cd"`, `value("k1") > "cd"`,
		`mod("k1") = "12"`, `mod("k1") > "12"`, `mod("absent") = "0"`, `create("k1") = "2"`, `create("k1") < "2"`, `c("k1") = "2"`,
		`version("k1") = "2"`, `ver("absent") = "0"`, `version("k1") != "2"`, `m("k1") = "12"`,
		`value("absent") = "x"`, `value("k1") = "cc"` + "\n" + `version("k2") = "9"`, `nonsense`, `size("k1") = "2"`, ``,
	} {
		steps = append(steps, run("txn").in(compares+"\n\nget k1\nput yes 1\n\nget k2\nput no 1\n\n"))
	}
	steps = inOrder(steps,
		run("txn").in("\nput a 1\nget a\ndel a\nget a\n\n\n"), run("txn").in("\nget k --prefix --limit=2\ndel k --prefix --prev-kv\nget k --prefix\n\n\n"),
		run("txn").in("\nput d 1\nput d 2\n\n\n"), run("txn").in("\nput d 1\ndel d\n\n\n"), run("txn").in("\n\n\n"), run("txn").in("\nput d x --lease=99\n\n\n"),
		run("txn").in("\nput \"quoted key\" \"quoted value\"\nget \"quoted key\"\n\n\n"), run("txn").in("\nput d 1 --prev-kv\nput d2 x --prev-kv\n\n\n"),
		run("txn").in("\nget k --rev=999\n\n\n"), run("txn").in("\nput d 7\nget k --rev=999\n\n\n"), run("get d"), run("txn").in("\nput absent --ignore-value\n\n\n"),
		run("txn").in("\nnothing\n\n\n"), run("txn").in("\nput\n\n\n"), run("txn").in("\nput d 2\n"), run("txn x"),
		run("txn").in("version(\"d\") > \"0\"\n\nput d 9\nget d\ndel z --prev-kv\n\nput d 8\n\n").formats(everyFormat...),
		run("txn -i").in("mod(\"d\") > \"0\"\n\nput d interactive\n\nput d no\n\n"), run("compaction 9"), run("txn").in("\nput d 1\nget k1 --rev=4\n\n\n"),
		with("get", "", "--prefix", "-w", "json"), sameHash(),
	)
	return steps
}

// watchTurns ensure that watch, with each flag, prints as on etcd.
func watchTurns() []turn {
	env := []string{"--", "sh", "-c", "env | grep ^ETCD_WATCH_ | sort; echo end of $ETCD_WATCH_REVISION"}
	return inOrder(
		seed(), // the last revision is 13
		run("watch k1 --rev=1").stopAt("cc"), run("watch k --prefix --rev=1").stopAt("two words"), run("watch k1 k3 --rev=2").stopAt("cc"),
		run("watch m --prefix --rev=3 --prev-kv").stopAt("again"), run("watch m/1 --rev=9").stopAt("again"), run("watch k1 --rev=5 --prev-kv").stopAt("cc"),
		run("watch k1 --rev=2 -w json").stopAt(`"mod_revision":12`), run("watch m/1 --rev=2 --prev-kv -w json").stopAt(`"mod_revision":10`),
		run("watch k1 --rev=2 -w fields").stopAt(`"Value" : "cc"`), run("watch k --prefix --rev=2 -w table"),
		run("watch k1 --rev=2 -w protobuf").as(&pb.WatchResponse{}).stopAt("cc"), run("watch m/1 --rev=2 --prev-kv -w protobuf").as(&pb.WatchResponse{}).stopAt("again"),
		run("watch m/1 --rev=2").with(env...).stopAt("end of 13"),
		run("watch m --prefix --prev-kv --rev=2").with(env...).stopAt("end of 13"),
		run("watch live --progress-notify").stopAt("progress notify: 13"),
		run("watch -i").in("watch live\nprogress\n").on("progress notify: 13", run("put live 1"), run("put other x"), run("put live 2"), run("del live"), run("put live last")).stopAt("last"),
		run("watch -i").in("watch live --prev-kv\nwatch k --prefix\nprogress\n").on("progress notify", run("put k5 five"), run("put live 3"), run("put live end")).stopAt("end"),
		run("watch -i").in("watch live --rev=14 -- echo seen\n").stopAt("end"),
		run("watch -i -w json").in("watch live m --rev=14\n").stopAt(`"value":"ZW5k"`), run("watch -i").in("watch live -w json\n"),
		run("watch -i").in("nonsense\n"), run("watch -i").in("watch\n"), run("watch"), run("watch k l --prefix"), run("watch z a --rev=1"), run("watch a --rev=x"),
		run("txn").in("\nput t1 1\nput t2 2\ndel k --prefix\n\n\n"), run("watch --prefix --rev=14 --prev-kv").with("").stopAt("t2"),
		run("compaction 10"), run("watch k1 --rev=5"), run("watch k1 --rev=5 -w json"), run("watch k --prefix --rev=10").stopAt("five"), run("watch -i").in("watch k1 --rev=5\n"),
		sameHash(),
	)
}

// leaseTurns ensure that the lease commands answer as on etcd. Where keys
// of a lease are listed it has one: etcd lists them in no order.
func leaseTurns() []turn {
	return inOrder(
		run("lease list"), run("lease grant 500"), run("lease list"), run("lease timetolive $LEASE", remaining), run("put l1 x --lease=$LEASE"),
		run("lease timetolive $LEASE --keys", remaining), run("put l2 x --lease=$LEASE"), run("lease keep-alive $LEASE --once"), run("get l --prefix"), run("lease revoke $LEASE"), run("get l --prefix"),
		run("lease revoke $LEASE"), run("lease timetolive $LEASE"), run("lease timetolive $LEASE --keys"), run("lease keep-alive $LEASE --once"), run("lease keep-alive $LEASE"), run("lease list"),
		grant(0x1234, 1000), grant(0x99, 500),
		run("put l1 x --lease=1234"), run("put l3 x --lease=1234"), run("put l2 y --lease=99"), run("put l1 moved --lease=99"),
		run("lease list").formats(everyFormat...), run("lease timetolive 1234 --keys", remaining).formats(everyFormat...), run("lease timetolive 1234", remaining).formats(everyFormat...),
		run("lease timetolive 5").formats(everyFormat...), run("lease keep-alive 1234 --once").formats(everyFormat...),
		run("lease keep-alive 1234").stopAt("keepalived"), run("lease revoke 99").formats("json"), run("get l --prefix -w json"), run("lease revoke 99").formats("json"),
		run("lease revoke 1234").formats("fields"), run("get l --prefix -w fields"),
		grant(0x55, 500), run("lease revoke 55").formats("table"), grant(0x56, 500), run("lease revoke 56", pointer).formats("protobuf"),
		run("lease grant"), run("lease grant x"), run("lease grant 0"), run("lease grant -- -5"), run("lease grant 9000000001"), run("lease grant 9000000000"), run("lease revoke zz"), run("lease revoke"),
		run("lease timetolive"), run("lease timetolive zz"), run("lease keep-alive"), run("lease keep-alive zz --once"),
		grant(7, 1), run("put short x --lease=7"), run("watch short --prev-kv --rev=2").stopAt("DELETE"), run("get short"), run("lease timetolive 7"),
		// The first lease's id was the server's choice; the keys that bore it leave the hash.
		run("compaction 12 --physical"), sameHash(),
		// Their ids are not known afterwards.
		run("lease grant 500", ownID).formats(everyFormat...),
	)
}

// maintenanceTurns ensure that the commands for operators answer as on etcd.
//
// Not asked: HashKV at the very revision of a compaction that was not waited for, where
// the answer depends on whether it is done.
func maintenanceTurns() []turn {
	sizes := []string{"DB SIZE", "IN USE", "PERCENTAGE NOT IN USE", "RAFT INDEX", "RAFT APPLIED INDEX"}
	status := []mask{bytesOfStore, raftIndex}
	return inOrder(
		run("endpoint hashkv -w json"), seed(), seed(), run("endpoint health", took).formats("simple", "json", "fields", "protobuf"), run("endpoint health").hide("TOOK").formats("table"), run("endpoint health --cluster", took),
		run("endpoint status", status...).formats("json", "fields", "protobuf"), run("endpoint status").hide(sizes...).formats("table"), run("endpoint status --cluster").hide(sizes...).formats("table"), run("endpoint status", statusLine),
		run("endpoint hashkv").formats(everyFormat...), run("endpoint hashkv --rev=5").formats("json"), run("endpoint hashkv --rev=1 -w json"), run("endpoint hashkv --rev=99"), run("endpoint hashkv --cluster -w table"),
		run("member list").formats(everyFormat...), run("member list --consistency=s"), run("member list --consistency=x"), run("member list x"),
		run("compaction"), run("compaction x"), run("compaction 99"), run("compaction 5"), run("compaction 5"), run("compaction 4"), run("compaction 0"), run("compaction -- -1"),
		run("compaction 6 -w json"), run("compaction 7 -w fields"), run("compaction 8 -w protobuf"), run("compaction 9 -w table"),
		run("endpoint hashkv -w json"), run("endpoint hashkv --rev=4"), run("compaction 14 --physical"), run("compaction 20 --physical -w json"),
		run("endpoint hashkv -w json"), run("endpoint hashkv --rev=20 -w json"), run("endpoint hashkv --rev=22 -w json"), run("defrag", took), run("defrag --cluster", took), run("defrag", took).formats(everyFormat...), run("defrag x", took), run("endpoint hashkv -w json"),
		with("get", "", "--prefix", "-w", "json"), run("put after defrag"), run("compaction 26"),
		run("alarm list"), run("alarm disarm"), raise(pb.AlarmType_NOSPACE), run("alarm list").formats(everyFormat...), run("put a b"), run("lease grant 10"), run("del k1"), run("get k1"),
		run("txn").in("\nput a b\n\n\n"), run("txn").in("\ndel k2\n\n\n"), run("endpoint health", took), run("endpoint health", took).formats("json"), run("endpoint status", spacing).hide(sizes...).formats("table"),
		run("endpoint status", append(status, spacing)...).formats("json"), run("alarm disarm").formats(everyFormat...), run("alarm list"), run("put a b"),
		raise(pb.AlarmType_CORRUPT), run("alarm list -w json"), run("get a"), run("put a c"), run("del a"), run("endpoint health", took), run("alarm disarm"), run("get a"), run("alarm x"), run("version"),
		run("move-leader"), run("move-leader zz"), sameHash(),
	)
}

// snapshotTurns ensure that a saved snapshot holds the same keys,
// revisions and storage version as etcd's, and that etcd's tool takes it for sound.
func snapshotTurns() []turn {
	saved := func() []turn {
		return inOrder(
			run("snapshot save s.db"), run("snapshot status s.db -w json", fileHash, bytesOfStore).by("etcdutl"),
			run("snapshot status s.db", fileHash, bytesOfStore).by("etcdutl").hide("HASH", "TOTAL SIZE").formats("table"),
			run("snapshot status s.db", fileHash, bytesOfStore).by("etcdutl").formats("fields"),
			run("hashkv s.db -w json").by("etcdutl"), run("hashkv s.db --rev=9 -w json").by("etcdutl"),
		)
	}
	return inOrder(
		saved(), seed(), grant(0x1234, 1000), run("put l x --lease=1234"), saved(), run("compaction 9 --physical"), saved(), run("defrag", took), saved(), sameHash(),
		run("snapshot save s.db").formats(everyFormat...), run("snapshot save"), run("snapshot save no/such/dir.db"), run("snapshot status nothing.db").by("etcdutl"),
	)
}
