package wal

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestMkdirAllSyncsEveryParent: a log is durable only if each directory on the way to it is: the entry of every new one is synced, from the top.
func TestMkdirAllSyncsEveryParent(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "data", "member", "wal")
	want := []string{top, filepath.Join(top, "data"), filepath.Join(top, "data", "member")}
	for _, step := range []struct {
		name string
		want []string
	}{
		{"new", want},
		{"there already", want[2:]},
	} {
		var synced []string
		if err := mkdirAll(dir+"/", func(d string) error { synced = append(synced, d); return nil }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(synced, step.want) {
			t.Errorf("%s: synced %q, want %q", step.name, synced, step.want)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
