package etcd

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// A mask hides one kind of value that two correct servers may differ in. Ids of
// cluster and members, revisions, terms, counts and hashes of keys are never
// masked: both servers are founded with the same name, token and peer URL.
type mask struct {
	name string
	// find matches values with just enough around them to be sure; its groups are
	// kept, the matched text after each is not.
	find *regexp.Regexp
}

func (m mask) apply(text string) string {
	keep := ""
	for i := range m.find.NumSubexp() {
		keep += fmt.Sprintf("${%d}<%s>", i+1, m.name)
	}
	return m.find.ReplaceAllString(text, keep)
}

// The masks. A turn names those it needs.
var (
	// took is how long a request took.
	took = mask{"took", regexp.MustCompile(`(took = |took |"took":"|"Took" : "?|in )[0-9.]+(?:ns|µs|ms|s)`)}
	// remaining is the rest of a lease's time, in whole seconds.
	remaining = mask{"remaining", regexp.MustCompile(`(remaining\(|"ttl":|"TTL" : )[0-9]+`)}
	// bytesOfStore is the size of the store's file and what is in use of it.
	bytesOfStore = mask{"bytes", regexp.MustCompile(`("dbSize":|"dbSizeInUse":|"DBSize" : |"DBSizeInUse" : |"totalSize":|"Size" : )[0-9]+`)}
	// raftIndex is a position in the log: shim's begins without etcd's bootstrap entries.
	raftIndex = mask{"index", regexp.MustCompile(`("raftIndex":|"raftAppliedIndex":|"RaftIndex" : |"RaftAppliedIndex" : )[0-9]+`)}
	// statusLine is the sizes and positions in the one line of endpoint status.
	statusLine = mask{"sizes and positions", regexp.MustCompile(`( 3\.7\.0, )[^,]+, [^,]+, [0-9]+%(, [^,]+, true, false, [0-9]+, )[0-9]+, [0-9]+`)}
	// spacing is one space or two: protobuf's text form differs from build to build.
	spacing = mask{"spacing", regexp.MustCompile(`(memberID:[0-9]+) {1,2}`)}
	// ownLease is the lease of a lock or a candidate, which etcdctl lets the server choose, in a key.
	ownLease = mask{"lease", regexp.MustCompile(`(/)[0-9a-f]{13,16}\b`)}
	// inBase64 is a key with such an end, as JSON has it.
	inBase64 = mask{"key", regexp.MustCompile(`("key":")[^"]+`)}
	// leaseNumber is the id of such a lease.
	leaseNumber = mask{"lease", regexp.MustCompile(`("lease":|"Lease" : |\blease: )[1-9][0-9]+`)}
	// ownID is the id of a lease that etcdctl lets the server choose.
	ownID = mask{"id", regexp.MustCompile(`("ID":|"ID" : |^lease )[1-9a-f][0-9a-f]+`)}
	// pointer is an address in etcdctl's own memory.
	pointer = mask{"pointer", regexp.MustCompile(`\b(0x)[0-9a-f]+`)}
	// memory is how much of it a server took.
	memory = mask{"memory", regexp.MustCompile(`(memory used : )-?[0-9.]+`)}
	// fileHash is a checksum over the pages of a snapshot's file, free ones included.
	fileHash = mask{"hash", regexp.MustCompile(`("hash":|"Hash" : )[0-9]+`)}
)

// cells masks whole cells of a printed table by the head of their column, and
// drops padding and rules, since their width follows the widest cell.
func cells(text string, heads ...string) string {
	var out []string
	var hidden map[int]bool
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "│") {
			if !strings.HasPrefix(line, "┌") && !strings.HasPrefix(line, "├") && !strings.HasPrefix(line, "└") {
				out = append(out, line)
			}
			continue
		}
		row := strings.Split(strings.Trim(line, "│"), "│")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		if hidden == nil { // the first row is the head
			hidden = map[int]bool{}
			for i, head := range row {
				for _, h := range heads {
					hidden[i] = hidden[i] || head == h
				}
			}
		} else {
			for i := range row {
				if hidden[i] && row[i] != "" {
					row[i] = "<cell>"
				}
			}
		}
		out = append(out, strings.Join(row, "|"))
	}
	return strings.Join(out, "\n")
}

// log matches a line that the client's logger wrote to stderr.
var log = regexp.MustCompile(`(?m)^\{"level":"(?:info|warn)",.*\}\n?`)

// TestEtcdctlMasks ensures that a mask hides what its name says and nothing beside it.
func TestEtcdctlMasks(t *testing.T) {
	for _, c := range []struct {
		mask     mask
		in, want string
	}{
		{took, "is healthy: took = 2.6ms, revision 7", "is healthy: took = <took>, revision 7"},
		{took, `{"health":true,"took":"2.48ms"}`, `{"health":true,"took":"<took>"}`},
		{took, "member[x:1]. took 18.1ms\n", "member[x:1]. took <took>\n"},
		{took, "it took 3 tries; took = none", "it took 3 tries; took = none"},
		{remaining, "granted with TTL(100s), remaining(98s)", "granted with TTL(100s), remaining(<remaining>s)"},
		{remaining, `{"ttl":98,"granted-ttl":100}`, `{"ttl":<remaining>,"granted-ttl":100}`},
		{remaining, `{"ttl":-1}`, `{"ttl":-1}`},
		{bytesOfStore, `"dbSize":20480,"dbSizeQuota":2147483648`, `"dbSize":<bytes>,"dbSizeQuota":2147483648`},
		{raftIndex, `"raftIndex":5,"raftTerm":2,"raftAppliedIndex":4`, `"raftIndex":<index>,"raftTerm":2,"raftAppliedIndex":<index>`},
		{statusLine, "x:1, 5b, 3.7.3, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 2, 33, 34, , , false", "x:1, 5b, 3.7.3, 3.7.0, <sizes and positions>, 2.1 GB, true, false, 2, <sizes and positions>, , , false"},
		{spacing, "memberID:65  alarm:NOSPACE, a  b", "memberID:65<spacing>alarm:NOSPACE, a  b"},
		{ownLease, "l/694d9f4e8b7a3c01\nl/short", "l/<lease>\nl/short"},
		{inBase64, `{"key":"bC82OTRk","value":"eA=="}`, `{"key":"<key>","value":"eA=="}`},
		{leaseNumber, `"lease":7587883212297104385}`, `"lease":<lease>}`},
		{leaseNumber, `"Lease" : 0`, `"Lease" : 0`},
		{leaseNumber, "  lease: 7587883212297104385\n  value: 1", "  lease: <lease>\n  value: 1"},
		{ownID, `{"revision":1,"ID":7587883212297104385,"TTL":9,"Error":""}`, `{"revision":1,"ID":<id>,"TTL":9,"Error":""}`},
		{ownID, "lease 694d9f4e8b7a3c01 granted with TTL(9s)", "lease <id> granted with TTL(9s)"},
		{ownID, "\"ID\" : 0", "\"ID\" : 0"},
		{pointer, "&{{{} [] [] 0xc0001a2b30} 0xc00 [] 0}", "&{{{} [] [] 0x<pointer>} 0x<pointer> [] 0}"},
		{memory, "system memory used : -1.25 MB.", "system memory used : <memory> MB."},
		{fileHash, `{"hash":123,"hash_revision":2,"revision":4}`, `{"hash":<hash>,"hash_revision":2,"revision":4}`},
	} {
		if got := c.mask.apply(c.in); got != c.want {
			t.Errorf("mask %s of %q: got %q, want %q", c.mask.name, c.in, got, c.want)
		}
	}
	table := "┌───┬──────┐\n│ A │ SIZE │\n├───┼──────┤\n│ 1 │ 9 kB │\n│ 2 │      │\n└───┴──────┘\nend\n"
	if got, want := cells(table, "SIZE"), "A|SIZE\n1|<cell>\n2|\nend"; got != want {
		t.Errorf("cells: got %q, want %q", got, want)
	}
	if got, want := log.ReplaceAllString("{\"level\":\"warn\",\"ts\":1}\nError: x\n{\"levels\":1}\n", ""), "Error: x\n{\"levels\":1}\n"; got != want {
		t.Errorf("log lines: got %q, want %q", got, want)
	}
}
