// Package tidy holds the repository to its own rules: who may import what, and
// what may not stand in a file. Rules that golangci-lint knows are in
// .golangci.yml; the rest is here.
package tidy

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/etcdshim/shim"

// packageImports lists, for each package directory of the root module, the
// packages of this module that its ordinary (not test) files may import. A
// directory that is not listed fails: decide where it stands first. A trailing
// /... allows everything below.
var packageImports = map[string][]string{
	"backends":                           {},
	"backends/memory":                    {"backends"},
	"backends/etcd":                      {"backends"},
	"backends/raftbolt":                  {"backends", "backends/raftbolt/internal/...", "internal/failpoint"},
	"backends/raftbolt/internal/wal":     {"internal/failpoint"},
	"backends/raftbolt/internal/peer":    {},
	"backends/raftbolt/internal/replica": {"backends/raftbolt/internal/wal", "backends/raftbolt/internal/peer"},
	"backends/raftbolt/internal/mvcc":    {"backends", "internal/failpoint"},
	"backends/raftbolt/internal/lease":   {"backends"},
	"backends/raftbolt/internal/auth":    {"backends"},
	"etcdapi":                            {"backends"},
	"conformance":                        {"backends", "etcdapi", "backends/memory"},
	"cmd/shim":                           {"..."},
	"internal/failpoint":                 {},
	"internal/tlsconf":                   {},
	"internal/tidy":                      {},
}

// thirdParty lists which package directories may import a third party's packages.
// The longest matching prefix decides; what is not listed may be imported
// anywhere.
var thirdParty = map[string][]string{
	"google.golang.org/grpc":    {"etcdapi", "backends/raftbolt/internal/peer", "backends/etcd", "conformance"},
	"go.etcd.io/raft":           {"backends/raftbolt/internal/replica", "backends/raftbolt/internal/wal", "backends/raftbolt/internal/peer"},
	"go.etcd.io/bbolt":          {"backends/raftbolt/internal/mvcc"},
	"github.com/k3s-io/kine":    {"backends/kine"},
	"github.com/urfave/cli":     {"cmd/shim"},
	"github.com/golang-jwt/jwt": {"backends/raftbolt/internal/auth"},
	"golang.org/x/crypto":       {"backends/raftbolt/internal/auth"},
	"go.etcd.io/etcd/client":    {},
	"go.etcd.io/etcd/server":    {},
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb":         {"etcdapi", "conformance"}, // with its gateway
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb": {"etcdapi", "conformance"},
	"github.com/grpc-ecosystem/grpc-gateway":                           {"etcdapi"},
	"github.com/tmc/grpc-websocket-proxy":                              {"etcdapi"},
	"github.com/gorilla/websocket":                                     {"etcdapi"},
	"google.golang.org/genproto":                                       {"etcdapi"},
	"golang.org/x/net":                                                 {"etcdapi"},
	"golang.org/x/sys":                                                 {"cmd/shim"},
	"github.com/coreos/go-systemd":                                     {"cmd/shim"},
	"gopkg.in/natefinch/lumberjack.v2":                                 {"cmd/shim"},
	"sigs.k8s.io/yaml":                                                 {"cmd/shim"},
	"k8s.io":                                                           {},
	"github.com/prometheus/client_golang":                              {"backends", "backends/raftbolt", "etcdapi", "conformance", "cmd/shim"},
}

// goFile is a parsed file of the root module.
type goFile struct {
	path, dir string
	test      bool
	imports   []string
	text      string
}

// rootFiles reads every Go file of the root module; nested modules are left out.
func rootFiles(t *testing.T) []goFile {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var files []goFile
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := os.Stat(filepath.Join(path, "go.mod"))
			if path != root && (nested == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		file := goFile{path: rel, dir: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(path, "_test.go"), text: string(text)}
		for _, imp := range f.Imports {
			p, _ := strconv.Unquote(imp.Path.Value)
			file.imports = append(file.imports, p)
		}
		files = append(files, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("found %d Go files below %s: the walk is broken", len(files), root)
	}
	return files
}

// allowed tells whether dir is in list, where "a/..." stands for everything below a.
func allowed(list []string, dir string) bool {
	return slices.ContainsFunc(list, func(a string) bool {
		if below, ok := strings.CutSuffix(a, "..."); ok {
			return strings.HasPrefix(dir, below)
		}
		return a == dir
	})
}

// TestImportOrder ensures that packages of this module import only those below
// them. Tests may import more: they look at a package from above.
func TestImportOrder(t *testing.T) {
	for _, f := range rootFiles(t) {
		list, known := packageImports[f.dir]
		if !known {
			t.Errorf("%s: package directory %q has no place in the import order; add it to packageImports deliberately", f.path, f.dir)
			continue
		}
		if f.test {
			continue
		}
		for _, imp := range f.imports {
			dir, ours := strings.CutPrefix(imp, module+"/")
			if ours && !allowed(list, dir) {
				t.Errorf("%s imports %s; %s may import %v", f.path, dir, f.dir, list)
			}
		}
	}
}

// TestThirdParties ensures that each dependency is used only in its room.
func TestThirdParties(t *testing.T) {
	for _, f := range rootFiles(t) {
		if f.test {
			continue
		}
		for _, imp := range f.imports {
			longest := ""
			for prefix := range thirdParty {
				if (imp == prefix || strings.HasPrefix(imp, prefix+"/")) && len(prefix) > len(longest) {
					longest = prefix
				}
			}
			if dirs := thirdParty[longest]; longest != "" && !allowed(dirs, f.dir) {
				t.Errorf("%s imports %s; only %v may", f.path, imp, dirs)
			}
		}
	}
}

// TestNames ensures that no package has a name that says nothing.
func TestNames(t *testing.T) {
	for _, f := range rootFiles(t) {
		for _, part := range strings.Split(f.dir, "/") {
			if slices.Contains([]string{"util", "utils", "common", "types", "helpers", "misc", "base"}, part) {
				t.Errorf("%s: a package named %q says nothing about what it is", f.path, part)
			}
		}
	}
}

// maxFileLines is where a file has more than one noun in it.
const maxFileLines = 700

// TestFileLength ensures that ordinary files stay readable at one sitting.
func TestFileLength(t *testing.T) {
	for _, f := range rootFiles(t) {
		if n := strings.Count(f.text, "\n"); !f.test && n > maxFileLines {
			t.Errorf("%s has %d lines, more than %d: split it by noun", f.path, n, maxFileLines)
		}
	}
}

// TestDefaultRegistry ensures that metrics go to the registry of Env, and logs to
// its logger, never to a global one.
func TestDefaultRegistry(t *testing.T) {
	for _, f := range rootFiles(t) {
		if f.dir == "internal/tidy" {
			continue
		}
		for _, word := range []string{"prometheus.MustRegister(", "prometheus.DefaultRegisterer", "promauto.New", "zap.L()", "zap.ReplaceGlobals"} {
			if strings.Contains(f.text, word) {
				t.Errorf("%s uses %s: globals are not ours to use", f.path, word)
			}
		}
	}
}
