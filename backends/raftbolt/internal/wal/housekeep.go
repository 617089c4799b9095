package wal

import "github.com/etcdshim/shim/internal/failpoint"

// keptFree is how many released segments wait for recycling; more are removed.
const keptFree = 2

// NeedsHousekeeping tells whether Housekeep has something to do.
func (l *Log) NeedsHousekeeping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.needsHousekeeping()
}

// needsHousekeeping is NeedsHousekeeping for who holds mu.
func (l *Log) needsHousekeeping() bool {
	return l.spare == nil || len(l.free) > keptFree || l.lean && len(l.free) > 0
}

// Housekeep makes sure that there is a spare, by recycling a released segment or making one, and removes superfluous ones. After an error that
// IsShortage the log is as before, and it may be called again; any other error is final to the caller's use of the log, as one of Sync is.
func (l *Log) Housekeep() error {
	l.housekeeping.Lock()
	defer l.housekeeping.Unlock()
	for l.NeedsHousekeeping() {
		old, needSpare, later := l.takeFree()
		if later {
			return nil
		}
		// One by one, oldest first, each durable before the next: a gap in the middle would look like corruption.
		switch {
		case needSpare && old != nil && old.size == l.opt.SegmentBytes:
			if err := l.opt.recycle(old, l.nextHeader()); err != nil {
				l.putBack(old)
				return err
			}
		case old != nil:
			if err := l.remove(old); err != nil {
				l.putBack(old)
				return err
			}
			continue
		default:
			var err error
			if old, err = l.opt.newSegment(l.nextHeader(), nil); err != nil {
				return err
			}
		}
		l.mu.Lock()
		l.spare = old
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lean = l.lean && len(l.free) > 0
	return nil
}

// takeFree takes the oldest released segment, if any; later tells that it must be left alone until the newest batch is synced: a power loss that
// takes that one would leave no batch at all or, of a spare that was passed over, a damaged header with no batch behind it.
func (l *Log) takeFree() (old *segment, needSpare, later bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.free) > 0 {
		if s := l.free[0]; s == l.synced || l.synced != nil && s.sequence > l.synced.sequence {
			return nil, false, true
		}
		old = l.free[0]
		l.free = append([]*segment(nil), l.free[1:]...)
	}
	return old, l.spare == nil, false
}

// putBack makes s the oldest released segment again.
func (l *Log) putBack(s *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append([]*segment{s}, l.free...)
}

// remove removes a segment that is not of the log any more. It may be called again after an error.
func (l *Log) remove(s *segment) error {
	if err := l.opt.FS.Remove(s.name); err != nil && !isNotExist(err) {
		return err
	}
	failpoint.Hit(failpoint.LogRemove)
	if err := l.opt.syncDir(); err != nil {
		return err
	}
	// Nothing of it counts any more: a failure to close loses nothing, and trying again would fail for good.
	_ = s.file.Close()
	return nil
}
