// Package conformance is shim's promise as code: named cases that say what a
// server of etcd's v3 API must answer, run against any endpoint. Real etcd
// 3.7.3 passes them all; that is the test of the suite itself.
//
// The nouns:
//
//   - A Case is one statement about one RPC. It names the RPC, the request
//     fields it covers, the capability it needs and the condition of the server
//     it needs.
//   - A Profile is a name and the list of cases that belong to it: "etcd" is
//     every case, "kubernetes" what a kube-apiserver relies on.
//   - An Endpoint is a served address, with the capabilities of what is behind
//     it. An Opener makes endpoints in a given Condition (a small quota, a short
//     progress interval, ...).
//   - A Summary is what came of a run, by RPC and by area.
//
// Run opens endpoints as the cases need them; RunConn takes one live endpoint,
// which may hold data of its own: a case touches only keys under its own prefix
// and computes with revisions relative to the current one. While it runs,
// nobody else may write to the server. A condition that the endpoint or the
// opener cannot give leaves its cases unrun; they are listed by name and
// counted, never passed in silence.
//
// A case of a capability that the endpoint lacks is not skipped either: its
// RPC has to answer Unimplemented.
//
// Cases speak through the generated gRPC stubs and, where a stub would refuse to
// send what they need to send, through raw HTTP/2 frames. They never use
// etcd's client library, which retries, reorders and repairs.
//
// Nothing sleeps: cases wait for an event (a watch answer, a stream's end). Only
// lease expiry waits for real time, and cases that wait so are run side by side.
package conformance
