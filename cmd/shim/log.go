package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logTime is the time stamp of etcd's log lines (client/pkg/logutil, 3.7.3).
const logTime = "2006-01-02T15:04:05.999999Z0700"

// newLogger makes the logger of the flags log-level, log-format and log-outputs,
// with etcd's keys: level, ts, caller, msg.
func newLogger(level, format, outputs string) (*zap.Logger, error) {
	lvl, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	if !slices.Contains([]string{"json", "console"}, format) {
		return nil, fmt.Errorf("--log-format: unknown format %q (json, console)", format)
	}
	var paths []string
	for _, out := range strings.Split(outputs, ",") {
		switch out = strings.TrimSpace(out); out {
		case "", "default":
			out = "stderr"
		case "systemd/journal":
			return nil, fmt.Errorf("--log-outputs: systemd/journal is not built yet (stderr reaches the journal)")
		}
		if !slices.Contains(paths, out) {
			paths = append(paths, out)
		}
	}
	return zap.Config{
		Level:    zap.NewAtomicLevelAt(lvl),
		Encoding: format,
		EncoderConfig: zapcore.EncoderConfig{
			TimeKey: "ts", LevelKey: "level", NameKey: "logger", CallerKey: "caller", MessageKey: "msg", StacktraceKey: "stacktrace",
			LineEnding:  zapcore.DefaultLineEnding,
			EncodeLevel: zapcore.LowercaseLevelEncoder,
			EncodeTime: func(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
				enc.AppendString(t.Format(logTime))
			},
			EncodeDuration: zapcore.StringDurationEncoder,
			EncodeCaller:   zapcore.ShortCallerEncoder,
		},
		DisableStacktrace: true,
		OutputPaths:       paths,
		ErrorOutputPaths:  []string{"stderr"},
	}.Build()
}
