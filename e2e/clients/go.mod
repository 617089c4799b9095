module github.com/etcdshim/shim/e2e/clients

go 1.26.0

require (
	github.com/etcdshim/shim/e2e/etcd v0.0.0-00010101000000-000000000000
	go.etcd.io/etcd/api/v3 v3.7.3
	go.etcd.io/etcd/client/v3 v3.7.3
	go.etcd.io/etcd/server/v3 v3.7.3
	go.uber.org/zap v1.28.0
	google.golang.org/grpc v1.85.0
)

replace (
	github.com/etcdshim/shim => ../..
	github.com/etcdshim/shim/e2e/etcd => ../etcd
)
