package rig

import (
	"errors"
	"os/exec"
	"testing"
)

// Check runs `shim check DIR` with the given program, no server running on dir,
// and fails the test when it finds anything, or cannot look.
func Check(t testing.TB, bin, dir string) {
	t.Helper()
	out, code := RunCheck(t, bin, dir)
	if code != 0 {
		t.Fatalf("shim check %s: exit code %d\n%s", dir, code, out)
	}
}

// RunCheck runs `shim check DIR` and returns what it printed and its exit code: 0
// clean, 1 damage found, 2 could not look.
func RunCheck(t testing.TB, bin, dir string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(bin, "check", dir)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("shim check: %v", err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}
