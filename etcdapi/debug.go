package etcdapi

import (
	"expvar"
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/net/trace"

	"github.com/etcdshim/shim/backends"
)

// handleDebug serves what etcd serves for debugging: the process's variables always,
// traces while the log shows debug lines, profiles when they were asked for.
// Nothing is traced unless grpc.EnableTracing was set, which nobody does here, since
// traces hold keys and values: the pages are there, and empty.
func (s *Server) handleDebug(mux *http.ServeMux) {
	mux.HandleFunc("/debug/vars", s.serveVars)
	if s.log.Core().Enabled(zap.DebugLevel) {
		mux.HandleFunc("/debug/requests", func(w http.ResponseWriter, r *http.Request) { trace.Render(w, r, true) })
		mux.HandleFunc("/debug/events", func(w http.ResponseWriter, r *http.Request) { trace.RenderEvents(w, r, true) })
	}
	if s.cfg.EnablePprof {
		const prefix = "/debug/pprof/"
		mux.HandleFunc(prefix, pprof.Index) // every profile by its name, too
		mux.HandleFunc(prefix+"profile", pprof.Profile)
		mux.HandleFunc(prefix+"symbol", pprof.Symbol)
		mux.HandleFunc(prefix+"cmdline", s.serveCommandLine)
		mux.HandleFunc(prefix+"trace", pprof.Trace)
	}
}

// serveVars answers as etcd's /debug/vars (etcdhttp/debug.go): the variables of the
// process, and raft's state under etcd's name.
func (s *Server) serveVars(w http.ResponseWriter, r *http.Request) {
	if !allowGet(w, r) {
		return
	}
	vars := map[string]string{}
	expvar.Do(func(v expvar.KeyValue) { vars[v.Key] = v.Value.String() })
	vars["cmdline"] = string(mustJSON(commandLine()))
	if _, limit, ok := openFiles(); ok {
		vars["file_descriptor_limit"] = fmt.Sprint(limit)
	}
	if st, err := s.backend.Status(r.Context()); err == nil && st.Header.Term != 0 {
		vars["raft.status"] = string(mustJSON(newRaftStatus(&st)))
	}
	names := make([]string, 0, len(vars))
	for name := range vars {
		names = append(names, name)
	}
	slices.Sort(names)
	fields := make([]string, len(names))
	for i, name := range names {
		fields[i] = fmt.Sprintf("%q: %s", name, vars[name])
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	s.write(w, []byte("{\n"+strings.Join(fields, ",\n")+"\n}\n"))
}

// raftStatus is what /debug/vars tells of raft, in the shape of raft's own Status
// (go.etcd.io/raft, status.go, MarshalJSON) as far as a backend knows it. Ids are
// hexadecimal.
type raftStatus struct {
	ID      string `json:"id"`
	Term    uint64 `json:"term"`
	Commit  uint64 `json:"commit"`
	Lead    string `json:"lead"`
	State   string `json:"raftState"`
	Applied uint64 `json:"applied"`
}

func newRaftStatus(st *backends.Status) raftStatus {
	r := raftStatus{
		ID: fmt.Sprintf("%x", st.Header.MemberID), Term: st.Header.Term, Commit: st.RaftIndex,
		Lead: fmt.Sprintf("%x", st.Leader), State: "StateFollower", Applied: st.AppliedIndex,
	}
	if st.Leader == st.Header.MemberID {
		r.State = "StateLeader"
	}
	return r
}

// serveCommandLine answers as pprof.Cmdline does, without passwords.
func (s *Server) serveCommandLine(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	s.write(w, []byte(strings.Join(commandLine(), "\x00")))
}

// commandLine is the process's, without the passwords of URLs.
func commandLine() []string {
	password := regexp.MustCompile(`://([^/@:]*):[^/@]*@`)
	args := make([]string, len(os.Args))
	for i, a := range os.Args {
		args[i] = password.ReplaceAllString(a, "://$1:xxxxx@")
	}
	return args
}
