package clients

import (
	"os/exec"
	"strings"
	"testing"
)

// TestNodeClient: the flow of the npm client etcd3 (node/flow.js). It needs node and npm, and the
// registry once.
func TestNodeClient(t *testing.T) {
	install := exec.CommandContext(t.Context(), "npm", "ci", "--prefer-offline", "--no-audit", "--no-fund")
	install.Dir = "node"
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	each(t, func(f *flow) {
		run := exec.CommandContext(f.ctx, "node", "flow.js", f.server.Address)
		run.Dir = "node"
		out, err := run.CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "\ndone\n") {
			f.Errorf("%v\n%s", err, out)
		}
	})
}
