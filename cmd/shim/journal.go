package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// journalSocket is where systemd's journal listens.
const journalSocket = "/run/systemd/journal/socket"

// journalCore sends each log line to systemd's journal, with its priority and the
// fields that etcd sends (client/pkg/logutil, zap_journal.go). A line that the
// journal does not take goes to stderr.
type journalCore struct {
	zapcore.LevelEnabler
	encoder  zapcore.Encoder
	send     func(message string, priority journal.Priority, fields map[string]string) error
	fallback zapcore.WriteSyncer
}

// newJournal fails when there is no journal.
func newJournal(encoder zapcore.Encoder, level zapcore.Level) (zapcore.Core, error) {
	conn, err := net.Dial("unixgram", journalSocket)
	if err != nil {
		return nil, fmt.Errorf("no journal: %w", err)
	}
	_ = conn.Close() // nothing was sent
	return &journalCore{LevelEnabler: level, encoder: encoder, send: journal.Send, fallback: zapcore.Lock(os.Stderr)}, nil
}

// With adds fields to every line.
func (j *journalCore) With(fields []zapcore.Field) zapcore.Core {
	with := *j
	with.encoder = j.encoder.Clone()
	for _, f := range fields {
		f.AddTo(with.encoder)
	}
	return &with
}

// Check adds the journal to those that log the entry.
func (j *journalCore) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if j.Enabled(e.Level) {
		return c.AddCore(e, j)
	}
	return c
}

// Write sends a line.
func (j *journalCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	line, err := j.encoder.EncodeEntry(e, fields)
	if err != nil {
		return err
	}
	defer line.Free()
	err = j.send(line.String(), priorityOf(e.Level), map[string]string{
		"PACKAGE": filepath.Dir(e.Caller.TrimmedPath()), "SYSLOG_IDENTIFIER": filepath.Base(os.Args[0]),
	})
	if err != nil {
		_, err = j.fallback.Write(line.Bytes())
	}
	return err
}

// Sync does nothing: the journal has what was sent.
func (j *journalCore) Sync() error { return nil }

func priorityOf(level zapcore.Level) journal.Priority {
	switch {
	case level <= zapcore.DebugLevel:
		return journal.PriDebug
	case level == zapcore.InfoLevel:
		return journal.PriInfo
	case level == zapcore.WarnLevel:
		return journal.PriWarning
	case level == zapcore.ErrorLevel:
		return journal.PriErr
	}
	return journal.PriCrit
}
