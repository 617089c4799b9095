package power

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Player drives a Disk with the events of a trace, one after the other.
type Player struct {
	disk  *Disk
	root  string // on the recording machine
	marks string // the file of marks there

	handles map[handleKey]*handle
	// onMark gets each line of the marks, when the write of it begins.
	onMark func(line string)
	// onSend gets what the server begins to send on a socket.
	onSend func(socket int, data []byte)
	// onChange gets what happens to directories: the call, and the name with its number
	// left out.
	onChange func(call, name string)
	// onSync gets the writes that a sync of a segment of the log has made durable.
	onSync  func(covered []*change)
	sockets int
	// killed are calls that the process ended in: they happened or not.
	killed []killed
	// doubt is a call that changes directories, if the process was killed in one since the
	// last reconcile: nobody saw whether it did.
	doubt *Call
}

type killed struct {
	call *Call
	node *inode
}

type handleKey struct{ process, fd int }

// handle is an open file, directory, socket or the file of marks.
type handle struct {
	node   *inode
	log    bool // a segment of the log
	marks  bool
	socket int // from 1
	offset int64
}

func newPlayer(root, marks string) *Player {
	nothing := func(string) {}
	return &Player{
		disk: newDisk(), root: root, marks: marks, handles: map[handleKey]*handle{},
		onMark: nothing, onSend: func(int, []byte) {}, onSync: func([]*change) {},
		onChange: func(string, string) {},
	}
}

var errUnmodelled = errors.New("the model does not know this call on this file")

// step plays an event. An error that may come from a doubtful call says so.
func (p *Player) step(e Event) error {
	err := p.play(e)
	if err != nil && p.doubt != nil {
		return fmt.Errorf("%w; the process was killed in a %s, which may have happened: record again", err, p.doubt.Name)
	}
	return err
}

func (p *Player) play(e Event) error {
	if e.Enter {
		if err := p.enter(e.Call); err != nil {
			return fmt.Errorf("%s of process %d: %w", e.Name, e.Process, err)
		}
	}
	if e.Exit {
		if err := p.exit(e.Call); err != nil {
			return fmt.Errorf("%s of process %d: %w", e.Name, e.Process, err)
		}
	}
	return nil
}

// of is the handle of argument i, nil if it is of no interest.
func (p *Player) of(c *Call, i int) *handle {
	fd, err := strconv.Atoi(c.Args[i])
	if err != nil {
		return nil
	}
	return p.handles[handleKey{c.Process, fd}]
}

// enter plays what counts when a call begins: a write may be on the disk from then
// on, and a descriptor that is being closed may be given away again.
func (p *Player) enter(c *Call) error {
	if c.covered = nil; c.never {
		return nil
	}
	switch c.Name {
	case "close":
		if fd, err := strconv.Atoi(c.Args[0]); err == nil {
			delete(p.handles, handleKey{c.Process, fd})
		}
	case "write", "pwrite64":
		return p.write(c)
	case "fsync", "fdatasync":
		if h := p.of(c, 0); h != nil && h.node != nil {
			c.covered = append([]*change{}, h.node.covered()...)
		}
	case "ftruncate":
		if h := p.of(c, 0); h != nil && h.node != nil {
			size, err := strconv.ParseInt(c.Args[1], 10, 64)
			if err != nil {
				return err
			}
			c.covered = []*change{p.disk.truncate(h.node, size)}
		}
	case "mmap":
		if h := p.of(c, 4); h != nil && h.node != nil && strings.Contains(c.Args[2], "PROT_WRITE") && strings.Contains(c.Args[3], "MAP_SHARED") {
			return errUnmodelled
		}
	case "writev", "pwritev", "pwritev2", "fallocate", "dup", "dup2", "dup3", "sync_file_range", "copy_file_range", "sendfile", "splice", "close_range":
		for i := range c.Args {
			if h := p.of(c, i); h != nil && (h.node != nil || h.marks || c.Name == "writev") {
				return errUnmodelled
			}
		}
	case "sync", "syncfs", "msync":
		return errUnmodelled
	}
	return nil
}

// write issues a write; c.covered remembers it until it returns.
func (p *Player) write(c *Call) error {
	h := p.of(c, 0)
	switch {
	case h == nil:
		return nil
	case c.cut:
		return fmt.Errorf("strace did not show all that it wrote: raise maxTracedBytes")
	case h.marks:
		line := strings.TrimRight(string(c.Data), "\n")
		if sums, ok := strings.CutPrefix(line, markFiles); ok {
			return p.reconcile(sums)
		}
		p.onMark(line)
		return nil
	case h.socket > 0:
		p.onSend(h.socket, c.Data)
		return nil
	}
	offset := h.offset
	if c.Name == "pwrite64" {
		var err error
		if offset, err = strconv.ParseInt(c.Args[3], 10, 64); err != nil {
			return err
		}
	} else {
		h.offset += int64(len(c.Data))
	}
	c.covered = []*change{p.disk.write(h.node, offset, c.Data)}
	return nil
}

// exit plays what counts when a call has returned.
func (p *Player) exit(c *Call) error {
	if c.killed && c.Ret < 0 && c.changesDirectory() {
		p.doubt = c
	}
	switch c.Name {
	case "open", "openat", "creat", "openat2":
		return p.open(c)
	case "accept4":
		if c.Ret >= 0 {
			p.sockets++
			p.handles[handleKey{c.Process, int(c.Ret)}] = &handle{socket: p.sockets}
		}
	case "lseek":
		if h := p.of(c, 0); h != nil {
			h.offset = c.Ret
		}
	case "write", "pwrite64", "ftruncate", "fsync", "fdatasync":
		return p.finished(c)
	case "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "truncate":
		if c.Ret == 0 {
			return p.entries(c)
		}
	}
	return nil
}

// changesDirectory tells whether the call enters, renames or removes a name if it succeeds.
func (c *Call) changesDirectory() bool {
	switch c.Name {
	case "openat":
		return len(c.Args) > 2 && strings.Contains(c.Args[2], "O_CREAT")
	case "mkdirat", "unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2":
		return true
	}
	return false
}

// finished notes that a write or sync has returned.
func (p *Player) finished(c *Call) error {
	if c.covered == nil {
		return nil
	}
	h := p.of(c, 0)
	switch {
	case c.killed:
		if h != nil && strings.HasSuffix(c.Name, "sync") {
			return nil // nobody knows that it made anything durable
		}
		if h != nil {
			p.killed = append(p.killed, killed{c, h.node})
		}
		return nil
	case c.Name == "fsync" || c.Name == "fdatasync":
		if c.Ret != 0 || h == nil {
			return fmt.Errorf("a sync failed, or its file was closed meanwhile: record again")
		}
		p.disk.settle(h.node, c.covered)
		if h.log {
			p.onSync(c.covered)
		}
		return nil
	case c.Name != "ftruncate" && c.Ret != int64(len(c.Data)), c.Ret < 0:
		return fmt.Errorf("it gave %d: short and failed writes are not modelled, record again", c.Ret)
	}
	c.covered[0].returned = true
	if c.last && h != nil {
		p.killed = append(p.killed, killed{c, h.node})
	}
	return nil
}

// inside tells where under the root a path is, if it is.
func (p *Player) inside(arg string) (relative string, ok bool, err error) {
	name, err := unquote([]byte(arg))
	if err != nil {
		return "", false, err
	}
	if string(name) == p.root {
		return ".", true, nil
	}
	relative, ok = strings.CutPrefix(string(name), p.root+"/")
	return relative, ok, nil
}

// open follows openat. A descriptor that was open under the same number is gone, even
// when its close was not seen.
func (p *Player) open(c *Call) error {
	if c.Ret < 0 {
		return nil
	}
	key := handleKey{c.Process, int(c.Ret)}
	delete(p.handles, key)
	name, err := unquote([]byte(c.Args[1]))
	if c.Name != "openat" || err != nil {
		return errors.Join(errUnmodelled, err)
	}
	if string(name) == p.marks {
		p.handles[key] = &handle{marks: true}
		return nil
	}
	relative, ok, err := p.inside(c.Args[1])
	if err != nil || !ok {
		return err
	}
	dir, base, n, err := p.disk.lookup(relative)
	if err != nil {
		return err
	}
	flags := strings.Split(c.Args[2], "|")
	has := func(flag string) bool { return slices.Contains(flags, flag) }
	if has("O_APPEND") || has("O_DIRECT") || has("O_TMPFILE") {
		return errUnmodelled
	}
	switch {
	case n == nil && !has("O_CREAT"):
		return fmt.Errorf("%s was opened, but is not in the model", relative)
	case n == nil:
		n = p.disk.newFile()
		p.disk.enter(dir, base, n)
	case has("O_TRUNC") && n.size > 0:
		p.disk.truncate(n, 0).returned = true
	}
	p.handles[key] = &handle{node: n, log: strings.HasPrefix(base, "shim-")}
	return nil
}

// entries follows calls that change directories and that succeeded.
func (p *Player) entries(c *Call) error {
	from := 0
	if strings.HasSuffix(c.Name, "at") || c.Name == "renameat2" {
		from = 1 // a directory descriptor comes first
	}
	relative, ok, err := p.inside(c.Args[from])
	if err != nil {
		return err
	}
	if !ok {
		if strings.HasPrefix(c.Name, "rename") || strings.Contains(c.Name, "link") {
			return p.refuseInto(c, from)
		}
		return nil
	}
	if from == 1 && c.Args[0] != "AT_FDCWD" {
		return errUnmodelled
	}
	dir, base, n, err := p.disk.lookup(relative)
	if err != nil {
		return err
	}
	p.onChange(c.Name, base)
	switch c.Name {
	case "mkdir", "mkdirat":
		p.disk.enter(dir, base, p.disk.newDir())
		return nil
	case "unlink", "unlinkat", "rmdir":
		if n == nil {
			return fmt.Errorf("%s was removed, but is not in the model", relative)
		}
		p.disk.remove(dir, base)
		return nil
	case "rename", "renameat", "renameat2":
		to, ok, err := p.inside(c.Args[2*from+1])
		if err != nil || !ok {
			return errors.Join(errUnmodelled, err)
		}
		toDir, toBase, _, err := p.disk.lookup(to)
		if err != nil || toDir != dir || n == nil {
			return errors.Join(errUnmodelled, err)
		}
		p.disk.rename(dir, base, toBase)
		return nil
	}
	return errUnmodelled
}

// refuseInto refuses a file that comes from outside.
func (p *Player) refuseInto(c *Call, from int) error {
	for _, a := range c.Args[from+1:] {
		if !strings.HasPrefix(a, `"`) {
			continue
		}
		if _, ok, err := p.inside(a); ok || err != nil {
			return errors.Join(errUnmodelled, err)
		}
	}
	return nil
}
