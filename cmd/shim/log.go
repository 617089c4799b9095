package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/natefinch/lumberjack.v2"
)

// The names of log outputs that are not files.
const (
	outputDefault = "default"
	outputStderr  = "stderr"
	outputStdout  = "stdout"
	outputJournal = "systemd/journal"
	outputNone    = "/dev/null"
)

const (
	// logTime is the time stamp of etcd's log lines (client/pkg/logutil, 3.7.3).
	logTime = "2006-01-02T15:04:05.000000Z0700"
	// Of equal lines in a second the first sampleFirst are logged, then each
	// sampleEvery-th, as in etcd: what repeats must not fill the disk.
	sampleFirst = 100
	sampleEvery = 100
)

// logOptions are the flags of logging.
type logOptions struct {
	level, format string
	outputs       []string
	rotate        bool
	rotation      string // JSON
}

func (s *settings) logOptions() logOptions {
	return logOptions{
		level: s.text("log-level"), format: s.text("log-format"), outputs: s.list("log-outputs"),
		rotate: s.truth("enable-log-rotation"), rotation: s.text("log-rotation-config-json"),
	}
}

// toStderr tells whether the log goes to stderr, beside other places or not.
func (o logOptions) toStderr() bool {
	outputs, err := logOutputs(o)
	return err != nil || slices.Contains(outputs, outputStderr)
}

// newLogger makes the logger of the flags, with etcd's keys (level, ts, caller,
// msg) and etcd's rules (embed/config_logging.go). close ends it: it writes what
// is left and closes files.
func newLogger(o logOptions) (log *zap.Logger, closeLog func(), err error) {
	level, err := zapcore.ParseLevel(o.level)
	if err != nil {
		return nil, nil, fmt.Errorf("--log-level: %w", err)
	}
	encoder, err := logEncoder(o.format)
	if err != nil {
		return nil, nil, err
	}
	outputs, err := logOutputs(o)
	if err != nil {
		return nil, nil, err
	}
	var core zapcore.Core
	errorOutput, closeOutput := zapcore.Lock(os.Stderr), func() {}
	if slices.Equal(outputs, []string{outputJournal}) {
		if core, err = newJournal(encoder, level); err != nil {
			return nil, nil, fmt.Errorf("--log-outputs: %w", err)
		}
	} else {
		sink, closeSink, err := openOutputs(outputs, o)
		if err != nil {
			return nil, nil, fmt.Errorf("--log-outputs: %w", err)
		}
		core, errorOutput, closeOutput = zapcore.NewCore(encoder, sink, level), sink, closeSink
	}
	core = zapcore.NewSamplerWithOptions(core, time.Second, sampleFirst, sampleEvery)
	log = zap.New(core, zap.AddCaller(), zap.AddStacktrace(zapcore.ErrorLevel), zap.ErrorOutput(errorOutput))
	return log, func() { _ = log.Sync(); closeOutput() }, nil // what cannot be synced is a terminal
}

func logEncoder(format string) (zapcore.Encoder, error) {
	keys := zapcore.EncoderConfig{
		TimeKey: "ts", LevelKey: "level", NameKey: "logger", CallerKey: "caller", MessageKey: "msg", StacktraceKey: "stacktrace",
		LineEnding:  zapcore.DefaultLineEnding,
		EncodeLevel: zapcore.LowercaseLevelEncoder,
		EncodeTime: func(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
			enc.AppendString(t.Format(logTime))
		},
		EncodeDuration: zapcore.StringDurationEncoder,
		EncodeCaller:   zapcore.ShortCallerEncoder,
	}
	switch format {
	case "json", "":
		return zapcore.NewJSONEncoder(keys), nil
	case "console":
		return zapcore.NewConsoleEncoder(keys), nil
	}
	return nil, fmt.Errorf("--log-format: unknown format %q (json, console)", format)
}

// logOutputs checks the outputs' combination. The result is sorted, each once.
func logOutputs(o logOptions) ([]string, error) {
	outputs := slices.Clone(o.outputs)
	if len(outputs) == 0 {
		outputs = []string{outputDefault}
	}
	if len(outputs) > 1 && slices.Contains(outputs, outputDefault) {
		return nil, fmt.Errorf("--log-outputs: %q cannot stand beside others", outputDefault)
	}
	if len(outputs) > 1 && slices.Contains(outputs, outputJournal) {
		return nil, fmt.Errorf("--log-outputs: %q cannot stand beside others", outputJournal)
	}
	files := 0
	for i, out := range outputs {
		switch out {
		case "":
			return nil, errors.New("--log-outputs: an empty name")
		case outputDefault:
			outputs[i] = outputStderr
		case outputStderr, outputStdout:
		default:
			files++
		}
	}
	if o.rotate && (files != 1 || outputs[0] == outputJournal) {
		return nil, errors.New("--enable-log-rotation: --log-outputs must name one file")
	}
	if slices.Contains(outputs, outputNone) {
		return []string{outputNone}, nil
	}
	slices.Sort(outputs)
	return slices.Compact(outputs), nil
}

// openOutputs opens outputs that are not the journal; closeAll closes the files.
func openOutputs(outputs []string, o logOptions) (sink zapcore.WriteSyncer, closeAll func(), err error) {
	var plain []string
	var sinks []zapcore.WriteSyncer
	var rotated io.Closer
	for _, out := range outputs {
		if !o.rotate || out == outputStderr || out == outputStdout {
			plain = append(plain, out)
			continue
		}
		file, err := rotatedFile(out, o.rotation)
		if err != nil {
			return nil, nil, err
		}
		rotated = file
		sinks = append(sinks, zapcore.AddSync(file))
	}
	closePlain := func() {}
	if len(plain) > 0 {
		var ws zapcore.WriteSyncer
		if ws, closePlain, err = zap.Open(plain...); err != nil {
			return nil, nil, err
		}
		sinks = append(sinks, ws)
	}
	return zap.CombineWriteSyncers(sinks...), func() {
		closePlain()
		if rotated != nil {
			_ = rotated.Close() // it is the log: there is nowhere to tell it
		}
	}, nil
}

// rotatedFile is a log file that is rotated as a JSON text says, whose keys are
// lumberjack's, as in etcd.
func rotatedFile(path, rotation string) (*lumberjack.Logger, error) {
	file := &lumberjack.Logger{}
	if err := json.Unmarshal([]byte(rotation), file); err != nil {
		return nil, fmt.Errorf("--log-rotation-config-json: %w", err)
	}
	if file.MaxSize < 0 || file.MaxAge < 0 || file.MaxBackups < 0 {
		return nil, fmt.Errorf("--log-rotation-config-json: a negative number in %s", rotation)
	}
	file.Filename = path
	return file, nil
}
