// Command build makes the programs which the tests of this module run, in its bin directory: kube-apiserver, kube-controller-manager,
// kube-scheduler, kubectl, kwok (with its stages.yaml), etcd, and shim from the repository around it.
//
//	go run ./build [-skip shim,etcd]
//
// Everything comes from the Go module proxy, at the versions that the go.mod files here name. A program whose inputs (go.mod, go.sum, Go
// version, flags) have not changed since it was built is left alone; shim is always handed to `go build`, which knows its sources.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// program is one binary to build.
type program struct {
	name   string
	module string // directory of the go.mod that pins it, relative to this module
	pkg    string
	flags  []string
	always bool // hand it to `go build` each time
}

func main() {
	skip := flag.String("skip", "", "comma-separated names of programs not to build")
	flag.Parse()
	if err := run(strings.Split(*skip, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run(skip []string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	programs, err := programs(root)
	if err != nil {
		return err
	}
	for i, p := range programs {
		label := fmt.Sprintf("[%d/%d] %-24s", i+1, len(programs), p.name)
		if slices.Contains(skip, p.name) {
			fmt.Println(label, "skipped")
			continue
		}
		fmt.Println(label, "...")
		start := time.Now()
		built, err := p.build(root, bin)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if built {
			fmt.Printf("%s %.1f min\n", label, time.Since(start).Minutes())
		} else {
			fmt.Println(label, "up to date")
		}
	}
	return writeStages(root, bin)
}

func programs(root string) ([]program, error) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err
	}
	found := regexp.MustCompile(`(?m)^\s*(?:require )?k8s\.io/kubernetes v(\d+)\.(\d+)\.(\S+)`).FindSubmatch(mod)
	if found == nil {
		return nil, fmt.Errorf("no k8s.io/kubernetes in %s/go.mod", root)
	}
	// Without these the programs report v0.0.0-master, and clients refuse features of the version they talk to.
	const version = "-X k8s.io/component-base/version."
	kube := []string{"-ldflags", fmt.Sprintf("-s -w %[1]sgitVersion=v%[2]s.%[3]s.%[4]s %[1]sgitMajor=%[2]s %[1]sgitMinor=%[3]s",
		version, found[1], found[2], found[3])}
	strip := []string{"-ldflags", "-s -w"}
	return []program{
		{name: "kube-apiserver", module: ".", pkg: "k8s.io/kubernetes/cmd/kube-apiserver", flags: kube},
		{name: "kube-controller-manager", module: ".", pkg: "k8s.io/kubernetes/cmd/kube-controller-manager", flags: kube},
		{name: "kube-scheduler", module: ".", pkg: "k8s.io/kubernetes/cmd/kube-scheduler", flags: kube},
		{name: "kubectl", module: ".", pkg: "k8s.io/kubernetes/cmd/kubectl", flags: kube},
		{name: "kwok", module: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok", flags: strip},
		{name: "etcd", module: "etcd", pkg: "go.etcd.io/etcd/server/v3", flags: strip},
		{name: "shim", module: "../..", pkg: "./cmd/shim", always: true},
	}, nil
}

// build reports whether it had to build. The stamp is written after the binary, so an interrupted build is repeated.
func (p program) build(root, bin string) (bool, error) {
	out := filepath.Join(bin, p.name)
	dir := filepath.Join(root, p.module)
	stampPath := filepath.Join(bin, "."+p.name+".stamp")
	stamp, err := p.inputs(dir)
	if err != nil {
		return false, err
	}
	if !p.always {
		old, err := os.ReadFile(stampPath)
		if _, statErr := os.Stat(out); err == nil && statErr == nil && string(old) == stamp {
			return false, nil
		}
	}
	args := append([]string{"build", "-o", out}, p.flags...)
	if _, err := goCommand(dir, append(args, p.pkg)...); err != nil {
		return false, err
	}
	return true, os.WriteFile(stampPath, []byte(stamp), 0o644)
}

// inputs is a digest of what decides the binary, sources apart: those are fixed by go.sum, save in the repository's own module.
func (p program) inputs(dir string) (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH, p.pkg, p.flags)
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// stageFiles are the life cycles that kwok plays for nodes and pods; kwok refuses to start without any.
var stageFiles = []string{
	"node/fast/node-initialize.yaml",
	"node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
	"pod/fast/pod-ready.yaml",
	"pod/fast/pod-complete.yaml",
	"pod/fast/pod-delete.yaml",
}

// writeStages joins kwok's own stage files, from its module, into bin/stages.yaml.
func writeStages(root, bin string) error {
	dir, err := goCommand(filepath.Join(root, "kwok"), "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
	if err != nil {
		return err
	}
	var all bytes.Buffer
	for _, name := range stageFiles {
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(dir), "kustomize", "stage", name))
		if err != nil {
			return err
		}
		all.WriteString("---\n")
		all.Write(data)
		all.WriteByte('\n')
	}
	return os.WriteFile(filepath.Join(bin, "stages.yaml"), all.Bytes(), 0o644)
}

// goCommand runs the go tool in dir, outside any workspace, and returns its standard output.
func goCommand(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s (in %s): %w", strings.Join(args, " "), dir, err)
	}
	return string(out), nil
}

// moduleRoot is the directory of this module's go.mod, from anywhere inside the module.
func moduleRoot() (string, error) {
	out, err := goCommand(".", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	mod := strings.TrimSpace(out)
	if filepath.Base(mod) != "go.mod" {
		return "", fmt.Errorf("not inside a module (GOMOD=%q)", mod)
	}
	return filepath.Dir(mod), nil
}
