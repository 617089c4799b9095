package rig

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// SaveSnapshot streams a snapshot of the server into a file and checks it, once it
// came whole: its SHA-256 trailer is right, and it opens. A stream that broke off
// is a GoneError.
func SaveSnapshot(ctx context.Context, conn *grpc.ClientConn, path string) error {
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return GoneError{err}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	tail, err := receive(stream, f, sum)
	if err != nil {
		return err
	}
	if !bytes.Equal(tail, sum.Sum(nil)) {
		return fmt.Errorf("a snapshot that came whole ends with %x, its content has the SHA-256 %x", tail, sum.Sum(nil))
	}
	return nil
}

// receive writes all but the last bytes, which are the checksum, to f and sum.
func receive(stream pb.Maintenance_SnapshotClient, f *os.File, sum hash.Hash) (tail []byte, err error) {
	to := io.MultiWriter(f, sum)
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return tail, nil
		}
		if err != nil {
			return nil, GoneError{err}
		}
		tail = append(tail, resp.Blob...)
		if n := len(tail) - sha256.Size; n > 0 {
			if _, err := to.Write(tail[:n]); err != nil {
				return nil, err
			}
			tail = append(tail[:0], tail[n:]...)
		}
	}
}

// OpenSnapshot opens a snapshot file, checks the structure of all its pages, and
// returns the newest revision in it.
func OpenSnapshot(path string) (newest int64, err error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0, fmt.Errorf("open snapshot: %w", err)
	}
	defer func() { _ = db.Close() }()
	err = db.View(func(tx *bolt.Tx) error {
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = err
			}
		}
		if first != nil {
			return first
		}
		keys := tx.Bucket([]byte("key"))
		if keys == nil {
			return errors.New("it has no bucket of keys")
		}
		// A revision is eight bytes of its number, an underscore, eight of its part.
		if last, _ := keys.Cursor().Last(); len(last) >= 17 {
			newest = int64(binary.BigEndian.Uint64(last))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("snapshot %s: %w", filepath.Base(path), err)
	}
	return newest, nil
}

// CompactionUnderWay tells whether the store of a directory that no server uses
// says that a physical compaction was begun and not finished.
func CompactionUnderWay(dir string) (underWay bool, err error) {
	db, err := bolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close() }()
	err = db.View(func(tx *bolt.Tx) error {
		if meta := tx.Bucket([]byte("meta")); meta != nil {
			underWay = !bytes.Equal(meta.Get([]byte("scheduledCompactRev")), meta.Get([]byte("finishedCompactRev")))
		}
		return nil
	})
	return underWay, err
}
