package raftbolt

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// CheckConfig says what to check.
type CheckConfig struct {
	DataDir string
	// WALDir holds the log; default DataDir/member/wal.
	WALDir string
	// Progress, which may be nil, is told how far the reading of a file is; units
	// differ from part to part.
	Progress func(part string, done, all uint64)
}

// CheckReport is what Check found.
type CheckReport struct {
	// Checked says in plain words, with counts, what was looked at.
	Checked []string
	// Notes tell of what is remarkable and no damage.
	Notes []string
	// Findings is the damage; none means that a start finds the directory sound.
	Findings []Finding
}

// Finding is one fault.
type Finding struct {
	// What names the file, the place and the fault. Do says what to do about it.
	What, Do string
}

// What to do. Nothing is ever mended by hand: what a file says is not known from
// what it said.
const (
	doRestore = "keep a copy of the directory as it is and remove nothing by hand; look at the kernel's log for errors of the disk; " +
		"restore the last good snapshot into an empty directory. Where the server still starts, save a snapshot first: it is newer, but it has the same damage"
	doReturn = "put the file back where it was, from the same directory at the same time; if it is lost, restore the last good snapshot into an empty directory"
)

// Check verifies the data directory of a member that does not run, from its files
// alone, and writes nothing. It holds the directory's lock, shared, meanwhile.
//
// What it cannot see: a flipped bit inside a value, or in the name of a key that
// has a single change; one in the very last batch of the log, which looks like a
// write that a crash cut off.
//
// Memory is bounded by about 100 bytes for each key, and 64 MiB.
//
// Errors say that nothing could be said: ErrNoDirectory, ErrForeignDirectory,
// ErrDirectoryVersion, ErrDirectoryInUse, a later log's or file's version, the
// file system's. Damage is in the report.
func Check(c CheckConfig) (*CheckReport, error) {
	k := &check{config: c, dir: &directory{member: filepath.Join(c.DataDir, memberDir), wal: c.WALDir, logger: zap.NewNop()}}
	if k.dir.wal == "" {
		k.dir.wal = filepath.Join(k.dir.member, walDir)
	}
	if _, err := os.Stat(k.dir.member); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist", ErrNoDirectory, k.dir.member)
	} else if err != nil {
		return nil, err
	}
	if err := k.dir.share(); err != nil {
		return nil, err
	}
	defer k.dir.release()
	if err := k.run(); err != nil {
		return nil, err
	}
	return &k.report, nil
}

// progress tells how far the reading of a part is.
func (k *check) progress(part string, done, all uint64) {
	if k.config.Progress != nil {
		k.config.Progress(part, done, all)
	}
}

// check is a Check under way.
type check struct {
	config CheckConfig
	dir    *directory
	report CheckReport

	leases  map[int64]struct{}
	members []memberRecord
	// durable is what the store says; nil when it cannot be relied on.
	durable *replica.Durable
}

func (k *check) checked(format string, args ...any) {
	k.report.Checked = append(k.report.Checked, fmt.Sprintf(format, args...))
}

func (k *check) note(format string, args ...any) {
	k.report.Notes = append(k.report.Notes, fmt.Sprintf(format, args...))
}

func (k *check) found(do, format string, args ...any) {
	k.report.Findings = append(k.report.Findings, Finding{What: fmt.Sprintf(format, args...), Do: do})
}

func (k *check) run() error {
	err := k.state()
	if err != nil || k.dir.state == nil {
		return err
	}
	s := k.dir.state
	k.checked("%s: format %d, cluster %s, member %s", stateName, s.Format, s.ClusterID, s.MemberID)
	if err := k.dir.interrupted(); err != nil {
		k.found("remove the directory and restore the snapshot again; nothing but the snapshot was in it", "%v", err)
		return nil
	}
	if !s.Founded {
		k.note("the founding of this member was interrupted, and nothing was acknowledged: the next start founds it anew")
		return nil
	}
	if err := k.store(); err != nil {
		return err
	}
	return k.log()
}

// state reads shim.json. Without one, it tells an unfinished founding from damage
// and both from a directory that is not shim's.
func (k *check) state() (err error) {
	k.dir.state, err = k.dir.readState()
	switch {
	case errors.Is(err, ErrDirectoryCorrupt):
		k.found(doReturn, "%v", err)
		return nil
	case err != nil || k.dir.state != nil:
		return err
	}
	err = k.dir.refuseForeign()
	if errors.Is(err, ErrDirectoryCorrupt) {
		k.found(doReturn, "%v", err)
		return nil
	}
	if err == nil {
		k.checked("an empty directory")
		k.note("nothing was founded here yet: the next start does it")
	}
	return err
}

// store checks the bbolt file.
func (k *check) store() error {
	path := k.dir.store()
	k.leases = map[int64]struct{}{}
	r, err := mvcc.Check(path, mvcc.CheckOptions{
		Founding:    uint64(k.dir.state.FoundingID),
		Entry:       k.entry,
		LeaseExists: func(id int64) bool { _, ok := k.leases[id]; return ok },
		Progress:    func(read, all uint64) { k.progress("store", read, all) },
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.found(doReturn, "%s is missing: it holds all keys", path)
		return nil
	case errors.Is(err, mvcc.ErrLocked):
		return fmt.Errorf("%w: %w", ErrDirectoryInUse, err)
	case err != nil:
		return err
	}
	for _, d := range r.Damage {
		k.found(doRestore, "%s: %s", path, d)
	}
	if n := r.Faults - len(r.Damage); n > 0 {
		k.found(doRestore, "%s: %d more faults", path, n)
	}
	for _, n := range r.Notes {
		k.note("%s: %s", path, n)
	}
	k.checked("%s: %d bytes, %d pages, %d of them in use", path, r.SizeBytes, r.Pages, r.UsedPages)
	k.checked("%d keys, %d changes up to revision %d, compacted at %d; %d leases, %d members, %d alarms, %d users, %d roles; log applied up to entry %d of term %d",
		r.Keys, r.Changes, r.Current, max(r.Compacted, 0), len(k.leases), len(k.members), r.Entries[mvcc.BucketAlarm],
		r.Entries[mvcc.BucketAuthUsers], r.Entries[mvcc.BucketAuthRoles], r.Applied.Index, r.Applied.Term)
	if !r.Sealed || r.Faults > 0 && r.Applied.Index == 0 {
		return nil
	}
	k.position(path, r.Applied)
	return k.leftovers(filepath.Dir(path))
}

// position checks the raft state in the store.
func (k *check) position(path string, a mvcc.Applied) {
	id := uint64(k.dir.state.MemberID)
	if a.Index == 0 {
		k.found(doReturn, "%s holds no applied index, though the member was founded: the file was replaced", path)
		return
	}
	k.durable = &replica.Durable{Index: a.Index, Term: a.Term}
	if a.Term == 0 {
		k.found(doRestore, "%s: entry %d was applied, but its term is missing", path, a.Index)
	}
	if state, err := decodeConfState(a.ConfState); err != nil {
		k.found(doRestore, "%s: the membership of the last entry cannot be read: %v", path, err)
	} else if !slices.Contains(slices.Concat(state.Voters, state.Learners, state.VotersOutgoing, state.LearnersNext), id) {
		k.found(doReturn, "%s: the members that vote or learn are %x, and not %x, which %s names", path, state.Voters, id, stateName)
	}
	if !slices.ContainsFunc(k.members, func(r memberRecord) bool { return r.ID == id }) {
		k.found(doReturn, "%s has no member %x, which %s names", path, id, stateName)
	} else if state, err := decodeConfState(a.ConfState); err == nil {
		slices.SortFunc(k.members, func(a, b memberRecord) int { return cmp.Compare(a.ID, b.ID) })
		if err := (&memberSet{list: k.members}).agrees(state); err != nil {
			k.found(doRestore, "%s: %v", path, err)
		}
	}
}

// entry judges an entry of a small bucket.
func (k *check) entry(b mvcc.Bucket, key, value []byte) error {
	switch b {
	case mvcc.BucketLease:
		r, err := lease.DecodeRecord(key, value)
		if err != nil {
			return err
		}
		if r.TTLSeconds < 1 || r.RemainingTTLSeconds < 0 || r.RemainingTTLSeconds > r.TTLSeconds || string(r.Value()) != string(value) {
			return fmt.Errorf("lease %016x: TTL %d s, remaining %d s, encoded as %x", uint64(r.ID), r.TTLSeconds, r.RemainingTTLSeconds, value)
		}
		k.leases[r.ID] = struct{}{}
	case mvcc.BucketMembers:
		r, err := decodeMember(key, value)
		if err != nil {
			return err
		}
		k.members = append(k.members, r)
	case mvcc.BucketMembersRemoved:
		id, err := parseID(string(key))
		if err != nil || formatID(id) != string(key) || string(value) != removedMark {
			return fmt.Errorf("removed member %q: %q", key, value)
		}
	case mvcc.BucketAlarm:
		var a etcdserverpb.AlarmMember
		if err := proto.Unmarshal(key, &a); err != nil {
			return fmt.Errorf("alarm %x: %w", key, err)
		}
		kind := backends.AlarmKind(a.Alarm)
		if again, err := alarmKey(backends.Alarm{MemberID: a.MemberID, Kind: kind}); err != nil || string(again) != string(key) || kind == backends.AlarmNone {
			return fmt.Errorf("alarm %x: kind %d of member %x", key, kind, a.MemberID)
		}
	case mvcc.BucketAuth, mvcc.BucketAuthUsers, mvcc.BucketAuthRoles:
		return auth.CheckEntry(auth.Bucket(b), key, value)
	case mvcc.BucketCluster:
		return new(clusterState).read(key, value)
	}
	return nil
}

// leftovers notes the files that an interrupted founding, defragmentation or
// snapshot left beside the store.
func (k *check) leftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); name != storeName {
			what := "it is not shim's, and was not looked at"
			if strings.HasPrefix(name, storeName+".") {
				what = "a copy whose making was interrupted; the next start removes it"
			}
			k.note("%s: %s", filepath.Join(dir, name), what)
		}
	}
	return nil
}

// log checks the log, and that it goes with the store.
func (k *check) log() error {
	s := k.dir.state
	d := decoder{}
	r, err := replica.InspectLog(replica.Config{
		ClusterID: uint64(s.ClusterID), MemberID: uint64(s.MemberID), Founding: uint64(s.FoundingID), Dir: k.dir.wal}, k.durable,
		func(b []byte) error { _, err := d.decode(b); return err })
	k.checked("%s: %d segments, %d bytes, %d batches, %d entries (%d to %d) with %d commands; committed %d, term %d",
		k.dir.wal, r.Segments, r.SizeBytes, r.Batches, r.Entries, r.First, r.Last, r.Commands, r.HardState.Commit, r.HardState.Term)
	for _, n := range r.Notes {
		k.note("%s", n)
	}
	switch {
	case err == nil:
		return nil
	case replica.IsLogMisplaced(err):
		k.found(doReturn, "%v", err)
		return nil
	case replica.IsLogDamage(err):
		k.found(doRestore, "%v", err)
		return nil
	case errors.Is(err, syscall.EIO):
		k.found(doRestore, "%v: the disk cannot give it", err)
		return nil
	}
	return err
}
