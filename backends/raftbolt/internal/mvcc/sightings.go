package mvcc

import "hash/maphash"

// sightings remember the newest change of each key by two hashes of 64 bits, so
// that memory does not depend on the length of keys. Two keys of a million have
// the same with a probability of 10^-27.
type sightings struct {
	seeds [2]maphash.Seed
	byKey map[[2]uint64]sighting
}

func newSightings() *sightings {
	return &sightings{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, byKey: map[[2]uint64]sighting{}}
}

func (s *sightings) hash(key []byte) [2]uint64 {
	return [2]uint64{maphash.Bytes(s.seeds[0], key), maphash.Bytes(s.seeds[1], key)}
}

func (s *sightings) of(key []byte) (sighting, bool) {
	v, ok := s.byKey[s.hash(key)]
	return v, ok
}

func (s *sightings) set(key []byte, v sighting) { s.byKey[s.hash(key)] = v }

func (s *sightings) each(f func(*sighting)) {
	for _, v := range s.byKey {
		f(&v)
	}
}
