package oracle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

const (
	// callTimeout bounds one call, far above what a busy machine needs. A call that
	// takes longer has no answer, on whichever side, and that is a difference.
	callTimeout = 30 * time.Second
	// maxMessage is the largest answer that is taken, in bytes.
	maxMessage = 128 << 20
	// badToken is a token that no server has given.
	badToken = "aaaaaaaaaaaaaaaa.1"
)

// A Side is one server and what a script has left there.
type Side struct {
	name    string
	binary  string
	port    int
	dir     string
	flags   []string
	server  *process.Server
	conn    *grpc.ClientConn
	methods map[string]*method

	known   *known
	tokens  map[string]string // the newest of each user
	streams map[int]*stream
	pending map[int]chan Answer // by slot

	// patience bounds a call, and the wait for a watch.
	patience time.Duration
	// tamper, if not nil, may change what the server sent to a step, before anything of the
	// harness has seen it. It is called from several goroutines.
	tamper func(rpc string, m proto.Message)
}

// receive is what every message of an answer passes first.
func (s *Side) receive(rpc string, m proto.Message) {
	if s.tamper != nil {
		s.tamper(rpc, m)
	}
}

// run runs a script. The answer to a step that could not be done is the last one.
func (s *Side) run(t testing.TB, script Script) []Answer {
	answers := make([]Answer, 0, len(script.Steps))
	for _, step := range script.Steps {
		a, err := s.do(t, step)
		if err == nil && len(s.pending) > 0 {
			// What it brings forth belongs to the step that waits for the call.
			answers = append(answers, a)
			continue
		}
		if err == nil && !step.reads() {
			err = s.settle()
		}
		if err != nil {
			select {
			case <-s.server.Exited():
				err = fmt.Errorf("%w; the server has ended:\n%s", err, s.server.Output())
			default:
			}
			a.Code, a.Message = codes.Unknown, fmt.Sprintf("cannot go on: %v", err)
			return append(answers, a)
		}
		a.Watched = s.collect()
		answers = append(answers, a)
	}
	return answers
}

// do does one step.
func (s *Side) do(t testing.TB, step Step) (Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	switch step.Verb {
	case verbKill:
		s.restart(t)
		return Answer{}, nil
	case verbClose:
		if w := s.streams[step.Stream]; w != nil {
			w.cancel()
			delete(s.streams, step.Stream)
		}
		return Answer{}, nil
	case verbRaw:
		return s.raw(step)
	case verbAwait:
		return s.await(ctx, step)
	case verbJoin:
		answer, ok := s.pending[step.Join]
		if !ok {
			return Answer{Message: "nothing to join"}, nil
		}
		delete(s.pending, step.Join)
		a := <-answer
		s.learn(step, nil, &a)
		return a, nil
	case verbNotify:
		return s.notify(step)
	case "Watch.Watch":
		return s.watch(step)
	}
	return s.call(ctx, step)
}

// call calls an RPC other than Watch.
func (s *Side) call(ctx context.Context, step Step) (Answer, error) {
	m := s.methods[step.Verb]
	if m == nil {
		return Answer{}, fmt.Errorf("no RPC %q", step.Verb)
	}
	requests := make([]proto.Message, 0, len(step.Requests))
	for _, r := range step.Requests {
		requests = append(requests, s.known.toServer(r))
	}
	if len(requests) == 0 {
		return Answer{}, errors.New("a call without a request")
	}
	if step.Async != 0 {
		return Answer{}, s.begin(step, m, requests[0])
	}
	ctx = s.as(ctx, step.As)
	var a Answer
	switch {
	case m.clientStreams:
		a = s.converse(ctx, m, requests)
	case m.serverSends:
		a = s.stream(ctx, m, requests[0], step.Take, nil)
	default:
		a = s.unary(ctx, m, requests[0])
	}
	s.learn(step, requests[0], &a)
	return a, nil
}

// begin starts a call that a later step joins. Of one with an endless stream the
// first message is waited for.
func (s *Side) begin(step Step, m *method, request proto.Message) error {
	answer, first := make(chan Answer, 1), make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	ctx = s.as(ctx, step.As)
	go func() {
		defer cancel()
		if m.serverSends {
			answer <- s.stream(ctx, m, request, step.Take, first)
			return
		}
		answer <- s.unary(ctx, m, request)
	}()
	s.pending[step.Async] = answer
	if m.serverSends {
		<-first
	}
	return nil
}

// as adds a user's newest token.
func (s *Side) as(ctx context.Context, user string) context.Context {
	token := s.tokens[user]
	if user == "!" {
		token = badToken
	}
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "token", token)
}

func (s *Side) unary(ctx context.Context, m *method, request proto.Message) Answer {
	a := Answer{Calls: 1}
	reply := m.newAnswer()
	if err := s.conn.Invoke(ctx, m.path, request, reply, grpc.Header(&a.Header), grpc.Trailer(&a.Trailer)); err != nil {
		a.fail(ctx, err)
		return a
	}
	s.receive(m.name, reply)
	a.Replies = []proto.Message{reply}
	return a
}

// stream reads a server's stream to its end or, if take is not 0, that many messages.
// first is closed after the first message, and at the end.
func (s *Side) stream(ctx context.Context, m *method, request proto.Message, take int, first chan struct{}) Answer {
	a := Answer{Calls: 1}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		if first != nil {
			close(first)
		}
	}()
	c, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, m.path)
	if err == nil {
		err = c.SendMsg(request)
	}
	if err == nil || errors.Is(err, io.EOF) { // EOF: the status comes with the answer
		err = c.CloseSend()
	}
	for err == nil {
		reply := m.newAnswer()
		if err = c.RecvMsg(reply); err != nil {
			break
		}
		s.receive(m.name, reply)
		if a.Replies = append(a.Replies, reply); len(a.Replies) == take {
			return a
		}
		if first != nil {
			close(first)
			first = nil
		}
	}
	if c != nil {
		a.Header, _ = c.Header() // its error is the stream's
		a.Trailer = c.Trailer()
	}
	if !errors.Is(err, io.EOF) {
		a.fail(ctx, err)
		return a
	}
	if m.name == "Maintenance.Snapshot" {
		whole, err := folded(a.Replies)
		if err != nil {
			a.fail(ctx, err)
			return a
		}
		a.Replies = []proto.Message{whole}
	}
	return a
}

// converse sends requests one after the other, each when the one before was answered.
func (s *Side) converse(ctx context.Context, m *method, requests []proto.Message) Answer {
	a := Answer{}
	c, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, m.path)
	for _, r := range requests {
		if err != nil {
			break
		}
		a.Calls++
		if err = c.SendMsg(r); err != nil && !errors.Is(err, io.EOF) {
			break
		}
		reply := m.newAnswer()
		if err = c.RecvMsg(reply); err == nil {
			s.receive(m.name, reply)
			a.Replies = append(a.Replies, reply)
		}
	}
	a.Calls = max(1, a.Calls) // one that was refused when it began
	if err == nil {
		if err = c.CloseSend(); err == nil {
			err = c.RecvMsg(m.newAnswer())
		}
	}
	if c != nil {
		a.Header, _ = c.Header() // its error is the stream's
		a.Trailer = c.Trailer()
	}
	if !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("an answer without a request")
		}
		a.fail(ctx, err)
	}
	return a
}

// await waits until a range has so many keys, by watching it.
func (s *Side) await(ctx context.Context, step Step) (Answer, error) {
	request, ok := step.Requests[0].(*pb.RangeRequest)
	if !ok {
		return Answer{}, fmt.Errorf("await takes a range, not a %T", step.Requests[0])
	}
	request, _ = s.known.toServer(request).(*pb.RangeRequest)
	request.CountOnly = true
	ctx, cancel := context.WithCancel(s.as(ctx, step.As))
	defer cancel()
	watch, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		return Answer{}, err
	}
	create := &pb.WatchCreateRequest{Key: request.Key, RangeEnd: request.RangeEnd}
	if err := watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return Answer{}, err
	}
	for {
		// The first message says that the watch is there; any other that keys changed.
		if w, err := watch.Recv(); err != nil || w.Canceled {
			return Answer{}, fmt.Errorf("await %d keys: %w, %v", step.Count, err, w)
		}
		a := s.unary(ctx, s.methods["KV.Range"], request)
		if a.Code != codes.OK {
			return a, nil
		}
		if r, ok := a.Replies[0].(*pb.RangeResponse); ok && r.Count == int64(step.Count) {
			s.learn(step, request, &a)
			return a, nil
		}
	}
}

// learn notes what an answer tells of revisions, ids and tokens, and puts its
// messages into symbols.
func (s *Side) learn(step Step, request proto.Message, a *Answer) {
	for _, r := range a.Replies {
		s.seen(headerOf(r))
	}
	if a.Code == codes.OK && len(a.Replies) > 0 {
		switch r := a.Replies[0].(type) {
		case *pb.LeaseGrantResponse:
			s.bindLease(step, r.ID)
		case *pb.MemberAddResponse:
			if step.Bind != 0 && r.Member != nil {
				s.known.bind(symbolMember+symbol(step.Bind), int64(r.Member.ID))
			}
		case *pb.AuthenticateResponse:
			if q, ok := request.(*pb.AuthenticateRequest); ok {
				s.tokens[q.Name] = r.Token
			}
		case *pb.CompactionResponse:
			if q, ok := request.(*pb.CompactionRequest); ok {
				s.known.compacted = max(s.known.compacted, q.Revision)
			}
		default:
			s.learnLock(step, r)
		}
	}
	for i, r := range a.Replies {
		a.Replies[i] = s.known.fromServer(r)
	}
}

func (s *Side) bindLease(step Step, id int64) {
	if step.Bind != 0 {
		s.known.bind(symbolLease+symbol(step.Bind), id)
	}
}

// learnLock binds what the answers of locks and elections tell: a lease that the
// server granted, as the end of a key, and the revision of a campaign.
func (s *Side) learnLock(step Step, answer proto.Message) {
	if step.Bind == 0 {
		return
	}
	m := answer.ProtoReflect()
	if leader := m.Descriptor().Fields().ByName("leader"); leader != nil && leader.Message() != nil {
		m = m.Get(leader).Message()
		if rev := m.Descriptor().Fields().ByName("rev"); rev != nil {
			s.known.bind(symbolRev+symbol(step.Bind), m.Get(rev).Int())
		}
	}
	key := m.Descriptor().Fields().ByName("key")
	if key == nil {
		return
	}
	text := string(m.Get(key).Bytes())
	if id, err := strconv.ParseInt(text[strings.LastIndexByte(text, '/')+1:], 16, 64); err == nil {
		s.bindLease(step, id)
	}
}

// seen notes a revision.
func (s *Side) seen(h *pb.ResponseHeader) { s.known.revision = max(s.known.revision, h.GetRevision()) }

// headerOf is the header of any answer, nil if it has none.
func headerOf(m proto.Message) *pb.ResponseHeader {
	switch r := m.(type) {
	case interface{ GetHeader() *pb.ResponseHeader }:
		return r.GetHeader()
	case *pb.RangeStreamResponse:
		return r.RangeResponse.GetHeader()
	}
	return nil
}
