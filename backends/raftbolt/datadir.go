package raftbolt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
	"github.com/etcdshim/shim/internal/failpoint"
)

// The data directory. Names and places are etcd's where etcd's tools read the
// files; a directory of etcd's is never opened.
//
//	member/            0700
//	  shim.json        format version, ids, and whether founding is done
//	  shim.lock        held with flock while the process lives
//	  snap/db          the store, a bbolt file in etcd's schema (package mvcc)
//	  wal/*.wal        the log (package wal); elsewhere with Config.WALDir
//
// Order of founding, each step durable before the next: every directory on the way,
// shim.json with Founded=false, the log, the store, shim.json with Founded=true. Until the last
// nothing was acknowledged, so that a start which finds Founded=false empties
// the log and the store and founds anew, with the ids it wrote first.
//
// Restore goes the same way, with Restoring=true until the end: a start that finds
// it refuses, since an empty store is not what was asked for.
const (
	memberDir    = "member"
	stateName    = "shim.json"
	lockName     = "shim.lock"
	snapDir      = "snap"
	storeName    = "db"
	walDir       = "wal"
	privateDir   = 0o700
	privateFile  = 0o600
	formatNumber = 2
)

// directoryState is the content of shim.json.
type directoryState struct {
	// Format is formatNumber. It changes when an older shim could not read, or
	// would damage, what a newer one writes.
	Format    int   `json:"format"`
	ClusterID hexID `json:"clusterID"`
	MemberID  hexID `json:"memberID"`
	// FoundingID is random. Log and store bear it, so that files of two directories
	// with equal ids, which follow from names, are not mixed up.
	FoundingID hexID `json:"foundingID"`
	Founded    bool  `json:"founded"`
	// Restoring: a snapshot is being restored, or was when a crash came.
	Restoring bool   `json:"restoring,omitempty"`
	Comment   string `json:"comment"`
}

// interrupted is nil unless a restore into the directory did not come to its end.
func (d *directory) interrupted() error {
	if d.state == nil || !d.state.Restoring {
		return nil
	}
	return fmt.Errorf("%w: %s. Remove the directory%s, and restore the snapshot again",
		ErrRestoreInterrupted, filepath.Join(d.member, stateName), d.andWAL())
}

// andWAL names the log's directory for an operator, if it lies elsewhere.
func (d *directory) andWAL() string {
	if d.wal == filepath.Join(d.member, walDir) {
		return ""
	}
	return " and " + d.wal
}

const stateComment = "Written by shim. Do not edit."

// hexID is an id in the form that etcdctl prints.
type hexID uint64

// MarshalText makes lower-case hexadecimal digits.
func (id hexID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText makes.
func (id *hexID) UnmarshalText(text []byte) error {
	n, err := parseID(string(text))
	*id = hexID(n)
	return err
}

func (id hexID) String() string { return formatID(uint64(id)) }

// directory is a locked data directory.
type directory struct {
	member string
	wal    string
	lock   *os.File
	logger *zap.Logger
	// state is what shim.json holds; nil when there is none yet.
	state *directoryState
}

func (d *directory) store() string { return filepath.Join(d.member, snapDir, storeName) }

// openDirectory checks, creates and locks the data directory. Errors:
// ErrForeignDirectory and ErrDirectoryVersion, before a byte is touched, and
// ErrDirectoryInUse.
func openDirectory(dataDir, wal string, logger *zap.Logger) (_ *directory, err error) {
	d := &directory{member: filepath.Join(dataDir, memberDir), wal: wal, logger: logger}
	if d.wal == "" {
		d.wal = filepath.Join(d.member, walDir)
	}
	if d.state, err = d.readState(); err != nil {
		return nil, err
	}
	if d.state == nil {
		if err := d.refuseForeign(); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{dataDir, d.member, filepath.Join(d.member, snapDir), d.wal} {
		if err := d.makePrivate(dir); err != nil {
			return nil, err
		}
	}
	if err := d.acquire(); err != nil {
		return nil, err
	}
	// A process that was killed may have renamed shim.json and not synced the name.
	// Lost with the power later, it would have the member founded anew, and emptied.
	if err := syncDir(d.member); err != nil {
		d.release()
		return nil, fmt.Errorf("data directory: %w", err)
	}
	// Another process may have founded it between the first look and the lock.
	if d.state, err = d.readState(); err != nil {
		d.release()
		return nil, err
	}
	return d, nil
}

// readState reads shim.json; nil when there is none.
func (d *directory) readState() (*directoryState, error) {
	path := filepath.Join(d.member, stateName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	var s directoryState
	// The version first: the rest of a later one may have another shape.
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDirectoryCorrupt, path, err)
	}
	if version.Format != formatNumber {
		return nil, fmt.Errorf("%w: %s says %d, this shim reads %d: start it with the version of shim that wrote it, "+
			"or take the data over with `etcdctl snapshot save` there and `shim snapshot restore` here",
			ErrDirectoryVersion, path, version.Format, formatNumber)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDirectoryCorrupt, path, err)
	}
	if s.MemberID == 0 {
		return nil, fmt.Errorf("%w: %s has no member id", ErrDirectoryCorrupt, path)
	}
	return &s, nil
}

// refuseForeign makes sure that a directory without shim.json holds nothing:
// whatever else lies there is etcd's, or the rest of a damaged shim directory.
func (d *directory) refuseForeign() error {
	var found []string
	look := func(dir string, ours func(name string) bool) error {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("data directory: %w", err)
		}
		for _, e := range entries {
			if !ours(e.Name()) {
				found = append(found, filepath.Join(dir, e.Name()))
			}
		}
		return nil
	}
	nothing := func(string) bool { return false }
	inMember := func(name string) bool {
		return name == lockName || name == stateName+temporary || name == snapDir || name == walDir
	}
	err := errors.Join(
		look(d.member, inMember),
		look(filepath.Join(d.member, snapDir), nothing),
		look(filepath.Join(d.member, walDir), nothing))
	if d.wal != filepath.Join(d.member, walDir) {
		err = errors.Join(err, look(d.wal, func(name string) bool { return !strings.HasSuffix(name, ".wal") && name != "0.tmp" }))
	}
	if err != nil || len(found) == 0 {
		return err
	}
	if logs, err := replica.OwnLog(d.wal); err != nil || logs {
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		return fmt.Errorf("%w: %s is missing, but %s holds a log of shim's. Put the file back; if it is lost, "+
			"restore a snapshot into an empty directory. Nothing was changed", ErrDirectoryCorrupt, filepath.Join(d.member, stateName), d.wal)
	}
	return fmt.Errorf("%w: found %s, but no %s. If etcd wrote it, take the data over, on an empty directory:\n"+
		"  etcdctl --endpoints=ENDPOINT snapshot save backup.db   (while that etcd runs)\n"+
		"  shim snapshot restore backup.db --data-dir NEW-DIRECTORY\n"+
		"Nothing was changed", ErrForeignDirectory, strings.Join(found, ", "), stateName)
}

// makePrivate creates dir for its owner alone; one that exists and is open to
// others is only warned of, as in etcd (fileutil.TouchDirAll).
func (d *directory) makePrivate(dir string) error {
	if err := os.MkdirAll(dir, privateDir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode != privateDir {
		d.logger.Warn("directory is open to others than its owner",
			zap.String("dir", dir), zap.Stringer("permission", mode), zap.Stringer("recommended", fs.FileMode(privateDir)))
	}
	return nil
}

// acquire locks the directory for this process. The lock ends with the process,
// however it ends.
func (d *directory) acquire() error {
	path := filepath.Join(d.member, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, privateFile)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%w: another process holds %s: stop it, or choose another directory", ErrDirectoryInUse, path)
		}
		return fmt.Errorf("data directory: lock %s: %w", path, err)
	}
	d.lock = f
	return nil
}

// share locks the directory against servers, and not against others that only
// read it. Nothing is written: where there is no lock file nobody holds it.
func (d *directory) share() error {
	path := filepath.Join(d.member, lockName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%w: a server holds %s: stop it first", ErrDirectoryInUse, path)
		}
		return fmt.Errorf("data directory: lock %s: %w", path, err)
	}
	d.lock = f
	return nil
}

// release gives the lock back.
func (d *directory) release() {
	if d.lock != nil {
		// Closing the only descriptor unlocks; there is nothing else to lose.
		_ = d.lock.Close()
		d.lock = nil
	}
}

const temporary = ".tmp"

// writeState makes s durable: written beside, synced, renamed, directory synced.
func (d *directory) writeState(s directoryState) error {
	s.Format, s.Comment = formatNumber, stateComment
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(d.member, stateName)
	if err := writeSynced(path+temporary, append(text, '\n')); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	failpoint.Hit(failpoint.StateWrite)
	if err := os.Rename(path+temporary, path); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	failpoint.Hit(failpoint.StateRename)
	if err := syncDir(d.member); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	failpoint.Hit(failpoint.StateWritten)
	d.state = &s
	return nil
}

// syncPath makes the entry of every directory on the way to log and store durable:
// this start may have made any of them, or an earlier one that was killed before it
// came here. One that may not be read, or whose file system is not written to, was
// made by somebody else, and long ago.
func (d *directory) syncPath() error {
	for _, leaf := range []string{filepath.Join(d.member, snapDir), d.wal} {
		leaf, err := filepath.Abs(leaf)
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		for _, dir := range ancestors(leaf) {
			err := syncDir(dir)
			if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EROFS) {
				return fmt.Errorf("data directory: %w", err)
			}
		}
	}
	return nil
}

// ancestors are the directories that an absolute path lies in, from the nearest to
// the root.
func ancestors(path string) []string {
	var all []string
	for parent := filepath.Dir(path); parent != path; path, parent = parent, filepath.Dir(parent) {
		all = append(all, parent)
	}
	return all
}

// clear removes what an unfinished founding left of log and store.
func (d *directory) clear() error {
	if d.state != nil && d.state.Founded {
		return fmt.Errorf("%w: refusing to empty a founded directory", ErrDirectoryCorrupt)
	}
	for _, dir := range []string{d.wal, filepath.Join(d.member, snapDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("data directory: %w", err)
			}
		}
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	return nil
}

func writeSynced(path string, text []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, privateFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(text); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}
