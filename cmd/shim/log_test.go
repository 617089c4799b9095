package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// TestLogOutputs ensures etcd's rules for combining outputs.
func TestLogOutputs(t *testing.T) {
	for _, c := range []struct {
		flag   string
		rotate bool
		want   []string // nil: refused
	}{
		{"default", false, []string{"stderr"}},
		{"", false, []string{"stderr"}},
		{"stdout,stderr,stdout", false, []string{"stderr", "stdout"}},
		{"/a,stderr", false, []string{"/a", "stderr"}},
		{"/a,/dev/null", false, []string{"/dev/null"}},
		{"default,stdout", false, nil},
		{"systemd/journal", false, []string{"systemd/journal"}},
		{"systemd/journal,stderr", false, nil},
		{"/a,,/b", false, nil},
		{"/a", true, []string{"/a"}},
		{"/a,stderr", true, []string{"/a", "stderr"}},
		{"/a,/b", true, nil},
		{"default", true, nil},
		{"systemd/journal", true, nil},
	} {
		_, s, err := parse(nil, "--log-outputs="+c.flag)
		if err != nil {
			t.Fatal(err)
		}
		o := s.logOptions()
		o.rotate = c.rotate
		got, err := logOutputs(o)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%q, rotate %v: %v, %v; want %v", c.flag, c.rotate, got, err, c.want)
		}
	}
}

// TestLogLines ensures that lines have etcd's keys, level and time, in files too.
func TestLogLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, closeLog, err := newLogger(logOptions{level: "warn", format: "json", outputs: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not this one")
	log.Warn("this one", zap.Int("n", 1))
	log.Error("an error")
	closeLog()
	var line, last struct {
		Level, TS, Caller, Msg string
		N                      int
		Stacktrace             string
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content, rest, _ := bytes.Cut(whole, []byte("\n"))
	if err := json.Unmarshal(rest, &last); err != nil || !strings.Contains(last.Stacktrace, "TestLogLines") {
		t.Errorf("an error's line is %s, %v", rest, err)
	}
	if err := json.Unmarshal(content, &line); err != nil {
		t.Fatalf("%q: %v", content, err)
	}
	if line.Level != "warn" || line.Msg != "this one" || line.N != 1 || line.Stacktrace != "" || !strings.HasPrefix(line.Caller, "shim/log_test.go:") || len(line.TS) < len("2006-01-02T15:04:05.000000Z") {
		t.Errorf("line is %s", content)
	}
	for _, o := range []logOptions{{level: "loud", format: "json"}, {level: "info", format: "xml"},
		{level: "info", format: "json", outputs: []string{filepath.Join(path, "below a file")}},
		{level: "info", format: "json", outputs: []string{path}, rotate: true, rotation: "{"},
		{level: "info", format: "json", outputs: []string{path}, rotate: true, rotation: "{} {"},
		{level: "info", format: "json", outputs: []string{path}, rotate: true, rotation: `{"maxsize": "x"}`},
		{level: "info", format: "json", outputs: []string{path}, rotate: true, rotation: `{"maxage": -1}`}} {
		if _, _, err := newLogger(o); err == nil {
			t.Errorf("%+v makes a logger", o)
		}
	}
}

// TestLogRotation ensures that a file is rotated at its size, and that no line is
// lost.
func TestLogRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	log, closeLog, err := newLogger(logOptions{level: "info", format: "console", outputs: []string{path}, rotate: true, rotation: `{"maxsize": 1}`})
	if err != nil {
		t.Fatal(err)
	}
	const lines = 70 // below what is sampled
	for range lines {
		log.Info("line", zap.String("filler", strings.Repeat("x", 20<<10)))
	}
	closeLog()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if len(content) > 1<<20 {
			t.Errorf("%s has %d bytes", e.Name(), len(content))
		}
		found += strings.Count(string(content), "\n")
	}
	if len(entries) != 2 || found != lines {
		t.Errorf("%d files with %d of %d lines", len(entries), found, lines)
	}
}

// TestJournal ensures that lines reach the journal with their priority, and stderr
// when the journal does not take them.
func TestJournal(t *testing.T) {
	encoder, err := logEncoder("console")
	if err != nil {
		t.Fatal(err)
	}
	type sent struct {
		message  string
		priority journal.Priority
		fields   map[string]string
	}
	var got []sent
	var broken error
	var left strings.Builder
	core := &journalCore{
		LevelEnabler: zapcore.InfoLevel, encoder: encoder, fallback: zapcore.AddSync(&left),
		send: func(message string, p journal.Priority, fields map[string]string) error {
			if broken == nil {
				got = append(got, sent{message, p, fields})
			}
			return broken
		},
	}
	log := zap.New(core, zap.AddCaller()).With(zap.String("with", "w"))
	log.Debug("a")
	log.Info("b")
	log.Warn("c")
	log.Error("d")
	broken = errors.New("broken")
	log.Warn("e")
	var priorities []journal.Priority
	for _, s := range got {
		priorities = append(priorities, s.priority)
		if s.fields["SYSLOG_IDENTIFIER"] == "" || s.fields["PACKAGE"] != "shim" || !strings.Contains(s.message, `"with": "w"`) {
			t.Errorf("sent %+v", s)
		}
	}
	if !slices.Equal(priorities, []journal.Priority{journal.PriInfo, journal.PriWarning, journal.PriErr}) {
		t.Errorf("priorities are %v", priorities)
	}
	if strings.Count(left.String(), "\n") != 1 || !strings.Contains(left.String(), "e") {
		t.Errorf("stderr has %q", left.String())
	}
	if _, err := os.Stat(journalSocket); errors.Is(err, os.ErrNotExist) {
		if _, _, err := newLogger(logOptions{level: "info", format: "json", outputs: []string{"systemd/journal"}}); err == nil {
			t.Error("a logger for the journal without a journal")
		}
	}
}

// TestLogOfGateway ensures that what goes wrong in a stream of JSON is logged as all
// else, and without what the client sent: gRPC's own logger wrote plain text with a
// piece of the request. As in etcd such a stream waits for more, until its client goes.
func TestLogOfGateway(t *testing.T) {
	port := freePorts(t, 1)[0]
	p := run(t, "", fmt.Sprintf("--listen-client-urls=http://127.0.0.1:%d", port))
	p.await()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v3/watch", port), strings.NewReader(`{"key": geheim}`))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer cancel()
		for ctx.Err() == nil && !strings.Contains(p.log(), "Failed to decode request") {
			time.Sleep(10 * time.Millisecond) // its log is another process's
		}
	}()
	if answer, err := http.DefaultClient.Do(r); err == nil {
		_ = answer.Body.Close()
		t.Errorf("it was answered with %s", answer.Status)
	}
	p.stop()
	if said := p.log(); !strings.Contains(said, `"event":"Failed to decode request"`) || strings.Contains(said, "geheim") {
		t.Error("it is not logged, or with what was sent")
	}
}
