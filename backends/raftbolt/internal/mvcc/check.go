package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"syscall"
)

// CheckOptions say what Check asks its caller, who knows the meaning of the small
// buckets. Any function may be nil.
type CheckOptions struct {
	// Founding is Config.Founding.
	Founding uint64
	// Entry judges an entry of a small bucket; its error is damage. All come before
	// the first key.
	Entry func(b Bucket, k, v []byte) error
	// LeaseExists tells whether a lease is in the lease bucket.
	LeaseExists func(id int64) bool
	// Progress is told how many of the file's pages were read; now and then.
	Progress func(read, all uint64)
}

// CheckReport is what Check found.
type CheckReport struct {
	SizeBytes        int64
	Pages, UsedPages uint64
	// Keys exist now; Changes are the records of the key bucket.
	Keys, Changes int64
	// Current is the newest revision, Compacted what the last compaction was asked
	// for and Finished the last that is done; -1 is none.
	Current, Compacted, Finished int64
	Applied                      Applied
	// Sealed tells that Applied can be relied on.
	Sealed bool
	// Entries counts the entries of each small bucket.
	Entries map[Bucket]int
	// Damage names each fault with its place, at most maxDamage; Faults counts all.
	Damage []string
	Faults int
	// Notes are remarkable and no damage.
	Notes []string
}

// maxDamage findings are kept: who reads more learns no more.
const maxDamage = 50

// Check reads the file at path through, never writes, and reports what is wrong
// with it: structure of pages, order of keys, encoding of records, and whether
// the changes make a history. A flipped bit inside a value, or in the name of a
// key that has one change only, cannot be seen.
//
// Memory: one bit for each page, one path of pages, and about 100 bytes for each
// key, however long (100 MB for 1,000,000 keys).
//
// Errors are those of opening: the file system's and ErrLocked; all that is wrong
// with the content is in the report.
func Check(path string, o CheckOptions) (*CheckReport, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	// bbolt's own lock, shared as its readers take it.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: %s. Stop that process first", ErrLocked, path)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	c := &checker{
		o: o, file: f, buckets: map[string][]byte{}, seen: newSightings(),
		report: &CheckReport{SizeBytes: info.Size(), Compacted: -1, Finished: -1, Entries: map[Bucket]int{}},
	}
	if err := c.run(); err != nil {
		c.damage("it cannot be read: %v", err)
	}
	return c.report, nil
}

// checker is a Check under way.
type checker struct {
	o       CheckOptions
	file    *os.File
	walker  *treeWalker
	report  *CheckReport
	buckets map[string][]byte // name to head
	read    uint64
	// broken: pages are missing from the walk, so that missing changes say nothing.
	broken bool

	seen *sightings
	last revision
}

// damage notes a fault.
func (c *checker) damage(format string, args ...any) {
	if c.report.Faults++; len(c.report.Damage) < maxDamage {
		c.report.Damage = append(c.report.Damage, fmt.Sprintf(format, args...))
	}
}

func (c *checker) note(format string, args ...any) {
	c.report.Notes = append(c.report.Notes, fmt.Sprintf(format, args...))
}

// run goes through the file. Its error is one of reading.
func (c *checker) run() error {
	meta, ok, err := c.metas()
	if err != nil || !ok {
		return err
	}
	c.walker = newTreeWalker(c.file, meta, func(format string, args ...any) {
		c.broken = true
		c.damage(format, args...)
	}, func(pages uint64) {
		if c.read += pages; c.o.Progress != nil {
			c.o.Progress(c.read, meta.highWater)
		}
	})
	c.report.Pages = meta.highWater
	err = c.walker.tree(meta.root, func(e *element, at place) error {
		switch {
		case e.flags&flagBucket == 0:
			c.damage("%s: %q beside the buckets", at, e.key)
		case !slices.Contains(buckets(), Bucket(e.key)):
			c.damage("%s: bucket %q, which storage version %s has not", at, e.key, StorageVersion)
		default:
			c.buckets[string(e.key)] = slices.Clone(e.value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.smallBuckets(); err != nil {
		return err
	}
	if err := c.changes(); err != nil {
		return err
	}
	if c.broken {
		return nil
	}
	err = c.walker.freelist()
	c.report.UsedPages = c.walker.used
	return err
}

// metas checks both meta pages and the file's length, and tells the newer one.
func (c *checker) metas() (newest metaPage, ok bool, err error) {
	newest, ok, err = newestMetaPage(c.file)
	if err != nil {
		return newest, false, err
	}
	if !ok {
		c.damage("it has no valid meta page: it is not a bbolt file, or its beginning was overwritten")
		return newest, false, nil
	}
	for i := range uint64(2) {
		offset := int64(i * newest.pageSize)
		m, sound, err := readMetaPage(c.file, offset)
		if err != nil {
			return newest, false, err
		}
		if !sound {
			// A crash cannot do that: what is used of the page lies in one sector.
			c.damage("meta page %d (offset %d) is damaged; the other one says what transaction %d left", i, offset, newest.txid)
			continue
		}
		var head [pageHeadBytes]byte
		if _, err := c.file.ReadAt(head[:], offset); err != nil {
			return newest, false, err
		}
		if want := (pageHead{id: i, kind: kindMeta}); decodePageHead(head[:]) != want {
			c.damage("the head of meta page %d (offset %d) is damaged: %x", i, offset, head)
		}
		if m.txid%2 != i || m.pageSize != newest.pageSize {
			c.damage("meta page %d (offset %d) has transaction %d and page size %d", i, offset, m.txid, m.pageSize)
		}
	}
	if length := uint64(c.report.SizeBytes); newest.highWater > length/newest.pageSize {
		c.damage("its length is %d bytes, its newest meta page says %d pages of %d bytes: it was cut off",
			length, newest.highWater, newest.pageSize)
		return newest, false, nil
	}
	return newest, true, nil
}

// smallBuckets checks all buckets but that of the keys.
func (c *checker) smallBuckets() error {
	for _, name := range buckets() {
		head, ok := c.buckets[string(name)]
		if !ok {
			c.damage("bucket %q is missing", name)
			continue
		}
		if name == bucketKey {
			continue
		}
		meta := map[string][]byte{}
		err := c.walker.bucket(string(name), head, func(e *element, at place) error {
			c.report.Entries[name]++
			if e.flags != 0 {
				c.damage("%s: a bucket %q within bucket %q", at, e.key, name)
				return nil
			}
			if name == bucketMeta {
				meta[string(e.key)] = slices.Clone(e.value)
				return nil
			}
			if c.o.Entry != nil {
				if err := c.o.Entry(name, e.key, e.value); err != nil {
					c.damage("%s: bucket %q: %v", at, name, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if name == bucketMeta && len(head) >= bucketBytes {
			c.meta(meta, binary.LittleEndian.Uint64(head[8:]))
		}
	}
	return nil
}

// meta checks the positions in the meta bucket.
func (c *checker) meta(entries map[string][]byte, seal uint64) {
	l := &loader{path: c.file.Name(), scheduled: -1, finished: -1}
	if err := l.readMeta(func(k []byte) []byte { return entries[string(k)] }); err != nil {
		var corrupt *CorruptError
		if errors.As(err, &corrupt) {
			err = errors.New(corrupt.Cause)
		}
		c.damage("bucket %q: %v", bucketMeta, err)
	}
	for k := range entries {
		switch k {
		case metaConsistentIndex, metaTerm, metaConfState, metaStorageVersion, metaScheduledCompact, metaFinishedCompact:
		default:
			c.damage("bucket %q has an unknown entry %q", bucketMeta, k)
		}
	}
	want, _ := metaSeal(c.o.Founding, func(f func(k, v []byte) error) error {
		for _, k := range slices.Sorted(maps.Keys(entries)) {
			_ = f([]byte(k), entries[k])
		}
		return nil
	})
	switch c.report.Sealed = seal == want; {
	case c.report.Sealed || c.broken:
	case seal == 0 && l.applied.Index != 0:
		c.damage("bucket %q has no seal: another program wrote the file anew, such as etcdutl defrag", bucketMeta)
	default:
		c.damage("bucket %q: its seal is %x, of this directory it would be %x: the file belongs to another data directory, "+
			"or what it says of its place in the log is damaged", bucketMeta, seal, want)
	}
	c.report.Applied, c.report.Compacted, c.report.Finished = l.applied, l.scheduled, l.finished
	if l.finished > l.scheduled {
		c.damage("bucket %q: the compaction at revision %d is done, but the last asked for is %d", bucketMeta, l.finished, l.scheduled)
	}
	if l.scheduled > l.finished {
		c.note("a compaction at revision %d was interrupted; the next start goes on with it", l.scheduled)
	}
}

// changes checks the key bucket.
func (c *checker) changes() error {
	head, ok := c.buckets[string(bucketKey)]
	if ok {
		c.last = revision{main: max(1, c.report.Compacted), sub: math.MaxInt64}
		c.walker.branchKey = func(key []byte, at place) {
			if _, _, err := parseRevision(key); err != nil {
				c.damage("%s: %v", at, err)
			}
		}
		if err := c.walker.bucket(string(bucketKey), head, c.change); err != nil {
			return err
		}
	}
	c.report.Current = max(1, c.last.main)
	c.seen.each(func(s *sighting) {
		if s.tombstone() {
			return
		}
		c.report.Keys++
		if s.dangling {
			c.damage("revision %d is the newest of a key whose lease does not exist: the key would never expire", s.main)
		}
	})
	return nil
}

// change checks one record of the key bucket.
func (c *checker) change(e *element, at place) error {
	c.report.Changes++
	r, tombstone, err := parseRevision(e.key)
	switch {
	case e.flags != 0:
		c.damage("%s: a bucket among the keys", at)
		return nil
	case err != nil:
		c.damage("%s: %v", at, err)
		return nil
	case r.sub > math.MaxUint32:
		c.damage("%s: revision %d.%d counts too many changes", at, r.main, r.sub)
		return nil
	}
	if isRaise(tombstone, e.value) {
		if r.main > c.report.Compacted {
			c.damage("%s: revision %d was raised to, but nothing is compacted there", at, r.main)
		}
		return nil
	}
	f, value, err := scanCanonical(e.value)
	if err != nil || len(f.key) == 0 {
		c.damage("%s: the record at revision %d.%d cannot be read", at, r.main, r.sub)
		c.broken = true
		return nil
	}
	c.follow(r, at)
	if tombstone && len(value) > 0 {
		c.damage("%s: the deletion at revision %d.%d has a value", at, r.main, r.sub)
	}
	c.chain(r, tombstone, &f, at)
	return nil
}

// follow checks that no change is missing before r: above the last compaction,
// each revision has changes, counted from 0.
func (c *checker) follow(r revision, at place) {
	before := c.last
	if r.main <= c.report.Compacted {
		return
	}
	c.last = r
	next := r.main == before.main && r.sub == before.sub+1 || r.main == before.main+1 && r.sub == 0
	if !next && !c.broken {
		if before.sub == math.MaxInt64 {
			c.damage("%s: revision %d.%d comes first, changes are missing after revision %d", at, r.main, r.sub, before.main)
			return
		}
		c.damage("%s: revision %d.%d follows %d.%d, changes between them are missing", at, r.main, r.sub, before.main, before.sub)
	}
}

// chain checks a record against the one of the same key before it.
func (c *checker) chain(r revision, tombstone bool, f *fields, at place) {
	fault := func(format string, args ...any) {
		c.damage("%s: key %q at revision %d.%d: %s", at, f.key, r.main, r.sub, fmt.Sprintf(format, args...))
	}
	if tombstone {
		if f.create != 0 || f.mod != 0 || f.version != 0 || f.lease != 0 {
			fault("a deletion's record has more than a key")
		}
	} else if f.mod != r.main || f.version < 1 || f.create < 1 || f.create > r.main || f.version == 1 != (f.create == f.mod) ||
		f.version-1 > f.mod-f.create {
		fault("its record says mod revision %d, create revision %d, version %d", f.mod, f.create, f.version)
		return
	}
	before, known := c.seen.of(f.key)
	now := sighting{main: r.main, create: f.create, version: f.version}
	now.dangling = f.lease != 0 && c.o.LeaseExists != nil && !c.o.LeaseExists(f.lease)
	c.seen.set(f.key, now)
	if c.broken {
		return
	}
	compacted := r.main <= c.report.Compacted
	switch {
	case !known && tombstone && !compacted:
		fault("a deletion of a key that did not exist")
	case !known && f.version > 1 && !compacted:
		fault("it is version %d, but the versions before it are missing", f.version)
	case !known && tombstone && r.main < c.report.Finished:
		fault("a deletion that the compaction at revision %d should have removed", c.report.Finished)
	case !known:
	case r.main <= c.report.Finished:
		fault("superseding revision %d, which the compaction at revision %d should have removed", before.main, c.report.Finished)
	case tombstone && before.tombstone():
		fault("a deletion after the deletion at revision %d", before.main)
	case tombstone:
	case before.tombstone() && f.version != 1:
		fault("it is version %d after the deletion at revision %d", f.version, before.main)
	case !before.tombstone() && (f.version != before.version+1 || f.create != before.create):
		fault("it is version %d, created at %d; revision %d before it is version %d, created at %d",
			f.version, f.create, before.main, before.version, before.create)
	}
}

// sighting is the newest change of a key that was read.
type sighting struct {
	main, create, version int64
	dangling              bool
}

func (s *sighting) tombstone() bool { return s.version == 0 }
