package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// sizes are how large the rows are.
type sizes struct {
	list    int // keys that LIST returns, 1 KiB each
	paged   int // keys of the large prefix that is paged and counted
	others  int // keys of other prefixes around both; puts, txns and reads go there
	restart int // keys of all prefixes when the restart is measured
	limit   int // keys of a page
	many    int // clients of the busiest row
	some    int // clients of the moderately busy rows
	watches int // watches on one key
	// flushing is how many single puts follow what is laid in batches, so that neither
	// server keeps large batches in the part of its log that it holds in memory or
	// reads at a start (etcd: 10,000 entries to a snapshot, 5,000 kept behind it).
	flushing int
}

var (
	fullSizes  = sizes{list: 10_000, paged: 100_000, others: 40_000, restart: 1_000_000, limit: 500, many: 1000, some: 100, watches: 1000, flushing: 20_000}
	smokeSizes = sizes{list: 1_200, paged: 2_500, others: 1_300, restart: 8_000, limit: 500, many: 100, some: 20, watches: 100, flushing: 300}
)

const (
	listValue  = 1024 // bytes of a value of the listed prefix
	smallValue = 256  // bytes of every other value
	maxUpdates = 5    // a key is laid once and updated 0 to maxUpdates times

	listPrefix  = "/registry/secrets/"
	pagedPrefix = "/registry/pods/"
	allPrefix   = "/registry/"
)

// otherPrefixes lie before, between and after the listed and the paged prefix.
var otherPrefixes = []string{ //nolint:gochecknoglobals // a constant table
	"/registry/configmaps/", "/registry/deployments/", "/registry/endpointslices/", "/registry/events/",
	"/registry/leases/", "/registry/replicasets/", "/registry/serviceaccounts/", "/registry/services/",
}

// group is a run of keys [first, end) by index.
type group struct{ first, end int }

func (g group) size() int { return g.end - g.first }

// dataset is what is laid in every target: keys by index, in an order that has
// nothing to do with their bytes. It is shared and does not change.
type dataset struct {
	keys                                    [][]byte
	list, paged, others, watched, extension group
	// listSorted, pagedSorted and allSorted are the indexes of the listed, the paged and
	// all keys in key order.
	listSorted, pagedSorted, allSorted []int
	// noise is where values are cut from.
	noise []byte
	seed  uint64
}

func newDataset(s sizes, seed uint64) *dataset {
	d := &dataset{seed: seed}
	rng := rand.New(rand.NewPCG(seed, 0))
	d.noise = make([]byte, 1<<20)
	for i := range d.noise {
		d.noise[i] = byte(rng.Uint32())
	}
	d.list = d.add(rng, s.list, listPrefix)
	d.paged = d.add(rng, s.paged, pagedPrefix)
	d.others = d.add(rng, s.others, otherPrefixes...)
	d.watched = d.add(rng, 1, "/registry/masterleases/")
	d.extension = d.add(rng, max(0, s.restart-len(d.keys)), otherPrefixes...)
	d.listSorted, d.pagedSorted, d.allSorted = d.inKeyOrder(d.list), d.inKeyOrder(d.paged), d.inKeyOrder(group{0, len(d.keys)})
	return d
}

// add appends n keys that look like those of Kubernetes, below the prefixes in turn.
func (d *dataset) add(rng *rand.Rand, n int, prefixes ...string) group {
	g := group{first: len(d.keys)}
	for i := range n {
		// The index makes a key unique, and the number before it random in order.
		key := fmt.Sprintf("%snamespace-%03d/workload-%08x-%05x", prefixes[i%len(prefixes)], rng.IntN(200), rng.Uint32(), len(d.keys))
		d.keys = append(d.keys, []byte(key))
	}
	g.end = len(d.keys)
	return g
}

func (d *dataset) inKeyOrder(g group) []int {
	sorted := make([]int, 0, g.size())
	for i := g.first; i < g.end; i++ {
		sorted = append(sorted, i)
	}
	slices.SortFunc(sorted, func(a, b int) int { return bytes.Compare(d.keys[a], d.keys[b]) })
	return sorted
}

// valueSize is the size of a key's values, in bytes.
func (d *dataset) valueSize(index int) int {
	if index < d.list.end {
		return listValue
	}
	return smallValue
}

// appendValue appends the value that a key has at a version: the two numbers, and
// noise that no two of them share.
func (d *dataset) appendValue(dst []byte, index int, version int64) []byte {
	size := d.valueSize(index)
	begin := len(dst)
	dst = strconv.AppendInt(dst, int64(index), 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, version, 10)
	dst = append(dst, ' ')
	size -= len(dst) - begin
	offset := (uint64(index)*0x9e3779b97f4a7c15 + uint64(version)*0xbf58476d1ce4e5b9) % uint64(len(d.noise)-listValue)
	return append(dst, d.noise[offset:offset+uint64(size)]...)
}

// order is the random order in which the keys of groups are put: each 1 to
// maxUpdates+1 times. It depends on the seed and round alone.
func (d *dataset) order(round int, groups ...group) []int32 {
	rng := rand.New(rand.NewPCG(d.seed, uint64(round)<<32|uint64(groups[0].first)))
	var order []int32
	for _, g := range groups {
		for i := g.first; i < g.end; i++ {
			for range 1 + rng.IntN(maxUpdates+1) {
				order = append(order, int32(i))
			}
		}
	}
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// state is what a target must hold: of each key the revisions and the version, 0
// when the key is absent. A key's entry belongs to the one client that writes it.
type state struct {
	data                 *dataset
	create, mod, version []int64
}

func newState(d *dataset) *state {
	n := len(d.keys)
	return &state{data: d, create: make([]int64, n), mod: make([]int64, n), version: make([]int64, n)}
}

// put notes that a put of the key's next version was acknowledged at a revision.
func (s *state) put(index int, revision int64) {
	if s.version[index] == 0 {
		s.create[index] = revision
	}
	s.version[index]++
	s.mod[index] = revision
}

// remove notes that a delete was acknowledged.
func (s *state) remove(index int) { s.create[index], s.mod[index], s.version[index] = 0, 0, 0 }

// appendRecord appends the key-value as etcd encodes it: mvccpb.KeyValue, fields in
// the order of their numbers.
func (s *state) appendRecord(dst []byte, index int) []byte {
	return s.data.appendRecord(dst, index, s.create[index], s.mod[index], s.version[index])
}

func (d *dataset) appendRecord(dst []byte, index int, create, mod, version int64) []byte {
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendBytes(dst, d.keys[index])
	for i, v := range [...]int64{create, mod, version} {
		dst = protowire.AppendTag(dst, protowire.Number(2+i), protowire.VarintType)
		dst = protowire.AppendVarint(dst, uint64(v))
	}
	dst = protowire.AppendTag(dst, 5, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(d.valueSize(index)))
	return d.appendValue(dst, index, version)
}

// content is what a range must return: so many records with this checksum.
type content struct {
	records int
	crc     uint32
}

// expect computes what a range over the keys must return, in the order given;
// absent keys are left out.
func (s *state) expect(indexes []int) content {
	var want content
	var buf []byte
	for _, i := range indexes {
		if s.version[i] == 0 {
			continue
		}
		buf = s.appendRecord(buf[:0], i)
		want.add(buf)
	}
	return want
}
