// Package etcdapi is the wire of shim: etcd's v3 gRPC services and HTTP
// endpoints over any [backends.Backend]. It holds what does not depend on where
// the data lies: limits, checks of requests, error codes and texts, sorting and
// filtering, encoding, and the memory that answers may occupy. It knows no backend.
//
// # Nouns
//
//   - A [Server] answers clients on any number of listeners; each is an [Endpoint],
//     plain, with TLS, or both, that carries gRPC and HTTP together or one of them.
//   - The gateway answers JSON over HTTP by calling the server's own gRPC services.
//   - A reply is an answer in its wire form. Records of ranges and events of
//     watches are never decoded on the way: the bytes that the backend gave
//     become pieces of the reply, which grpc frees once they are written.
//   - A turn is a place in the queue for a lock or in an election. Those services are
//     made of the server's own KV, Watch and Lease; see turn.go.
//   - A claim is what one request may hold of the budget, the memory that
//     answers on their way to the socket occupy; see budget.go.
//
// # Order of a request
//
//  1. grpc checks frame sizes and stream limits; codec.go decodes.
//  2. interceptors.go checks metadata, counts and times the call, and turns a
//     panic into an error. access.go has what each method demands of its caller while
//     authentication is on, and permit checks what is about no key; caller.go tells who asks.
//  3. limits.go makes the checks of etcd's v3rpc layer, in its order. Where the backend
//     decides by keys who may do what, the caller is identified after them, as in etcd.
//  4. convert.go makes the backend's request; the backend answers.
//  5. encode.go builds the reply; errors.go alone knows gRPC codes.
//
// # Goroutines
//
// Server owns one goroutine per listener and one per connection until its
// protocol is known, grpc's and net/http's own, one that accepts the gateway's
// connection, and one that watches for the loss of the leader. A watch stream has a receiver and a sender. All end with Shutdown.
package etcdapi
