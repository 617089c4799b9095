package etcd

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// everyFormat is what -w takes where a command prints an answer of the server.
var everyFormat = []string{"simple", "json", "fields", "protobuf", "table"}

// form is the output format that a turn asks for.
func (s turn) form() string {
	form := "simple"
	for i, a := range s.args {
		switch value, isFlag := strings.CutPrefix(a, "--write-out="); {
		case a == "--":
			return form
		case isFlag:
			form = value
		case a == "-w" && i+1 < len(s.args):
			form = s.args[i+1]
		case strings.HasPrefix(a, "-w="):
			form = a[len("-w="):]
		}
	}
	return form
}

// afterColon is white space that differs from build to build.
var afterColon = regexp.MustCompile(`(?m)^( *[A-Za-z_0-9]+:) +`)

// readable is what a turn printed; of a message, its text, with what its type does not know.
func (s turn) readable(o outcome) (string, error) {
	if s.message == nil || s.form() != "protobuf" || o.exit != 0 {
		return o.stdout, nil
	}
	m := proto.Clone(s.message)
	proto.Reset(m)
	if err := proto.Unmarshal([]byte(o.stdout), m); err != nil {
		return "", fmt.Errorf("stdout %q is no %T: %w", o.stdout, m, err)
	}
	text := prototext.MarshalOptions{Multiline: true, EmitUnknown: true}.Format(m)
	return afterColon.ReplaceAllString(text, "$1 "), nil
}

// readMessages reads until there is a message with a text in it. etcdctl writes each
// in one piece, which a pipe keeps together up to 4,096 bytes.
func readMessages(r io.Reader, until string) (string, error) {
	var got []byte
	piece := make([]byte, 4096)
	for {
		n, err := r.Read(piece)
		if got = append(got, piece[:n]...); bytes.Contains(got, []byte(until)) {
			return string(got), nil
		}
		if err != nil {
			return string(got), fmt.Errorf("stdout ended before %q came: %w", until, err)
		}
	}
}

// TestEtcdctlForms ensures that the form of a turn is read from its arguments, and that
// a message is compared whole.
func TestEtcdctlForms(t *testing.T) {
	for args, want := range map[string]string{
		"get k": "simple", "get k -w json": "json", "get k -w=fields": "fields", "--write-out=table get k": "table", "watch k -- -w json": "simple",
		"get k -w": "simple",
	} {
		if got := run(args).form(); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
	sent := &pb.MemberListResponse{Header: &pb.ResponseHeader{ClusterId: 7, Revision: 3}, Members: []*pb.Member{{ID: 12345, Name: "a"}}}
	b, err := proto.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	s := run("member list -w protobuf").as(&pb.MemberListResponse{Members: []*pb.Member{{ID: 1}}})
	// Twice in a row, and with a field that the type does not have.
	text, err := s.readable(outcome{stdout: string(slices.Concat(b, b, []byte{0xf8, 0x07, 0x2a}))})
	if err != nil || strings.Count(text, "ID: 12345\n") != 2 || strings.Count(text, "revision: 3\n") != 1 || !strings.Contains(text, "127: 42") {
		t.Errorf("%v, text\n%s", err, text)
	}
	if text, err := s.readable(outcome{stdout: "no message"}); err == nil {
		t.Errorf("read %q", text)
	}
	if text, err := s.readable(outcome{stdout: "no message", exit: 1}); err != nil || text != "no message" {
		t.Errorf("of a failure: %q, %v", text, err)
	}
	if got, err := readMessages(bytes.NewReader(b), "nothing like it"); err == nil || got != string(b) {
		t.Errorf("read %q, %v", got, err)
	}
}
