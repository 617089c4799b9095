package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ResultsVariable names the environment variable that, set to 1, makes
// AppendResult write.
const ResultsVariable = "RESULTS"

// AppendResult adds one line to e2e/RESULTS.md if the environment asks for it:
// date, commit, rig, seed, counts and minutes since start. Call it once a rig has
// passed.
func AppendResult(t testing.TB, rig string, seed uint64, start time.Time, counts string) {
	t.Helper()
	if os.Getenv(ResultsVariable) != "1" {
		return
	}
	root := Root(t)
	commit := git(t, root, "rev-parse", "--short=12", "HEAD")
	if git(t, root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!e2e/RESULTS.md") != "" {
		commit += ", changed"
	}
	f, err := os.OpenFile(filepath.Join(root, "e2e", "RESULTS.md"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(f, "| %s | %s | %s | %d | %s | %.1f |\n",
		start.UTC().Format("2006-01-02 15:04"), commit, rig, seed, counts, time.Since(start).Minutes())
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}
