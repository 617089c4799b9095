package hostile

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/rig"
)

// resources are what a server occupies.
type resources struct {
	goroutines, files int
}

// resourcesOf asks the server's metrics.
func resourcesOf(t *testing.T, s *rig.Server) resources {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var r resources
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "go_goroutines":
			r.goroutines = int(n)
		case "process_open_fds":
			r.files = int(n)
		}
	}
	if r.goroutines == 0 || r.files == 0 {
		t.Fatal("the metrics tell neither goroutines nor files")
	}
	return r
}

// awaitRelease waits until the server occupies about what it did before.
func awaitRelease(t *testing.T, s *rig.Server, before resources) {
	t.Helper()
	const slack = 20 // the runtime's own, and the asking
	var now resources
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		now = resourcesOf(t, s)
		if now.goroutines <= before.goroutines+slack && now.files <= before.files+slack {
			return
		}
	}
	t.Errorf("30 s after the clients left: %d goroutines, %d files; before: %d and %d", now.goroutines, now.files, before.goroutines, before.files)
}

// memory reads a field of the process's status in bytes: VmRSS now, VmHWM at the
// most since resetPeak.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s in the status", field)
	return 0
}

// resetPeak makes VmHWM begin anew.
func resetPeak(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}
