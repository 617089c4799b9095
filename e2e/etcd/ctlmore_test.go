package etcd

import (
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// globalTurns ensure that the options of every command reach shim as they reach
// etcd. Those of TLS are asked here where they fail, in the client; tlsTurns ask them of
// servers. With a domain, --discovery-srv would ask a name server before any other.
func globalTurns() []turn {
	steps := inOrder(seed(), run("get k1 --hex").formats(everyFormat...), run("put h \xff --hex"), run("get h --hex"))
	for _, flag := range []string{
		"--dial-timeout=5s", "--command-timeout=20s", "--keepalive-time=5s", "--keepalive-timeout=9s", "--max-request-bytes=100000", "--max-recv-bytes=100000",
		"--insecure-transport=true", "--insecure-discovery=true", "--insecure-skip-tls-verify=false", "--auth-jwt-token=abc",
		"--cert=none.pem", "--key=none.pem", "--cacert=none.pem", "--cert=", "--key=", "--cacert=", "--password=x", "--nonsense",
	} {
		steps = append(steps, run("get k1 "+flag))
	}
	return inOrder(steps,
		run("get k1 --debug").withoutStderr(), with("get", "k1", "-d", ""), run("get k1 --discovery-srv= --discovery-srv-name=x"),
		run("get k1 --max-recv-bytes=10"), run("put k1 xxxxxxxxxxxxxxxxxxxx --max-request-bytes=10"), run("get k1 -w yaml"), run("get k1 -w="),
		run("get k1 --endpoints="), run("options"), run("completion bash"), run("completion zsh"), run("completion fish"), run("completion powershell"), run("completion tcsh"),
		run("help"), run("nonsense"), run("version").formats(everyFormat...), sameHash(),
	)
}

// concurrencyTurns ensure that lock and elect, which the client makes of
// transactions, watches and leases, go as on etcd.
func concurrencyTurns() []turn {
	return inOrder(
		with("lock", "l", "sh", "-c", "echo revision $ETCD_LOCK_REV; echo ${ETCD_LOCK_KEY%/*}"), with("lock", "l", "sh", "-c", "exit 3"), with("lock", "l", "--ttl=5", "true"),
		run("lock free", ownLease).stopAt("free/"), run("lock json -w json", ownLease, inBase64, leaseNumber).stopAt(`"kvs"`), run("lock fields -w fields", ownLease, leaseNumber).stopAt("More"),
		run("lock protobuf -w protobuf", ownLease, leaseNumber).as(&pb.RangeResponse{}).stopAt("protobuf/"), run("lock table -w table"),
		run("lock"), run("lock l --ttl=x"), run("lock l --ttl=0 true"), run("get l --prefix"),
		run("elect e first", ownLease).stopAt("first"), run("elect -l e", ownLease).stopAt("first"), run("elect --listen e -w fields", ownLease, leaseNumber).stopAt("More"),
		run("elect other second -w json", ownLease, inBase64, leaseNumber).stopAt("c2Vjb25k"),
		run("elect more third -w protobuf", ownLease, leaseNumber).as(&pb.RangeResponse{}).stopAt("third"), run("elect none fourth -w table"), run("elect"), run("elect e"), run("elect -l e x"),
	)
}

// memberTurns ensure that the commands that change the membership answer as on etcd, as far
// as one voter goes.
func memberTurns() []turn {
	steps := inOrder(
		run("member add"), run("member add x"), run("member add x http://127.0.0.1:1"), run("member add x --learner --peer-urls=nonsense"), run("member add x --peer-urls=ftp://127.0.0.1:1"),
		run("member remove"), run("member remove zz"), run("member remove 123"), run("member update"), run("member update 123"), run("member update 123 --peer-urls=http://127.0.0.1:1"),
		run("member update zz --peer-urls=http://127.0.0.1:1"), run("member promote"), run("member promote zz"), run("member promote 123"),
	)
	// Members are listed by their ids, of which that of an added one is another on each side.
	for i, format := range append(slices.Clone(everyFormat), "json --hex") {
		// No address is used twice: an id is made of them and of the second.
		url := func(n int) string { return fmt.Sprintf("http://127.0.0.1:%d", 10*(i+1)+n) }
		add := "member add new --learner -w " + format + " --peer-urls="
		steps = inOrder(steps,
			run(add+url(1)).as(&pb.MemberAddResponse{}).anyOrder(), run("member list -w "+format).as(&pb.MemberListResponse{}).anyOrder(), run(add+url(2)), run(add+url(3)+","+url(1)),
			run("member promote $MEMBER -w "+format), run("member update $MEMBER -w "+format+" --peer-urls="+url(4)).as(&pb.MemberUpdateResponse{}).anyOrder(),
			run("member remove $MEMBER -w "+format).as(&pb.MemberRemoveResponse{}).anyOrder(), run("member remove $MEMBER"), run("member list -w "+format),
		)
	}
	return steps
}

// downgradeTurns ensure that a downgrade is judged as by etcd, and taken back at once.
func downgradeTurns() []turn {
	steps := inOrder(run("downgrade"), run("downgrade validate"), run("downgrade enable"), run("downgrade validate a b"), run("downgrade enable x.y"), run("downgrade validate 3.1"))
	for _, format := range everyFormat {
		steps = inOrder(steps,
			run("downgrade validate 3.6 -w "+format), run("downgrade enable 3.6 -w "+format), run("downgrade enable 3.6 -w "+format), run("downgrade validate 3.6"),
			run("downgrade cancel -w "+format), run("downgrade cancel -w "+format),
		)
	}
	return steps
}

// moveLeaderTurns ensure that the leadership of one member is moved as on etcd.
func moveLeaderTurns() []turn {
	return inOrder(run("move-leader"), run("move-leader zz"), run("move-leader 123").formats(everyFormat...))
}

// authTurns ensure that users, roles and what they permit answer as on etcd.
func authTurns() []turn {
	steps := inOrder(
		run("auth status").formats(everyFormat...), run("auth enable"), run("auth disable"), run("auth nonsense"), run("user"), run("role"),
		run("user add root:secret"), run("auth enable"), run("user add nocolon --interactive=false").in("secret\n"), run("user add flag --new-user-password=secret"), run("user add cert --no-password"),
		run("user add root:again"), run("user add :x"), run("user add"), run("user add a b"), run("user get root"), run("user get nobody"), run("user get"), run("user list x"), run("user delete"), run("user delete nobody"),
		run("user passwd nocolon --interactive=false").in("other\n"), run("user passwd nobody --interactive=false").in("other\n"), run("user passwd"),
		run("role add root"), run("role add root"), run("role add"), run("role add reader"), run("role add writer"), run("role get nobody"), run("role get"), run("role delete nobody"), run("role delete"), run("role list x"),
		run("role grant-permission reader read k1"), run("role grant-permission reader read m --prefix"), run("role grant-permission reader readwrite z --from-key"), run("role grant-permission writer write k1 k3"),
		with("role", "grant-permission", "writer", "write", "", "--prefix"), run("role grant-permission writer nonsense k1"), run("role grant-permission nobody read k1"), run("role grant-permission reader"),
		run("role grant-permission reader read a b --prefix"), run("role grant-permission reader read a b --from-key"), run("role grant-permission reader read a --prefix --from-key"),
		run("role get reader").formats(everyFormat...), run("role get writer").formats(everyFormat...), run("role get root"), run("role list").formats(everyFormat...),
		run("user grant-role nocolon reader"), run("user grant-role flag writer"), run("user grant-role nocolon nobody"), run("user grant-role nobody reader"), run("user grant-role"),
		run("user grant-role root root"), run("user get nocolon").formats(everyFormat...), run("user get nocolon --detail"), run("user list").formats(everyFormat...),
	)
	for _, format := range everyFormat {
		steps = inOrder(steps,
			run("user add tmp:secret -w "+format), run("role add tmp -w "+format), run("role grant-permission tmp read x y -w "+format), run("user grant-role tmp tmp -w "+format),
			run("user passwd tmp --interactive=false -w "+format).in("other\n"), run("role revoke-permission tmp x y -w "+format), run("role revoke-permission tmp x y -w "+format),
			run("user revoke-role tmp tmp -w "+format), run("user revoke-role tmp tmp -w "+format), run("user delete tmp -w "+format), run("role delete tmp -w "+format),
		)
	}
	steps = inOrder(steps,
		run("role revoke-permission reader z --from-key"), run("role revoke-permission reader m --prefix"), run("role revoke-permission reader"), run("role get reader"),
		run("role grant-permission reader read m --prefix"), run("auth enable"), run("auth status"), run("get k1"), run("put k1 x"), run("member list"), run("endpoint status"),
	)
	for _, words := range []string{
		"get k1", "get k2", "get m --prefix", "get k --prefix", "put k1 x", "put k1 y --prev-kv", "del k1", "del k1 --prev-kv", "get z --from-key", "compaction 3", "defrag", "alarm list", "member list",
		"user list", "user get nocolon", "role get reader", "role get writer", "auth status", "lease list", "lease grant 500", "snapshot save s.db", "endpoint hashkv", "endpoint health", "watch k9",
	} {
		for _, user := range []string{" --user=root:secret", " --user=nocolon --password=other", " --user=flag:secret", " --user=flag:wrong", " --user=nobody:x", " --user=cert:x", " --auth-jwt-token=nonsense"} {
			if words == "watch k9" && user == " --user=root:secret" {
				continue // it is allowed, and goes on for ever
			}
			if words == "watch k9" && user == " --user=flag:secret" {
				continue // as above: its role may write everything, and etcd asks for no more
			}
			steps = append(steps, run(words+user, took, ownLease))
		}
	}
	return inOrder(steps,
		run("put m/1 mirrored --user=root:secret"),
		run("watch --prefix copy/ --rev=4 --user=root:secret").beside(run("make-mirror --user=root:secret --prefix=m/ --dest-prefix=copy/ --dest-user=root --dest-password=secret $ADDRESS")).stopAt("mirrored"),
		run("make-mirror --user=root:secret --dest-user=root --dest-password=wrong $ADDRESS"), run("make-mirror --user=root:secret --dest-user=flag:wrong $ADDRESS"),
		run("txn --user=nocolon:other").in("\nget k1\nget m/1\n\n\n"), run("txn --user=nocolon:other").in("\nget k1\nput k1 x\n\n\n"), run("user delete root --user=root:secret"), run("role delete root --user=root:secret"),
		run("auth enable --user=root:secret").formats(everyFormat...), run("auth disable --user=flag:secret"), run("auth disable --user=root:secret").formats("json"), run("auth disable").formats(everyFormat...),
		run("auth status"), run("get k1"), sameHash(),
	)
}

// mirrorTurns ensure that a mirror copies what is there and what comes.
func mirrorTurns() []turn {
	mirror := func(flags string) turn { return run("make-mirror " + flags + " $ADDRESS") }
	return inOrder(
		seed(), // the last revision is 13
		run("watch --prefix mirror/k --rev=1").beside(mirror("--prefix=k --dest-prefix=mirror/k --max-txn-ops=2")).stopAt("two words"),
		run("watch --prefix copy/ --rev=1").beside(mirror("--prefix=m/ --rev=2 --dest-prefix=copy/ --dest-insecure-transport=true")).stopAt("again"),
		run("make-mirror"), run("make-mirror a b"), run("make-mirror --prefix=k --dest-prefix=x --no-dest-prefix $ADDRESS"), run("make-mirror --dest-cert=none.pem --dest-key=none.pem $ADDRESS"),
		run("make-mirror --dest-cacert=none.pem $ADDRESS"), run("make-mirror --rev=x $ADDRESS"),
	)
}

// checkTurns ensure that the checks of a cluster are refused as on etcd, and that the one
// of memory, which reads the server's metrics, comes to its end. That of the throughput
// writes for a minute and judges how fast that was.
func checkTurns() []turn {
	return inOrder(
		run("put perf/x 1"), run("put scale/x 1"), run("check perf --load=nonsense"), run("check datascale --load=nonsense"), run("check perf --prefix=perf/"),
		run("check perf --load=s --prefix=perf/ --auto-compact --auto-defrag").formats(everyFormat...), run("check datascale --prefix=scale/").formats(everyFormat...),
		run("check datascale --load=s --prefix=free/ --auto-compact --auto-defrag", memory).withoutStderr().within(5*time.Minute),
		run("get free/ --prefix"), run("get perf/x -w json"),
	)
}
