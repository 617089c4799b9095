package power

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// markFiles begins the mark that the load generator makes after each end of the
// server: the sums of all files, by path. They tell what became of calls in which the
// process ended, and that the model is what the machine had.
const markFiles = "files "

// fileSums are the SHA-256 sums of all files below root, by path, as JSON.
func fileSums(root string) ([]byte, error) {
	sums := map[string]string{}
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		sums[relative] = fmt.Sprintf("%x", sha256.Sum256(text))
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(sums)
}

// sum is that of the whole image.
func (i *image) sum() string {
	h := sha256.New()
	zeros := make([]byte, pageBytes)
	for at := int64(0); at < i.size; at += pageBytes {
		page := i.pages[at/pageBytes]
		if page == nil {
			page = zeros
		}
		h.Write(page[:min(pageBytes, i.size-at)])
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// reconcile compares the model with the files as they were, no server running. A write
// in which the process was killed is taken as done if it was; else it never was one, and
// a later play leaves it out, since the history goes on without it.
func (p *Player) reconcile(text string) error {
	var sums map[string]string
	if err := json.Unmarshal([]byte(text), &sums); err != nil {
		return err
	}
	keep := &chooser{style: KeepAll}
	for _, k := range p.killed {
		if !slices.Contains(k.node.pending, k.call.covered[0]) {
			continue // a sync came after it: it was done
		}
		if with := keep.image(k.node); slices.Contains(values(sums), with.sum()) {
			k.call.covered[0].returned = true
			continue
		}
		k.call.never = true
		p.disk.forget(k.node, k.call.covered[0])
	}
	p.killed = nil
	found := 0
	for _, f := range p.disk.crash(keep).files {
		found++
		if got := f.image.sum(); got != sums[f.path] {
			return fmt.Errorf("%s differs from the file at the end of a session, by a call that was cut off in its middle or by what the model does not know: record again", f.path)
		}
	}
	if found != len(sums) {
		return fmt.Errorf("the model has %d files, there were %d at the end of a session", found, len(sums))
	}
	p.doubt = nil // it did nothing that the model does not have
	return nil
}

func values(m map[string]string) []string {
	var all []string
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// forget undoes a change that did not happen. It is the last one of its file.
func (d *Disk) forget(n *inode, c *change) {
	d.changes++
	n.pending = slices.DeleteFunc(n.pending, func(x *change) bool { return x == c })
	n.size = n.durable.size
	if last := len(n.pending); last > 0 {
		n.size = n.pending[last-1].size
	}
}
