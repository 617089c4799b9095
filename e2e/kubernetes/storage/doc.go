// Package storage runs the test suite that Kubernetes keeps for its storage layer (k8s.io/apiserver/pkg/storage/testing) against servers of
// etcd's API: shim, and real etcd beside it for comparison.
//
// Upstream calls those functions from tests inside its own package etcd3, with an etcd embedded in the test process. Here each case gets a
// fresh server process instead, since several cases need a history that begins at revision 1. Every case runs with the feature gate
// EtcdRangeStream off and on: the two ways in which a kube-apiserver 1.37 reads lists.
//
// SERVERS=shim,etcd (the default) names the servers; a failure on either fails the test, since a case that real etcd does not pass says
// nothing about shim. A table of all results is left in
// ../work/storage.txt.
package storage
