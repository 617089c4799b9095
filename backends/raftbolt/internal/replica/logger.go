package replica

import (
	"fmt"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// raftLogger is raft's logger over zap. Nothing is formatted that is not logged.
type raftLogger struct{ log *zap.Logger }

func (l raftLogger) line(level zapcore.Level, format string, v []any) {
	if !l.log.Core().Enabled(level) {
		return
	}
	if format == "" {
		l.log.Log(level, fmt.Sprint(v...))
		return
	}
	l.log.Log(level, fmt.Sprintf(format, v...))
}

func (l raftLogger) Debug(v ...any)                   { l.line(zap.DebugLevel, "", v) }
func (l raftLogger) Debugf(format string, v ...any)   { l.line(zap.DebugLevel, format, v) }
func (l raftLogger) Info(v ...any)                    { l.line(zap.InfoLevel, "", v) }
func (l raftLogger) Infof(format string, v ...any)    { l.line(zap.InfoLevel, format, v) }
func (l raftLogger) Warning(v ...any)                 { l.line(zap.WarnLevel, "", v) }
func (l raftLogger) Warningf(format string, v ...any) { l.line(zap.WarnLevel, format, v) }
func (l raftLogger) Error(v ...any)                   { l.line(zap.ErrorLevel, "", v) }
func (l raftLogger) Errorf(format string, v ...any)   { l.line(zap.ErrorLevel, format, v) }

// Fatal and Panic stop by panicking: raft calls them when its state cannot be trusted any more.
func (l raftLogger) Fatal(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
