package mvcc

import "sort"

// version is one change of a key. It has no value: that is in the record.
type version struct {
	main int64
	// create is the create revision, and number the key's version, counted from
	// 1 since it was created; both are 0 in a tombstone.
	create int64
	number int64
	sub    uint32
	leased bool
}

func (v version) tombstone() bool    { return v.number == 0 }
func (v version) revision() revision { return revision{v.main, int64(v.sub)} }

// keyVersions are the versions of one key, at least one. It is immutable: a
// change makes a new one. Successive ones share the array under older, which
// only the newest appends to; a reader never looks beyond its own length.
type keyVersions struct {
	key   string
	last  version
	older []version
}

// live tells whether the key exists now.
func (k *keyVersions) live() bool { return !k.last.tombstone() }

// stale tells whether a compaction may find something to forget.
func (k *keyVersions) stale() bool { return len(k.older) > 0 || !k.live() }

// with returns the versions with one more. There is only one heir of each, save
// for heirs that a discarded transaction left unused.
func (k *keyVersions) with(v version) *keyVersions {
	return &keyVersions{key: k.key, last: v, older: append(k.older, k.last)}
}

// at returns the newest version at or below the main revision, which may be a
// tombstone.
func (k *keyVersions) at(main int64) (version, bool) {
	if k.last.main <= main {
		return k.last, true
	}
	i := sort.Search(len(k.older), func(i int) bool { return k.older[i].main > main })
	if i == 0 {
		return version{}, false
	}
	return k.older[i-1], true
}

// liveAt returns the version that a read at the main revision sees.
func (k *keyVersions) liveAt(main int64) (version, bool) {
	v, ok := k.at(main)
	return v, ok && !v.tombstone()
}

// survives tells whether a compaction at main keeps v, given that v is the
// newest version at or below main: values do, and so does a deletion at main
// itself, since a watch from there must still see it.
func survives(v version, main int64) bool { return !v.tombstone() || v.main == main }

// compact returns the versions that a compaction at main leaves, nil for none,
// and calls drop with the others, in runs that are immutable. It returns k itself
// when all stay.
func (k *keyVersions) compact(main int64, drop func([]version)) *keyVersions {
	n := sort.Search(len(k.older), func(i int) bool { return k.older[i].main > main })
	// older[:n] are at or below main; the newest such is the last of them, or
	// k.last when that is at or below main, too.
	if k.last.main <= main {
		drop(k.older)
		if !survives(k.last, main) {
			drop([]version{k.last})
			return nil
		}
		if len(k.older) == 0 {
			return k
		}
		return &keyVersions{key: k.key, last: k.last}
	}
	if n > 0 && survives(k.older[n-1], main) {
		n--
	}
	if n == 0 {
		return k
	}
	drop(k.older[:n])
	return &keyVersions{key: k.key, last: k.last, older: append([]version(nil), k.older[n:]...)}
}
