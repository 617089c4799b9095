package tlsconf

import (
	"crypto/sha256"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// settleTime is how old a file must be for its identity to vouch for its
// content: a file that is written twice within a tick of the file system's clock,
// 10 ms at most, may look the same both times. Until then it is read each time.
const settleTime = 100 * time.Millisecond

// watched is a value that is read from files, and again when one of them has
// changed. Its methods may be called by several goroutines. That of a nil pointer
// is the zero value.
type watched[T any] struct {
	what  string
	paths []string
	parse func(contents [][]byte) (T, error)
	// keep makes the last good value do while the files cannot be used.
	keep bool
	log  *zap.Logger
	now  func() time.Time

	mu         sync.Mutex
	value      T
	generation uint64 // of value, from 1 on; 0: there is none yet
	err        error  // of the last reading
	settled    bool   // whether seen vouches for value and err
	seen       []os.FileInfo
	sum        [sha256.Size]byte // of the content that value was made of
}

func watch[T any](c Config, what string, parse func([][]byte) (T, error), paths ...string) *watched[T] {
	return &watched[T]{what: what, paths: paths, parse: parse, log: c.Logger, now: c.Now}
}

// get is the value of the files as they are now, with the number of the content
// it was made of. An error names the file.
func (w *watched[T]) get() (value T, generation uint64, err error) {
	if w == nil {
		return value, 0, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen, err := identities(w.paths)
	if err != nil {
		w.settled = false
		w.failed(err)
	} else if !w.settled || !same(seen, w.seen) {
		w.read(seen)
	}
	if w.err != nil && (!w.keep || w.generation == 0) {
		return value, 0, w.err
	}
	return w.value, w.generation, nil
}

// read reads the files, whose identities were seen before.
func (w *watched[T]) read(seen []os.FileInfo) {
	var contents [][]byte
	hash := sha256.New()
	for _, path := range w.paths {
		content, err := os.ReadFile(path)
		if err != nil {
			w.settled = false
			w.failed(err)
			return
		}
		contents = append(contents, content)
		_, _ = fmt.Fprintf(hash, "%d:%s", len(content), content) // a hash takes everything
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	w.seen, w.settled = seen, true
	for _, info := range seen {
		w.settled = w.settled && w.now().Sub(info.ModTime()) > settleTime
	}
	if w.err == nil && w.generation > 0 && sum == w.sum {
		return
	}
	value, err := w.parse(contents)
	if err != nil {
		w.failed(fmt.Errorf("%s %q: %w", w.what, w.paths, err))
		return
	}
	if w.generation > 0 {
		w.log.Info("read the TLS files again", zap.String("what", w.what), zap.Strings("files", w.paths))
	}
	w.value, w.sum, w.err = value, sum, nil
	w.generation++
}

// failed notes why the files cannot be used. It logs each reason once, and none
// before there was a value: then the caller fails with it.
func (w *watched[T]) failed(err error) {
	if w.generation > 0 && (w.err == nil || w.err.Error() != err.Error()) {
		consequence := "refusing connections until it can be used"
		if w.keep {
			consequence = "going on with what was read before"
		}
		w.log.Warn("cannot use the TLS files: "+consequence, zap.String("what", w.what), zap.Strings("files", w.paths), zap.Error(err))
	}
	w.err = err
}

func identities(paths []string) ([]os.FileInfo, error) {
	var infos []os.FileInfo
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func same(a, b []os.FileInfo) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) {
			return false
		}
	}
	return true
}
