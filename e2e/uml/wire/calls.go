package wire

import "time"

// writeTimeout bounds how long a session waits until a frame is on the line; a
// guest on a busy machine may be slow.
const writeTimeout = time.Minute

// The first byte of a stream says what it is.
const (
	Calls  = 'R' // net/rpc, served by the guest
	Client = 'C' // a connection to ClientAddr, in the guest
)

// ClientAddr is where the server in the guest serves its clients.
const ClientAddr = "127.0.0.1:2379"

// Output is what a command printed, on both streams, and its exit code; -1 when a
// signal ended it.
type Output struct {
	Text string
	Code int
}

// Mount says what to mount where.
type Mount struct {
	Device, Dir, Type string
	Options           string // as for mount -o
}

// Launch says which server to start.
type Launch struct {
	Bin, Dir string
	Flags    []string
	// Timeout is how long it may take until it is ready.
	Timeout time.Duration
}

// Ended says how a server ended.
type Ended struct {
	How  string // as (*os.ProcessState).String says it
	Code int    // -1 when a signal ended it
	Log  string // the end of it
}
