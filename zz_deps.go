//go:build deps

package shim

import (
	_ "github.com/coreos/go-systemd/v22/daemon"
	_ "go.etcd.io/etcd/server/v3/lease/leasepb"
	_ "gopkg.in/natefinch/lumberjack.v2"
	_ "sigs.k8s.io/yaml"
)
