package raftbolt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// RestoreOptions say what to restore.
type RestoreOptions struct {
	// Snapshot is the file: what etcd 3.5 to 3.7 or shim answers to Snapshot, with the
	// SHA-256 behind it.
	Snapshot string
	// SkipHashCheck takes a file without that checksum, such as one copied from a
	// data directory, and does not look at one that is there.
	SkipHashCheck bool
	// BumpRevision, when not 0, raises the revision by as much and compacts there.
	BumpRevision uint64
	// MmapBytes is address space for the file while it is restored.
	MmapBytes uint64
	// Progress, which may be nil, is told how many bytes of the file are copied.
	Progress func(done, all int64)

	// step is told after each durable step, for tests.
	step func()
}

// RestoreReport is what was restored.
type RestoreReport struct {
	// Revision is the current one, CompactRevision the compacted one, -1 for none;
	// Keys exist.
	Revision, CompactRevision, Keys int64
	ClusterID, MemberID             uint64
}

// Restore makes a snapshot a data directory, of a cluster of one member with a
// fresh log. The directory must be empty or absent, config.WALDir, when set, absent;
// ids follow from config as they do at a founding. Of env it uses logger and clock.
//
// It is durable on return: a start serves what the snapshot holds. What a crash
// leaves, a start refuses with ErrRestoreInterrupted, unless it is empty directories;
// an error leaves nothing.
//
// Errors: every fault of config, ErrNotEmpty, ErrSnapshot, mvcc.ErrVersion,
// mvcc.ErrRevision, ErrDirectoryInUse, the file system's.
func Restore(ctx context.Context, config Config, o RestoreOptions, env backends.Env) (_ RestoreReport, err error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return RestoreReport{}, err
	}
	if o.BumpRevision > math.MaxInt64 {
		return RestoreReport{}, fmt.Errorf("%w: by %d", mvcc.ErrRevision, o.BumpRevision)
	}
	source, err := openSnapshot(o.Snapshot, o.SkipHashCheck)
	if err != nil {
		return RestoreReport{}, err
	}
	defer source.Close() //nolint:errcheck // only read from
	made, err := refuseUsed(config)
	if err != nil {
		return RestoreReport{}, err
	}
	r := &restore{options: o, source: source, made: made, b: &Backend{config: config, env: env, full: make(chan struct{}, 1)}}
	if r.b.dir, err = openUnfounded(config, env.Logger); err != nil {
		return RestoreReport{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undo())
		}
		r.b.dir.release()
	}()
	return r.run(ctx)
}

// refuseUsed makes sure that there is nothing to restore over, as etcdutl does. It
// tells whether the data directory will be of our making.
func refuseUsed(config Config) (made bool, err error) {
	entries, err := os.ReadDir(config.DataDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		made = true
	case err != nil:
		return false, fmt.Errorf("%w: data-dir %q not empty or could not be read: %w", ErrNotEmpty, config.DataDir, err)
	case len(entries) > 0:
		return false, fmt.Errorf("%w: data-dir %q not empty or could not be read. Name one that is empty, or not there yet", ErrNotEmpty, config.DataDir)
	}
	if config.WALDir != "" {
		if _, err := os.Lstat(config.WALDir); err == nil {
			return false, fmt.Errorf("%w: wal-dir %q exists. Name one that is not there yet", ErrNotEmpty, config.WALDir)
		} else if !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("data directory: %w", err)
		}
	}
	return made, nil
}

// openUnfounded is openDirectory for a Restore, which removes what it made when it fails:
// a directory that another process founded since refuseUsed looked is not its own.
func openUnfounded(config Config, logger *zap.Logger) (*directory, error) {
	d, err := openDirectory(config.DataDir, config.WALDir, logger)
	if err == nil && d.state != nil {
		d.release()
		return nil, fmt.Errorf("%w: data-dir %q was founded meanwhile", ErrNotEmpty, config.DataDir)
	}
	return d, err
}

// restore is a Restore under way, with the directory locked. The Backend is never
// started.
type restore struct {
	options RestoreOptions
	source  *snapshotFile
	made    bool
	b       *Backend
}

// run restores; see datadir.go for the order.
func (r *restore) run(ctx context.Context) (RestoreReport, error) {
	d := r.b.dir
	if err := d.syncPath(); err != nil {
		return RestoreReport{}, err
	}
	state, err := r.b.config.newState()
	if err != nil {
		return RestoreReport{}, err
	}
	state.Restoring = true
	if err := d.writeState(state); err != nil {
		return RestoreReport{}, err
	}
	r.step()
	if err := r.source.copyTo(ctx, d.store(), r.options.Progress); err != nil {
		return RestoreReport{}, err
	}
	r.step()
	if err := r.adopt(); err != nil {
		return RestoreReport{}, err
	}
	r.step()
	if err := replica.CreateLog(r.b.replicaConfig(), 1, 1); err != nil {
		return RestoreReport{}, err
	}
	r.step()
	report, err := r.verify(ctx)
	if err != nil {
		return RestoreReport{}, err
	}
	r.step()
	state.Restoring, state.Founded = false, true
	if err := d.writeState(state); err != nil {
		return RestoreReport{}, err
	}
	r.step()
	return report, nil
}

func (r *restore) step() {
	if r.options.step != nil {
		r.options.step()
	}
}

// adopt makes the copied file the store of this member.
func (r *restore) adopt() error {
	d := r.b.dir
	id := uint64(d.state.MemberID)
	self := memberRecord{ID: id, PeerURLs: r.b.config.InitialAdvertisePeerURLs, Name: r.b.config.Name}
	value, err := self.value()
	if err != nil {
		return err
	}
	err = mvcc.Restore(d.store(), mvcc.RestoreOptions{
		Founding: uint64(d.state.FoundingID),
		Applied:  mvcc.Applied{Index: 1, Term: 1, ConfState: encodeConfState(replica.ConfState{Voters: []uint64{id}})},
		Entries: map[mvcc.Bucket]map[string][]byte{
			mvcc.BucketMembers:        {string(self.key()): value},
			mvcc.BucketMembersRemoved: {},
			mvcc.BucketCluster:        {"clusterVersion": []byte(clusterVersion)},
		},
		BumpRevision: int64(r.options.BumpRevision), MmapBytes: int64(min(r.options.MmapBytes, math.MaxInt64)),
	})
	if err := unsound(r.options.Snapshot, err); err != nil {
		return err
	}
	return syncDir(filepath.Dir(d.store()))
}

// verify opens the store as a start does.
func (r *restore) verify(ctx context.Context) (report RestoreReport, err error) {
	if err := r.b.openStore(true); err != nil {
		return report, unsound(r.options.Snapshot, err)
	}
	store := r.b.store
	defer func() { err = errors.Join(err, store.Close(ctx)) }()
	state := r.b.dir.state
	report = RestoreReport{
		Revision: store.Committed(), CompactRevision: store.CompactRevision(), Keys: store.Keys(),
		ClusterID: uint64(state.ClusterID), MemberID: uint64(state.MemberID),
	}
	header := backends.Header{ClusterID: report.ClusterID, MemberID: report.MemberID}
	tokens, err := auth.NewTokens("", 0) // nobody asks for one
	if err != nil {
		return report, err
	}
	if _, err := newMachine(store, header, newWaiters(report.MemberID, 0), tokens, r.b.env); err != nil {
		return report, fmt.Errorf("%w: %s: %w", ErrSnapshot, r.options.Snapshot, err)
	}
	return report, nil
}

// undo removes what was made, while the directory is still locked. The state goes
// last: what is left before is refused by a start.
func (r *restore) undo() error {
	d := r.b.dir
	err := errors.Join(os.RemoveAll(d.wal), os.RemoveAll(filepath.Dir(d.store())), os.RemoveAll(d.member))
	if r.made && err == nil {
		err = os.Remove(r.b.config.DataDir)
	}
	return err
}

// unsound names the snapshot where mvcc names the copy of it, and says nothing of a
// store that was damaged.
func unsound(path string, err error) error {
	if c := (*mvcc.CorruptError)(nil); errors.As(err, &c) {
		return fmt.Errorf("%w: %s: %s", ErrSnapshot, path, c.Cause)
	}
	return err
}

// SnapshotStatus is what is told of a snapshot.
type SnapshotStatus = mvcc.FileStatus

// StatusOfSnapshot reads a snapshot, or the file of a store that nobody uses,
// through. The checksum behind it is not looked at, as in etcdutl. ErrSnapshot,
// mvcc.ErrLocked, the file system's.
func StatusOfSnapshot(path string) (SnapshotStatus, error) {
	st, err := mvcc.Status(path)
	return st, unsound(path, err)
}

// A snapshot's copy is followed by its SHA-256. Pages are multiples of
// snapshotUnit, so that the length tells whether it is there.
const (
	snapshotUnit = 512
	// copyBytes are copied at a time, between two looks at the context.
	copyBytes = 1 << 20
)

// snapshotFile is an open snapshot.
type snapshotFile struct {
	*os.File
	bodyBytes int64
	// sum is the checksum to hold the copy against, nil for none.
	sum []byte
}

// openSnapshot opens a snapshot and looks for its checksum.
func openSnapshot(path string, skipHash bool) (_ *snapshotFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &snapshotFile{File: f, bodyBytes: info.Size()}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a file", ErrSnapshot, path)
	case info.Size() == 0:
		return nil, fmt.Errorf("%w: %s is empty", ErrSnapshot, path)
	case info.Size()%snapshotUnit != sha256.Size && skipHash:
		return s, nil
	case info.Size()%snapshotUnit != sha256.Size:
		return nil, fmt.Errorf("%w: %s: snapshot missing hash but --skip-hash-check=false: "+
			"it was cut off, or is not what snapshot save wrote. A file copied from a data directory has none: skip the check then", ErrSnapshot, path)
	}
	s.bodyBytes -= sha256.Size
	if skipHash {
		return s, nil
	}
	s.sum = make([]byte, sha256.Size)
	_, err = f.ReadAt(s.sum, s.bodyBytes)
	return s, err
}

// copyTo writes the snapshot without its checksum to a new file, synced, and holds
// it against the checksum.
func (s *snapshotFile) copyTo(ctx context.Context, path string, progress func(done, all int64)) (err error) {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, privateFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	sum := sha256.New()
	for done := int64(0); done < s.bodyBytes; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(io.MultiWriter(to, sum), s.File, min(copyBytes, s.bodyBytes-done))
		if err != nil {
			return fmt.Errorf("copy %s: %w", s.Name(), err)
		}
		if done += n; progress != nil {
			progress(done, s.bodyBytes)
		}
	}
	if err := s.verify(sum); err != nil {
		return err
	}
	return to.Sync()
}

func (s *snapshotFile) verify(sum hash.Hash) error {
	if got := sum.Sum(nil); s.sum != nil && string(got) != string(s.sum) {
		return fmt.Errorf("%w: %s: expected sha256 %x, got %x: the file is damaged", ErrSnapshot, s.Name(), s.sum, got)
	}
	return nil
}
