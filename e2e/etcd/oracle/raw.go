package oracle

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// The kinds of what no gRPC library would send: see rawCall.
const (
	rawBroken  = "broken"  // a message that is no protobuf
	rawLong    = "long"    // a message whose prefix promises 2 GiB
	rawZstd    = "zstd"    // an encoding that nobody has
	rawBomb    = "bomb"    // a small message that unpacks to a large one
	rawVersion = "version" // a client version that is not UTF-8
	rawTimeout = "timeout" // a malformed time-out
	rawPath    = "path"    // a path without its slash
	rawMethod  = "method"  // a method that no service has
	rawService = "service" // a service that no server has
	rawPings   = "pings"   // pings without end
)

// bombBytes is what the bomb unpacks to, bytes: above what etcd takes.
const bombBytes = 8 << 20

// maxPings bounds the pings that are sent until the server hangs up.
const maxPings = 64

// rawCall is how a kind differs from a call with an empty message.
func rawCall(kind, path string) (headers []hpack.HeaderField, body []byte, err error) {
	message := func(flag byte, length uint32, payload []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{flag}, length), payload...)
	}
	body = message(0, 0, nil)
	switch kind {
	case rawBroken:
		body = message(0, 2, []byte{0x0a, 0xff})
	case rawLong:
		body = message(0, 1<<31-1, []byte{0})
	case rawZstd:
		headers = append(headers, hpack.HeaderField{Name: "grpc-encoding", Value: "zstd"})
		body = message(1, 1, []byte{0})
	case rawBomb:
		headers = append(headers, hpack.HeaderField{Name: "grpc-encoding", Value: "gzip"})
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(make([]byte, bombBytes)); err != nil {
			return nil, nil, err
		}
		if err := z.Close(); err != nil {
			return nil, nil, err
		}
		body = message(1, uint32(packed.Len()), packed.Bytes())
	case rawVersion:
		headers = append(headers, hpack.HeaderField{Name: "client-api-version", Value: "\xff\xfe"})
	case rawTimeout:
		headers = append(headers, hpack.HeaderField{Name: "grpc-timeout", Value: "bogus"})
	case rawPath:
		path = strings.TrimPrefix(path, "/")
	case rawMethod:
		path = path[:strings.LastIndexByte(path, '/')] + "/Nope"
	case rawService:
		path = "/foo.Bar" + path[strings.LastIndexByte(path, '/'):]
	case rawPings:
	default:
		return nil, nil, fmt.Errorf("no raw call %q", kind)
	}
	return append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "oracle"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, headers...), body, nil
}

// raw makes a connection of its own and sends the step's kind of call.
func (s *Side) raw(step Step) (Answer, error) {
	m := s.methods[step.Of]
	if m == nil {
		return Answer{}, fmt.Errorf("no RPC %q", step.Of)
	}
	headers, body, err := rawCall(step.Raw, m.path)
	if err != nil {
		return Answer{}, err
	}
	if token := s.tokens[step.As]; token != "" {
		headers = append(headers, hpack.HeaderField{Name: "token", Value: token})
	}
	conn, err := net.Dial("tcp", s.server.Address)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return Answer{}, err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return Answer{}, err
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		return Answer{}, err
	}
	if step.Raw == rawPings {
		return pinged(framer)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, h := range headers {
		_ = encoder.WriteField(h) // into memory
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		return Answer{}, err
	}
	// The end of the stream is a frame of its own: a server may answer before.
	if err := framer.WriteData(1, false, body); err != nil {
		return Answer{}, err
	}
	if err := framer.WriteData(1, true, nil); err != nil {
		return Answer{}, err
	}
	return answered(framer)
}

// answered reads the answer on stream 1.
func answered(framer *http2.Framer) (Answer, error) {
	a := Answer{Calls: 1, Code: codes.Unknown}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return a, fmt.Errorf("no answer on the wire: %w", err)
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			fields := metadata.MD{}
			for _, h := range f.Fields {
				fields[h.Name] = append(fields[h.Name], h.Value)
			}
			if !f.StreamEnded() {
				a.Header = fields
				continue
			}
			a.Trailer = fields
			return a, a.conclude()
		case *http2.RSTStreamFrame:
			if a.Trailer == nil {
				a.Message = "reset: " + f.ErrCode.String()
				return a, nil
			}
		case *http2.GoAwayFrame:
			a.Message = fmt.Sprintf("go away: %s %q", f.ErrCode, f.DebugData())
			return a, nil
		}
	}
}

// conclude takes the status from the trailer.
func (a *Answer) conclude() error {
	for _, fields := range []metadata.MD{a.Header, a.Trailer} {
		if code := fields["grpc-status"]; len(code) == 1 {
			n, err := strconv.Atoi(code[0])
			if err != nil {
				return err
			}
			a.Code = codes.Code(n)
		}
		if message := fields["grpc-message"]; len(message) == 1 {
			text, err := url.PathUnescape(message[0])
			if err != nil {
				return err
			}
			a.Message = text
		}
		delete(fields, "grpc-status") // compared as code and message
		delete(fields, "grpc-message")
	}
	return nil
}

// pinged sends pings until the server hangs up, and tells its words.
func pinged(framer *http2.Framer) (Answer, error) {
	a := Answer{Calls: 1, Code: codes.Unavailable}
	for range maxPings {
		if err := framer.WritePing(false, [8]byte{}); err != nil {
			break // it has hung up
		}
	}
	for {
		f, err := framer.ReadFrame()
		if errors.Is(err, io.EOF) || err != nil && a.Message != "" {
			return a, nil
		}
		if err != nil {
			return a, fmt.Errorf("no words of farewell: %w", err)
		}
		if away, ok := f.(*http2.GoAwayFrame); ok && away.ErrCode != http2.ErrCodeNo {
			a.Message = fmt.Sprintf("%s %q", away.ErrCode, away.DebugData())
			return a, nil
		}
	}
}
