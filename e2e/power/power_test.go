package power

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/rig"
)

var (
	full  = flag.Bool("full", false, "the full form: every prefix and 10,000 states and more; else some hundred")
	seed  = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of load and states")
	shard = flag.String("shard", "0/1", "i/n: only states whose number modulo n is i")
	// To look at a failure again: its recording is kept, and -state names the state.
	recording = flag.String("recording", "", "directory of a recording to replay instead of making one")
	only      = flag.Int("state", -1, "number of the only state to replay")
)

// run is one recording and how much of it is replayed.
type run struct {
	name             string
	segments         []edit
	ops, large       int
	largeEach        int
	prefixes, states int
	programEach      int
	recordings       int
	catchup          int  // entries that the log keeps below what the store holds
	noKills          bool // no session ends by SIGKILL
	// covers are calls that its recording has for sure, besides those of every recording.
	covers []string
}

// What the log does to segments that it no longer needs.
const (
	recycles = "renameat shim-*.wal"
	removes  = "unlinkat shim-*.wal"
)

// cutClose is a run with a log that is cut right at what the store holds durably, in
// pieces as small as a flush: by entries kept for others and segments not yet full, the
// others hide a cut that goes too far.
func cutClose() run {
	return run{name: "log cut close", segments: tinySegments, ops: 250, large: 100 << 10, largeEach: 80, prefixes: 80, states: 240, programEach: 60, recordings: 1, catchup: 1, covers: []string{recycles, removes}}
}

func runs() []run {
	// Whether more than two segments are released at once, so that some are removed, is chance here.
	small := run{name: "small segments", segments: smallSegments, ops: 500, large: 100 << 10, largeEach: 80, prefixes: 120, states: 360, programEach: 60, recordings: 1, catchup: DefaultCatchupEntries, covers: []string{recycles}}
	if !*full {
		return []run{small, cutClose()}
	}
	small.ops, small.prefixes, small.states, small.programEach, small.recordings = 800, 0, 5000, 400, 3
	// As shipped: large values, so that the log rolls in a recording of this length.
	shipped := run{name: "as shipped", ops: 500, large: 1 << 20, largeEach: 12, prefixes: 100, states: 300, programEach: 50, recordings: 1, catchup: DefaultCatchupEntries}
	tight := cutClose()
	tight.ops, tight.prefixes, tight.states, tight.programEach = 500, 0, 2500, 400
	return []run{small, tight, shipped}
}

// TestPowerLoss: from whatever the disk may hold when the power fails, shim starts, with
// nothing acknowledged missing and nothing else half there; and no answer of the
// recorded run came before the sync that it needs.
func TestPowerLoss(t *testing.T) {
	start := time.Now()
	t.Logf("seed %d, shard %s", *seed, *shard)
	states, each := 0, ""
	for _, r := range runs() {
		t.Run(r.name, func(t *testing.T) {
			args := []string{}
			if len(r.segments) > 0 {
				args = append(args, overlay(t, r.segments, false))
			}
			m := machine{shim: rig.Build(t, args...), play: buildPlay(t, args...)}
			for i := range r.recordings {
				result := m.tryRun(t, r, *seed+uint64(i))
				n := 0
				for _, count := range result.Replayed {
					n += count
				}
				states += n
				each += fmt.Sprintf("; %s: %d states of %d calls, %d opened again, %d by the program, %d answers after their sync",
					r.name, n, result.Events, result.Reopened, result.Programs, result.AnswersKnown)
			}
		})
	}
	if !t.Failed() && *full && *recording == "" && *only < 0 {
		rig.AppendResult(t, "power", *seed, start, fmt.Sprintf("%d states, shard %s%s", states, *shard, each))
	}
}

func (m machine) tryRun(t *testing.T, r run, seed uint64) Result {
	t.Helper()
	rec := Recording{Dir: *recording}
	if rec.Dir == "" {
		rec = m.record(t, r, seed, "")
	}
	result := m.replay(t, rec, seed, 1, "-prefixes", strconv.Itoa(r.prefixes), "-states", strconv.Itoa(r.states),
		"-only", strconv.Itoa(*only), "-shim", m.shim, "-addr", rig.FreeAddr(t), "-program-each", strconv.Itoa(r.programEach))
	t.Logf("seed %d: %+v", seed, result)
	for _, f := range result.Failures {
		t.Errorf("%s\nagain: go test ./power -run '^TestPowerLoss$' %s-recording %s -seed %d -state N", f, map[bool]string{true: "-full "}[*full], rec.Dir, seed)
	}
	if *only < 0 && *recording == "" && len(result.Failures) == 0 {
		covers(t, result, r.covers)
	}
	return result
}

// covers makes sure that the recording had in it what is to be replayed.
func covers(t *testing.T, r Result, more []string) {
	t.Helper()
	wanted := append([]string{
		"mkdirat shim", "renameat shim.json.tmp", "renameat db.new", // founding
		"renameat shim-*.tmp", "renameat db.defrag", "unlinkat db.snapshot-*", "ftruncate",
	}, more...)
	for _, what := range wanted {
		if r.Seen[what] == 0 {
			t.Errorf("the recording has no %q: %v", what, r.Seen)
		}
	}
	if r.AnswersKnown < 100 {
		t.Errorf("only %d answers of %d could be held against the log", r.AnswersKnown, r.Answers)
	}
}

// TestFaultsAreFound: a build without one of the syncs that the promise rests on does
// not pass. It is a test of the rig.
func TestFaultsAreFound(t *testing.T) {
	faults := []string{faultLogSync, faultStoreSync, faultDefragment, faultLogDir, faultStoreDir}
	if *full {
		faults = append(faults, faultNewSegment, faultState, faultPath)
	}
	t.Logf("seed %d", *seed)
	findFaults(t, run{name: "small segments", segments: smallSegments, ops: 250, large: 100 << 10, largeEach: 80, catchup: DefaultCatchupEntries}, faults)
	tight := cutClose()
	tight.noKills = true // after one with this fault, the recording's shim may not start again
	findFaults(t, tight, []string{faultCut})
}

// findFaults demands that each fault is found in a recording of r, and nothing without one.
func findFaults(t *testing.T, r run, faults []string) {
	t.Helper()
	m := machine{shim: rig.Build(t, overlay(t, plantedFaults(r.segments), true)), play: buildPlay(t, overlay(t, r.segments, false))}
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			rec := m.record(t, r, *seed, fault)
			ways := [][]string{{"-prefixes", "600", "-states", "1500", "-skip-answers"}}
			if fault == faultLogSync {
				ways = append(ways, []string{"-prefixes", "1", "-states", "0", "-only", "0"}) // by its answers alone
			}
			for _, way := range ways {
				result := m.replay(t, rec, *seed, 1, way...)
				if len(result.Failures) == 0 {
					t.Fatalf("not found with %v: %+v", way, result)
				}
				t.Logf("found after %v states: %.300s", result.Replayed, result.Failures[0])
			}
		})
	}
	t.Run("none, "+r.name, func(t *testing.T) {
		// The same build finds nothing when no fault is switched on.
		rec := m.record(t, r, *seed, "")
		result := m.replay(t, rec, *seed, 1, "-prefixes", "60", "-states", "100")
		for _, f := range result.Failures {
			t.Error(f)
		}
	})
}

// machine has the programs.
type machine struct{ shim, play string }

// recordings that had to be made again: a process may be killed in the middle of a call.
const recordAttempts = 6

// record makes a recording that can be played.
func (m machine) record(t *testing.T, r run, seed uint64, fault string) Recording {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is needed: apt-get install strace")
	}
	var last error
	for range recordAttempts {
		rec := Recording{Dir: memoryDir(t)}
		disk := memoryDir(t)
		args := append(StraceArgs(rec.Trace()), m.play, "load", "-recording", rec.Dir, "-shim", m.shim, "-root", disk, "-addr", rig.FreeAddr(t),
			"-seed", strconv.FormatUint(seed, 10), "-ops", strconv.Itoa(r.ops), "-large", strconv.Itoa(r.large), "-large-each", strconv.Itoa(r.largeEach), "-catchup", strconv.Itoa(r.catchup), "-no-kills="+strconv.FormatBool(r.noKills))
		cmd := exec.Command("strace", args...)
		cmd.Env = append(os.Environ(), faultVariable+"="+fault)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("recording: %v\n%s", err, out)
		}
		_ = os.RemoveAll(disk) // in memory
		_, err := m.tryReplay(t, rec, seed, "-prefixes", "1", "-states", "0", "-only", "0")
		if err == nil {
			return rec
		}
		if last = err; !strings.Contains(err.Error(), "record again") {
			break
		}
		t.Logf("recording again: %v", err)
	}
	t.Fatalf("no recording that can be played: %v", last)
	return Recording{}
}

func (m machine) replay(t *testing.T, rec Recording, seed uint64, failures int, args ...string) Result {
	t.Helper()
	args = append(args, "-max-failures", strconv.Itoa(failures))
	result, err := m.tryReplay(t, rec, seed, args...)
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	return result
}

func (m machine) tryReplay(t *testing.T, rec Recording, seed uint64, args ...string) (result Result, err error) {
	t.Helper()
	index, of, ok := strings.Cut(*shard, "/")
	if !ok {
		t.Fatalf("-shard %q is not i/n", *shard)
	}
	cmd := exec.Command(m.play, append([]string{"replay", "-recording", rec.Dir, "-work", memoryDir(t), "-seed", strconv.FormatUint(seed, 10),
		"-shard", index, "-shards", of}, args...)...)
	var out, diagnosis bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	if err := cmd.Run(); err != nil {
		return result, fmt.Errorf("%w: %s", err, &diagnosis)
	}
	return result, json.Unmarshal(out.Bytes(), &result)
}

// memoryDir is a directory in memory where there is one, which makes a state in a
// millisecond. It stays after a failure.
func memoryDir(t *testing.T) string {
	t.Helper()
	const memory = "/dev/shm"
	base := memory
	if _, err := os.Stat(memory); err != nil {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, "shim-power-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kept: %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

// TestSyncDelay: no write is answered sooner than the sync that it waits for, each of
// which strace delays; on a build without that sync some are.
func TestSyncDelay(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is needed: apt-get install strace")
	}
	const delay = 30 * time.Millisecond
	bin := rig.Build(t, overlay(t, plantedFaults(smallSegments), true))
	for _, fault := range []string{"", faultLogSync} {
		t.Run("fault="+fault, func(t *testing.T) {
			s := rig.Start(t, rig.Options{
				Bin: bin, Dir: filepath.Join(memoryDir(t), "data"), Addr: rig.FreeAddr(t), Env: []string{faultVariable + "=" + fault},
				Wrap: []string{"strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync",
					"-e", fmt.Sprintf("inject=fdatasync:delay_exit=%d", delay.Microseconds())},
			})
			latencies := latenciesOf(t, s)
			slices.Sort(latencies)
			t.Logf("%d writes, answered after %v to %v", len(latencies), latencies[0], latencies[len(latencies)-1])
			if early := latencies[0] < delay; early != (fault != "") {
				t.Errorf("the first answer came after %v, each sync takes at least %v more", latencies[0], delay)
			}
		})
	}
}
