package rig

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Root is the directory of shim's root module, found upwards from the working
// directory, which is a test's package directory.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module github.com/etcdshim/shim\n")) {
			return dir
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the root module is in no directory above this one")
		}
	}
}

// Build builds the shim of this checkout into a directory of the test and returns
// its path. More arguments go to go build, such as -tags or -overlay.
func Build(t testing.TB, args ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "shim")
	cmd := exec.Command("go", append(append([]string{"build", "-o", bin}, args...), "./cmd/shim")...)
	cmd.Dir = Root(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %q: %v\n%s", args, err, out)
	}
	return bin
}
