package etcdapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/backends"
)

// healthTimeout is how long a health check may take: what etcd allows a request
// with its default election time-out (server/config, ReqTimeout).
const healthTimeout = 7 * time.Second

// healthKey is what health checks read. It need not exist.
const healthKey = "health"

// healthCheck is a named part of /livez or /readyz.
type healthCheck struct {
	name string
	run  func(*Server, context.Context) error
}

func livezChecks() []healthCheck {
	return []healthCheck{{"serializable_read", (*Server).checkSerializable}}
}

func readyzChecks() []healthCheck {
	return []healthCheck{
		{"data_corruption", (*Server).checkCorruption},
		{"serializable_read", (*Server).checkSerializable},
		{"linearizable_read", (*Server).checkLinearizable},
		{"non_learner", (*Server).checkVoter},
	}
}

func (s *Server) handleHealth(mux *http.ServeMux) {
	mux.HandleFunc("/health", s.serveHealth)
	for kind, checks := range map[string][]healthCheck{"livez": livezChecks(), "readyz": readyzChecks()} {
		mux.HandleFunc("/"+kind, func(w http.ResponseWriter, r *http.Request) {
			s.serveChecks(w, r, kind, s.without(checks, r.URL.Query()["exclude"]))
		})
		for _, c := range checks {
			mux.HandleFunc("/"+kind+"/"+c.name, func(w http.ResponseWriter, r *http.Request) {
				s.serveChecks(w, r, kind, []healthCheck{c})
			})
		}
	}
}

// without leaves out what is excluded. Names that no check has are no fault: they may
// be another version's.
func (s *Server) without(checks []healthCheck, excluded []string) []healthCheck {
	var left []healthCheck
	unknown := slices.DeleteFunc(slices.Clone(excluded), func(name string) bool { return name == "" })
	for _, c := range checks {
		if slices.Contains(excluded, c.name) {
			unknown = slices.DeleteFunc(unknown, func(name string) bool { return name == c.name })
			continue
		}
		left = append(left, c)
	}
	if len(unknown) > 0 {
		s.log.Warn("some health checks cannot be excluded", zap.Strings("missing-health-checks", unknown))
	}
	return left
}

// serveHealth answers as etcd's /health (etcdhttp/health.go, NewHealthHandler).
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !allowGet(w, r) {
		return
	}
	query := r.URL.Query()
	reason := s.unhealthy(r.Context(), query["exclude"], query.Get("serializable") == "true")
	answer := struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{"true", reason}
	if reason == "" {
		s.metrics.healthOK.Inc()
		s.write(w, mustJSON(answer))
		return
	}
	s.metrics.healthFailed.Inc()
	answer.Health = "false"
	body := string(mustJSON(answer))
	s.log.Warn("/health error", zap.String("output", body), zap.Int("status-code", http.StatusServiceUnavailable))
	http.Error(w, body, http.StatusServiceUnavailable)
}

// unhealthy tells why requests cannot be served; empty when they can.
func (s *Server) unhealthy(ctx context.Context, excluded []string, serializable bool) string {
	st, err := s.backend.Status(ctx)
	if notOfAuth(err) != nil {
		return "RANGE ERROR:" + s.reason(err)
	}
	for _, a := range st.Alarms {
		if name := alarmName(a.Kind); !slices.Contains(excluded, name) {
			s.log.Warn("serving /health false due to an alarm", zap.String("alarm", name), zap.String("member-id", strconv.FormatUint(a.MemberID, 16)))
			return "ALARM " + name
		}
	}
	if !serializable && st.Leader == 0 && st.Header.Term != 0 {
		s.log.Warn("serving /health false; no leader")
		return "RAFT NO LEADER"
	}
	if err := s.read(ctx, serializable); err != nil {
		s.log.Warn("serving /health false; Range fails", zap.Error(err))
		return "RANGE ERROR:" + s.reason(err)
	}
	return ""
}

func alarmName(k backends.AlarmKind) string {
	switch k {
	case backends.AlarmNoSpace:
		return "NOSPACE"
	case backends.AlarmCorrupt:
		return "CORRUPT"
	}
	return "UNKNOWN"
}

// serveChecks runs checks and answers as etcd's /livez and /readyz do
// (etcdhttp/health.go, newHealthHandler).
func (s *Server) serveChecks(w http.ResponseWriter, r *http.Request, kind string, checks []healthCheck) {
	if !allowGet(w, r) {
		return
	}
	var report bytes.Buffer
	failed := false
	for _, c := range checks {
		outcome, value := "success", 1.0
		if err := c.run(s, r.Context()); err != nil {
			outcome, value, failed = "error", 0, true
			fmt.Fprintf(&report, "[-]%s failed: %s\n", c.name, s.reason(err))
		} else {
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
		s.metrics.healthCheck.WithLabelValues(kind, c.name).Set(value)
		s.metrics.healthChecks.WithLabelValues(kind, c.name, outcome).Inc()
	}
	if failed {
		s.log.Error("Health check error", zap.String("path", r.URL.Path), zap.String("reason", report.String()),
			zap.Int("status-code", http.StatusServiceUnavailable))
		http.Error(w, report.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	body := []byte("ok\n")
	if r.URL.Query().Has("verbose") {
		body = append(report.Bytes(), body...)
	}
	s.write(w, body)
}

// reason is an error's text as a client would see it.
func (s *Server) reason(err error) string { return status.Convert(s.wireError(err)).Message() }

// read reads one key and throws it away.
func (s *Server) read(ctx context.Context, serializable bool) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	caller, err := s.healthCaller(ctx)
	if err != nil {
		return err
	}
	cur, err := s.backend.Range(ctx, &backends.RangeRequest{
		RangeOptions: backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte(healthKey)}, Limit: 1, KeysOnly: true},
		Serializable: serializable, Caller: caller,
	})
	if err != nil {
		return notOfAuth(err)
	}
	var d drained
	if err := drain(ctx, cur, &claim{account: s.budget.account()}, &d); err != nil {
		return notOfAuth(err)
	}
	d.release()
	return nil
}

// notOfAuth is err, unless it says that the key may not be read: it could have been
// read then. So says a server behind this one, which does not know of healthCaller.
func notOfAuth(err error) error {
	if isOfAuth(err) {
		return nil
	}
	return err
}

// healthCaller is root, as for etcd's checks, whoever asks: nothing of what is read is
// told. Its name stands where a certificate's would, since it has no token.
func (s *Server) healthCaller(ctx context.Context) (backends.Caller, error) {
	if s.auth == nil {
		return backends.Caller{}, nil
	}
	return s.auth.Identify(ctx, backends.Caller{Certified: true, CertName: "root"})
}

func (s *Server) checkSerializable(ctx context.Context) error { return s.read(ctx, true) }
func (s *Server) checkLinearizable(ctx context.Context) error { return s.read(ctx, false) }

func (s *Server) checkCorruption(ctx context.Context) error {
	st, err := s.backend.Status(ctx)
	if notOfAuth(err) != nil {
		return err
	}
	for _, a := range st.Alarms {
		if a.Kind == backends.AlarmCorrupt {
			return errors.New("alarm activated: CORRUPT")
		}
	}
	return nil
}

func (s *Server) checkVoter(ctx context.Context) error {
	st, err := s.backend.Status(ctx)
	if notOfAuth(err) != nil {
		return err
	}
	if st.Learner {
		return errors.New("not supported for learner")
	}
	return nil
}
