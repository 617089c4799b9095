//go:build deps

package shim

import (
	_ "go.etcd.io/etcd/server/v3/lease/leasepb"
)
