// Package wire is what a guest of User-Mode Linux and its host say to each other:
// byte streams over one serial line, and the calls that the host makes.
//
// The line is not reliable when its receiving end in the guest fills up: the
// guest's kernel then stops listening for good. So the host sends at most Window
// bytes that the guest has not read. Nothing else is assumed: no network device,
// no right to make one.
//
// Guest to host, frames:
//
//	offset  size  field
//	0       2     length of the payload, bytes, big endian
//	2       2     credit: bytes that the guest has read since its last frame
//	4       ...   payload
//
// Host to guest: the bytes as they are. The guest's first frame carries the whole
// Window as credit, so the host is silent until the guest's line is set up.
//
// Above the line is a yamux session, whose streams each begin with one byte: Calls
// for net/rpc, Client for a connection to the server's client port.
package wire
