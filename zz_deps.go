//go:build deps

package shim

import (
	_ "github.com/coreos/go-systemd/v22/daemon"
	_ "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	_ "github.com/tmc/grpc-websocket-proxy/wsproxy"
	_ "go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb/gw"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb/gw"
	_ "go.etcd.io/etcd/server/v3/lease/leasepb"
	_ "gopkg.in/natefinch/lumberjack.v2"
	_ "sigs.k8s.io/yaml"
)
