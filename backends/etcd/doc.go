// Package etcd passes every request on to a running etcd, over raw gRPC: a shim
// in front of an etcd answers as that etcd does.
//
// # Nouns
//
//   - The upstream is the etcd, one member or several, named in the URL:
//     etcd://host:port[,host:port...]. One connection is used at a time; the
//     next address is tried when it fails.
//   - An attempt is one RPC, with what is known of its fate: whether anything was
//     sent, and whether the upstream answered.
//
// # Duties
//
//  1. Records and events are handed on in the bytes they came in; they are cut out
//     of the messages, never decoded (wire.go).
//  2. Headers are the upstream's. A caller's token is forwarded.
//  3. An error that the upstream answered is handed on: as a sentinel of package
//     backends where that is the same to a client, else as backends.Remote.
//  4. Nothing is sent twice. A write whose connection broke after it was sent is
//     backends.ErrOutcomeUnknown.
//
// # Goroutines and limits
//
// Each watch stream has two goroutines, which end with it, holds one message
// of the upstream's, and at most maxRequests requests on their way. A range of more
// than unaryRecords records is streamed, or paged when the upstream is older
// than 3.7; either way one message of it is held.
//
// Connections are not encrypted unless a parameter of the URL turns TLS on: tls,
// cacert, cert with key, insecure-skip-tls-verify. The upstream's certificate must be for
// the first host of the URL. The client's certificate lets this server in and names no user: each
// caller is who its own token says. With cert-names-user it is that of the one who calls.
package etcd
