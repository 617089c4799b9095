package mvcc

// Recent returns events as History does, out of the recent events in memory
// alone; ok is false when those do not go back as far as from. It also works
// below the compacted revision, so that a reader that is only a moment behind
// the writer loses nothing to a compaction of what was just written. Of such an
// event the record before it may be gone.
func (s *Store) Recent(from, maxBytes int64) (events []*HistoryEvent, next int64, ok bool) {
	st := s.state.Load()
	if from > st.revision {
		return nil, from, true
	}
	return s.ring.read(max(from, 0), st.revision, maxBytes)
}
