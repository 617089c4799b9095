package oracle

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// A ledger keeps the counts of the parts of a full run that have passed, one file each, so
// that a run that was interrupted goes on where it was. A part counts as long as neither
// shim nor the oracle has changed since.
type ledger struct {
	dir string
	// state names the sources; empty if they are not committed, and then nothing is kept.
	state string
	seed  uint64
	parts int
}

// kept is a file of the ledger.
type kept struct {
	Minutes float64
	Counts  Counts
}

// sources are what a full run is about, below the root of the repository.
func sources() []string {
	return []string{"cmd", "etcdapi", "backends", "internal", "go.mod", "e2e/etcd/go.mod", "e2e/etcd/oracle", "e2e/etcd/process"}
}

// openLedger finds what the sources below root are. A seed of 0 is replaced by one made of
// them, so that the same run goes on without being told its seed.
func openLedger(root string, seed uint64, parts int) (*ledger, error) {
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("git %v: %w", args, err)
		}
		return string(out), nil
	}
	trees, err := git(append([]string{"ls-tree", "HEAD", "--"}, sources()...)...)
	if err != nil {
		return nil, err
	}
	dirty, err := git(append([]string{"status", "--porcelain", "--untracked-files=no", "--"}, sources()...)...)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(trees))
	l := &ledger{dir: filepath.Join(root, "e2e", "etcd", "bin", "oracle"), seed: seed, parts: parts}
	if dirty == "" {
		l.state = hex.EncodeToString(digest[:6])
	}
	if l.seed == 0 {
		l.seed = uint64(binary.BigEndian.Uint32(digest[:]))
	}
	return l, os.MkdirAll(l.dir, 0o755)
}

func (l *ledger) file(part int) string {
	return filepath.Join(l.dir, fmt.Sprintf("%s-%d-%dof%d.json", l.state, l.seed, part, l.parts))
}

// load returns a part, nil if it has not passed yet.
func (l *ledger) load(part int) (*kept, error) {
	if l.state == "" {
		return nil, nil
	}
	b, err := os.ReadFile(l.file(part))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k := &kept{Counts: newCounts()}
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fmt.Errorf("%s: %w", l.file(part), err)
	}
	return k, nil
}

// save notes that a part has passed.
func (l *ledger) save(part int, k *kept) error {
	if l.state == "" {
		return nil
	}
	b, err := json.MarshalIndent(k, "", " ")
	if err != nil {
		return err
	}
	whole := l.file(part)
	if err := os.WriteFile(whole+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(whole+".new", whole)
}

// whole adds up all parts; missing are those that have not passed.
func (l *ledger) whole() (all *kept, missing []int, err error) {
	all = &kept{Counts: newCounts()}
	for part := 1; part <= l.parts; part++ {
		k, err := l.load(part)
		if err != nil {
			return nil, nil, err
		}
		if k == nil {
			missing = append(missing, part)
			continue
		}
		all.Minutes += k.Minutes
		all.Counts.merge(k.Counts)
	}
	return all, missing, nil
}
