// Package clients runs what other programs do with etcd against shim: the flows of
// etcd's own client library (clientv3 3.7.3 with its packages concurrency, leasing,
// namespace, mirror and ordering), several processes that share a mutex or stand in an
// election, one of them killed, and a client of the JSON gateway.
//
// Every flow runs on real etcd 3.7.3 as well, with the same asserts: one that etcd does
// not pass says nothing about shim. The flows assert what a user of the client relies
// on; what the server answers in detail is the conformance suite's.
package clients
