package conformance

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// maxSlow bounds how many slow cases wait side by side: each holds a goroutine
// and a few streams, not CPU.
const maxSlow = 32

// Run runs the profile's cases on servers that open makes, one for each condition
// that the cases need, and returns what came of it.
func Run(t *testing.T, profile Profile, open Opener) *Summary {
	t.Helper()
	s := &Summary{Profile: profile.Name}
	endpoints := map[Condition]*Endpoint{}
	given := func(condition Condition) *Endpoint {
		e, ok := endpoints[condition]
		if !ok {
			e = open(t, condition)
			endpoints[condition] = e
		}
		return e
	}
	if live := given(Live); live == nil {
		t.Fatal("the opener gave no server")
	} else {
		s.Endpoint = live.Name
	}
	run(t, profile.Cases, given, s)
	s.Print(t)
	return s
}

// RunConn runs the profile's cases on one live endpoint. Cases that need a
// server in another condition are listed as not run.
func RunConn(t *testing.T, profile Profile, endpoint *Endpoint) *Summary {
	t.Helper()
	return Run(t, profile, func(_ *testing.T, condition Condition) *Endpoint {
		if condition != Live {
			return nil
		}
		return endpoint
	})
}

// run runs the quick cases one after another and then the slow ones side by side.
func run(t *testing.T, cases []Case, given func(Condition) *Endpoint, s *Summary) {
	var slow []Case
	for _, k := range cases {
		if k.Slow {
			slow = append(slow, k)
			continue
		}
		runCase(t, k, given(k.Condition), s)
	}
	var wg sync.WaitGroup
	room := make(chan struct{}, maxSlow)
	for _, k := range slow {
		endpoint := given(k.Condition)
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			runCase(t, k, endpoint, s)
		})
	}
	wg.Wait()
}

// runCase runs one case and notes the outcome.
func runCase(t *testing.T, k Case, endpoint *Endpoint, s *Summary) {
	if endpoint == nil {
		s.note(k, notGiven)
		return
	}
	absent := k.Needs != "" && !endpoint.Capabilities[k.Needs]
	ran := false
	ok := t.Run(k.Name, func(t *testing.T) {
		ran = true
		c := newC(t, endpoint, k.Name)
		switch {
		case !absent:
			k.Run(c)
		case k.Absent != nil:
			k.Absent(c)
		default:
			c.wantUnimplemented(k.RPC)
		}
	})
	switch {
	case !ran: // left out by -run: not part of this run at all
	case !ok:
		s.note(k, failed)
	case absent:
		s.note(k, absentOK)
	default:
		s.note(k, passed)
	}
}

// wantUnimplemented sends an empty request to rpc ("Lease.LeaseGrant"), which
// must answer Unimplemented.
func (c *C) wantUnimplemented(rpc string) {
	c.Helper()
	desc := methodDescriptor(rpc)
	if desc == nil {
		c.Fatalf("no such method: %s", rpc)
	}
	path := fmt.Sprintf("/%s/%s", desc.Parent().FullName(), desc.Name())
	var err error
	if desc.IsStreamingClient() || desc.IsStreamingServer() {
		err = c.streamOnce(path)
	} else {
		err = c.Endpoint.Conn.Invoke(c.Ctx, path, &emptypb.Empty{}, &emptypb.Empty{})
	}
	if status.Code(err) != codes.Unimplemented {
		c.Errorf("%s without the capability: got %v, want Unimplemented", rpc, err)
	}
}

// streamOnce opens path as a stream, sends one empty message and returns the error of
// the first receive.
func (c *C) streamOnce(path string) error {
	stream, err := c.Endpoint.Conn.NewStream(c.Ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
	if err != nil {
		return err
	}
	// A send error is io.EOF here; the receive tells the reason.
	_ = stream.SendMsg(&emptypb.Empty{})
	_ = stream.CloseSend()
	return stream.RecvMsg(&emptypb.Empty{})
}

// area is the part of a case's name before the slash.
func (k Case) area() string {
	area, _, _ := strings.Cut(k.Name, "/")
	return area
}
