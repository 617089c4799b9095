package wal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// FS is what the log needs of a file system. Names are paths. A test gives a model of a disk that loses power.
type FS interface {
	// MkdirAll makes dir and its parents, 0700, and makes their entries durable: of each that it makes, and of dir in any case.
	MkdirAll(dir string) error
	// List names the entries of dir, ascending.
	List(dir string) ([]string, error)
	// Create makes an empty file, 0600, in place of one that exists.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Rename and Remove are durable after SyncDir.
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes the directory's entries durable.
	SyncDir(dir string) error
}

// File is an open file. Written bytes are durable after Sync; before, a power loss may keep any of them.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes all written bytes and the size durable.
	Sync() error
	Size() (int64, error)
	Close() error
}

// OS is the operating system's file system.
type OS struct{}

// MkdirAll implements FS.
func (OS) MkdirAll(dir string) error { return mkdirAll(dir, OS{}.SyncDir) }

// mkdirAll makes the parents first, each durable before what goes into it.
func mkdirAll(dir string, syncDir func(string) error) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); isNotExist(err) && parent != dir {
		if err := mkdirAll(parent, syncDir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(parent)
}

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Create implements FS.
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Open implements FS.
func (OS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type osFile struct{ *os.File }

func (f osFile) Sync() error {
	if err := fdatasync(f.File); err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
