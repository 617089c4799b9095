package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends/raftbolt"
)

// TestFlagsFirst ensures that the flags of a snapshot command may stand anywhere, and
// that the arguments of everything else stay as they are.
func TestFlagsFirst(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"shim", "shim"},
		{"shim --name x snapshot", "shim --name x snapshot"},
		{"shim check DIR --wal-dir W", "shim check DIR --wal-dir W"},
		{"shim snapshot", "shim snapshot"},
		{"shim snapshot nothing x --y", "shim snapshot nothing x --y"},
		{"shim snapshot status f -w json", "shim snapshot status -w json -- f"},
		{"shim snapshot status -w=json f", "shim snapshot status -w=json -- f"},
		{"shim snapshot restore f --data-dir d --skip-hash-check", "shim snapshot restore --data-dir d --skip-hash-check -- f"},
		{"shim snapshot restore --mark-compacted f --bump-revision 5", "shim snapshot restore --mark-compacted --bump-revision 5 -- f"},
		{"shim snapshot restore f --data-dir", "shim snapshot restore --data-dir -- f"},
		{"shim snapshot restore --unknown f", "shim snapshot restore --unknown -- f"},
		{"shim snapshot save -- --odd-name", "shim snapshot save -- --odd-name"},
		{"shim snapshot save -", "shim snapshot save -- -"},
	} {
		if got := flagsFirst(strings.Fields(c.args)); !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%q: got %q, want %q", c.args, got, c.want)
		}
	}
}

// TestStatusFormats holds what etcdutl 3.7.3 prints of the same status.
func TestStatusFormats(t *testing.T) {
	s := raftbolt.SnapshotStatus{Hash: 0xe7a6e44b, Revision: 11, Keys: 10, SizeBytes: 24576, Version: "3.7.0"}
	for format, want := range map[string]string{
		"simple": "e7a6e44b, 11, 10, 25 kB, 3.7.0\n",
		"json":   `{"hash":3886474315,"revision":11,"totalKey":10,"totalSize":24576,"version":"3.7.0"}` + "\n",
		"fields": "\"Hash\" : 3886474315\n\"Revision\" : 11\n\"Keys\" : 10\n\"Size\" : 24576\n\"Version\" : 3.7.0\n",
		"table": "┌──────────┬──────────┬────────────┬────────────┬─────────┐\n" +
			"│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │\n" +
			"├──────────┼──────────┼────────────┼────────────┼─────────┤\n" +
			"│ e7a6e44b │       11 │         10 │      25 kB │   3.7.0 │\n" +
			"└──────────┴──────────┴────────────┴────────────┴─────────┘\n",
	} {
		var b bytes.Buffer
		if err := statusFormats()[format](&b, s); err != nil || b.String() != want {
			t.Errorf("%s: got\n%s\nwant\n%s (%v)", format, b.String(), want, err)
		}
	}
}

// TestDecimalBytes holds sizes as etcd's tools print them.
func TestDecimalBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 9: "9 B", 10: "10 B", 999: "999 B", 1000: "1.0 kB", 1049: "1.0 kB", 1050: "1.1 kB", 9949: "9.9 kB", 9950: "10 kB", 20480: "20 kB",
		25_450: "26 kB", 999_400: "999 kB", 1_000_000: "1.0 MB", 82_854_982: "83 MB", 2 << 30: "2.1 GB", 5_000_000_000_000: "5.0 TB",
	} {
		if got := decimalBytes(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

// TestCheckFounders ensures that --initial-cluster must be this member alone.
func TestCheckFounders(t *testing.T) {
	for _, c := range []struct{ list, name, urls, want string }{
		{"default=http://localhost:2380", "default", "http://localhost:2380", ""},
		{"a=http://h:1,a=http://h:2", "a", "http://h:2,http://h:1", ""},
		{"a=http://h:1, b=http://h:2", "a", "http://h:1", "names 2 members"},
		{"a=http://h:1", "b", "http://h:1", `couldn't find local name "b"`},
		{"", "a", "http://h:1", "must be of the form"},
		{"a=http://h:1", "a", "http://h:2", "--initial-advertise-peer-urls"},
		{"a=http://h:1,a=http://h:2", "a", "http://h:1", "--initial-advertise-peer-urls"},
	} {
		err := checkFounders(c.list, c.name, splitList(c.urls))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q of %s at %s: %v, want %q", c.list, c.name, c.urls, err, c.want)
		}
	}
}

// TestProgress ensures that progress is shown on a terminal, up to its end, and
// nowhere else.
func TestProgress(t *testing.T) {
	var b bytes.Buffer
	silent := newProgress(&b, "copying")
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	redirected := newProgress(file, "copying")
	shown := &progress{w: &b, doing: "copying"}
	for _, p := range []*progress{silent, redirected} {
		p.at(1, 2)
		p.end()
	}
	if info, err := file.Stat(); err != nil || info.Size() != 0 || b.Len() != 0 {
		t.Errorf("shown where no terminal is: %d bytes, %q, %v", info.Size(), b.String(), err)
	}
	for done := range int64(101) {
		shown.at(done*1000, 100_000)
	}
	shown.end()
	if got := b.String(); !strings.HasSuffix(got, "\rcopying ["+strings.Repeat("=", 40)+"] 100 % of 100 kB \n") || strings.Count(got, "\r") > 3 {
		t.Errorf("shown: %q", got)
	}
}
