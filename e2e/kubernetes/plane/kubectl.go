package plane

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/etcdshim/shim/e2e/kubernetes/internal/proc"
)

// KubectlCommand is a kubectl against this control plane, not yet started.
func (p *Plane) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	all := append([]string{"--kubeconfig=" + p.kubeconfig, "--cache-dir=" + filepath.Join(p.cfg.Dir, "kubectl-cache")}, args...)
	return proc.Command(ctx, filepath.Join(p.cfg.BinDir, "kubectl"), all...)
}

// Kubectl runs kubectl with input on its standard input and returns its standard output. The error holds what it wrote to standard error.
func (p *Plane) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := p.KubectlCommand(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), nil
}
