// Package etcd holds the tests that need real etcd 3.7.3: conformance against
// etcd itself (the test of the suite) and against shim's backends, and etcdctl
// and etcdutl against shim.
//
// The binaries are built from their modules, at the versions of this module's
// go.mod, by package process.
package etcd
