package etcdapi

import (
	"fmt"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/grpc/grpclog"
)

// LogGRPC makes gRPC, and the JSON gateway on it, log to log; without it they write
// their errors to stderr as plain text. It holds for the whole process, and must be
// called before the first Server is made.
func LogGRPC(log *zap.Logger) { grpclog.SetLoggerV2(grpcLog{log.Sugar()}) }

// grpcLog is gRPC's logger. What gRPC calls an error is most often a client that went
// away or sent what cannot be read, which is no failure of the server: it is a warning.
// All else of gRPC's is for those who look for its mistakes.
type grpcLog struct{ log *zap.SugaredLogger }

// unreadable begins the gateway's message of a request in a stream that is no JSON. A
// piece of the request follows it.
const unreadable = "Failed to decode request"

func (l grpcLog) Info(args ...any)                    { l.log.Debug(args...) }
func (l grpcLog) Infoln(args ...any)                  { l.log.Debugln(args...) }
func (l grpcLog) Infof(format string, args ...any)    { l.log.Debugf(format, args...) }
func (l grpcLog) Warning(args ...any)                 { l.log.Debug(args...) }
func (l grpcLog) Warningln(args ...any)               { l.log.Debugln(args...) }
func (l grpcLog) Warningf(format string, args ...any) { l.log.Debugf(format, args...) }

func (l grpcLog) Error(args ...any)                 { l.warn(fmt.Sprint(args...)) }
func (l grpcLog) Errorln(args ...any)               { l.warn(strings.TrimSuffix(fmt.Sprintln(args...), "\n")) }
func (l grpcLog) Errorf(format string, args ...any) { l.warn(fmt.Sprintf(format, args...)) }

// gRPC ends the process after these.
func (l grpcLog) Fatal(args ...any)                 { l.log.Error(args...) }
func (l grpcLog) Fatalln(args ...any)               { l.log.Errorln(args...) }
func (l grpcLog) Fatalf(format string, args ...any) { l.log.Errorf(format, args...) }

// V tells that nothing is wanted beyond the plain messages.
func (l grpcLog) V(level int) bool { return level <= 0 }

// warn logs, without what a client sent.
func (l grpcLog) warn(text string) {
	if strings.HasPrefix(text, unreadable) {
		text = unreadable
	}
	l.log.Warnw("grpc", "event", text)
}
