package oops_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kvmrun/kvmrun/internal/oops"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// checkLaws checks what holds for every input.
func checkLaws(t testing.TB, log []byte) {
	t.Helper()
	all := oops.Parse(log)
	assert.Equal(t, oops.ContainsCrash(log), len(all) > 0)
	var before int64
	for i, r := range all {
		assert.Assert(t, r.Start >= before, "report %d begins at %d, before %d", i, r.Start, before)
		before = r.Start
		assert.Assert(t, r.Start < r.End && r.End <= int64(len(log)), "report %d: [%d,%d) of %d", i, r.Start, r.End, len(log))
		assert.Assert(t, r.Start == 0 || log[r.Start-1] == '\n', "report %d begins inside a line", i)
		assert.Assert(t, r.End == int64(len(log)) || log[r.End-1] == '\n', "report %d ends inside a line", i)
		assert.Assert(t, r.Title != "" && r.Fingerprint != "")
		assert.Assert(t, len(r.Raw) > 0 && len(r.Raw) <= oops.MaxRaw+1)
		assert.Equal(t, r.Corrupted, r.CorruptedReason != "")
	}
	const most = 20 // reports checked by parsing again
	for _, r := range all[:min(len(all), most)] {
		// A reboot begins with the last line of the kernel before, which may begin
		// a report of its own; and a line that messages cut short may begin several,
		// of which the first belonged to an earlier report.
		found := oops.Parse(log[r.Start:])
		assert.Assert(t, len(found) > 0, "nothing found from the start of %q", r.Title)
		again := found[0]
		for i := 1; i < len(found) && again.Title != r.Title && (found[i].Start == 0 || i == 1 && r.Kind == oops.Reboot); i++ {
			again = found[i]
		}
		assert.Equal(t, again.Start, int64(0), "%q", r.Title)
		assert.Equal(t, again.Title, r.Title)
		assert.Equal(t, again.Kind, r.Kind)
		assert.Equal(t, again.Corrupted, r.Corrupted)
		for _, next := range oops.Parse(log[r.End:]) {
			assert.Assert(t, next.Start+r.End > r.Start, "found %q again from its end", r.Title)
		}
	}
}

// feed parses log through a Scanner in pieces of random size.
func feed(t testing.TB, log []byte, rnd *rand.Rand) []*oops.Report {
	t.Helper()
	var out []*oops.Report
	s := oops.NewScanner(func(r *oops.Report) { out = append(out, r) })
	for rest := log; len(rest) > 0; {
		n := min(len(rest), 1+rnd.IntN(1<<rnd.IntN(14)))
		piece := bytes.Clone(rest[:n])
		got, err := s.Write(piece)
		assert.NilError(t, err)
		assert.Equal(t, got, n)
		for i := range piece {
			piece[i] = 'x' // the scanner must not keep p
		}
		rest = rest[n:]
	}
	assert.NilError(t, s.Close())
	assert.NilError(t, s.Close())
	assert.Assert(t, !s.Pending())
	_, err := s.Write([]byte("x"))
	assert.ErrorContains(t, err, "closed")
	return out
}

// logs returns the project's fixtures and, if there, the corpus.
func logs(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	files, err := filepath.Glob("testdata/*/*.txt")
	assert.NilError(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		assert.NilError(t, err)
		out[filepath.Base(file)] = data
	}
	if os.Getenv(corpusEnv) != "" {
		for _, s := range samples(t) {
			out["corpus/"+s.name] = s.log
		}
	}
	assert.Assert(t, len(out) > 0)
	return out
}

func TestLaws(t *testing.T) {
	var joined []byte
	for name, log := range logs(t) {
		t.Run(name, func(t *testing.T) { checkLaws(t, log) })
		joined = append(append(joined, log...), '\n')
	}
	checkLaws(t, joined[:min(len(joined), 200<<10)])
}

// TestRebootBehindAProgram: reports come in the order of their first lines, also
// where a program crashed after the last line of the kernel that went away.
func TestRebootBehindAProgram(t *testing.T) {
	log := "[   50.000000] x\npanic: runtime error: index out of range\n\ngoroutine 1 [running]:\nmain.main()\n[    0.000000] Linux version 6.12.0\n[    1.000000] y\n"
	checkLaws(t, []byte(log))
	var titles []string
	for _, r := range oops.Parse([]byte(log)) {
		titles = append(titles, r.Title)
	}
	assert.Equal(t, len(titles), 2, "%q", titles)
	assert.Equal(t, titles[0], "unexpected kernel reboot")
}

func TestStreamingEqualsParse(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for name, log := range logs(t) {
		want := oops.Parse(log)
		for range 2 {
			assert.Assert(t, is.DeepEqual(feed(t, log, rnd), want), name)
		}
		var got []*oops.Report
		assert.NilError(t, oops.Reader(iotest.OneByteReader(bytes.NewReader(log)), func(r *oops.Report) { got = append(got, r) }))
		assert.Assert(t, is.DeepEqual(got, want), name)
	}
}

func TestReaderError(t *testing.T) {
	log := "[    1.0] x\n[    2.000000] BUG: workqueue lockup - pool\n"
	n := 0
	err := oops.Reader(iotest.TimeoutReader(iotest.HalfReader(strings.NewReader(log))), func(*oops.Report) { n++ })
	assert.ErrorIs(t, err, iotest.ErrTimeout)
	assert.ErrorContains(t, err, "read console log")
}

// TestDressing checks that what collectors and terminals do to a log changes
// neither titles nor, where the length is kept, offsets.
func TestDressing(t *testing.T) {
	ignore := cmpopts.IgnoreFields(oops.Report{}, "Start", "End", "Raw", "Time")
	dress := map[string]func(line string, i int) string{
		"crlf":   func(l string, _ int) string { return l + "\r" },
		"colour": func(l string, _ int) string { return "\x1b[1;31m" + l + "\x1b[0m" },
		"syslog": func(l string, _ int) string {
			if !strings.HasPrefix(l, "[") {
				return l
			}
			return "Jan  2 03:04:05 host kernel: " + l
		},
		"github": func(l string, i int) string { return fmt.Sprintf("2026-01-02T03:04:%02d.1234567Z %s", i%60, l) },
		"level":  func(l string, _ int) string { return "<4>" + l },
		"nul":    func(l string, _ int) string { return "\x00" + l + "\x00" },
	}
	for name, log := range fixtures(t) {
		want := oops.Parse(log.log)
		for how, fn := range dress {
			lines := strings.Split(string(log.log), "\n")
			for i := range lines {
				if lines[i] != "" {
					lines[i] = fn(lines[i], i)
				}
			}
			got := oops.Parse([]byte(strings.Join(lines, "\n")))
			if diff := cmp.Diff(want, got, ignore, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s, %s: -plain +dressed\n%s", name, how, diff)
			}
		}
	}
}

func TestHostileInput(t *testing.T) {
	big := bytes.Repeat([]byte{'a'}, 1<<20)
	for name, log := range map[string][]byte{
		"empty":       nil,
		"newline":     []byte("\n"),
		"nul":         make([]byte, 100),
		"one line":    big,
		"header only": []byte("BUG:"),
		"binary":      []byte("\xff\xfe[ 1.000000] WARNING: CPU: \x80\x81\n\x00\x00[<"),
		"long title":  append([]byte("[    1.000000] BUG: "), big...),
		"long before": append(bytes.Clone(big), "BUG: KASAN: use-after-free in x+0x1/0x2\n"...),
		"escapes":     []byte("\x1b\x1b[\x1b]\x1b[31"),
		"no newline":  []byte("[    1.000000] kernel BUG at mm/slub.c:1!"),
		"cr only":     []byte("[    1.000000] BUG: bad\rBUG: worse\r"),
	} {
		t.Run(name, func(t *testing.T) {
			checkLaws(t, log)
			rnd := rand.New(rand.NewPCG(3, 4))
			assert.Assert(t, is.DeepEqual(feed(t, log, rnd), oops.Parse(log)))
		})
	}
}

// TestMemoryIsBounded feeds a stream that never stops beginning and mixing
// reports and checks that the scanner's own memory stays small.
func TestMemoryIsBounded(t *testing.T) {
	var chunk bytes.Buffer
	for i := range 400 {
		fmt.Fprintf(&chunk, "[%5d.000000][ T%d] BUG: KASAN: use-after-free in f%d+0x1/0x2\n", i, i%40, i%7)
		fmt.Fprintf(&chunk, "[%5d.000000][ T%d] Read of size 8 at addr ffff888012345678 by task a/1\n", i, i%40)
		fmt.Fprintf(&chunk, "[%5d.000000][ T%d] Call Trace:\n", i, i%40)
		for j := range 200 {
			fmt.Fprintf(&chunk, "[%5d.000000][ T%d]  fn_%d+0x1/0x2\n", i, i%40, j)
		}
	}
	const total = 24 << 20
	n := 0
	s := oops.NewScanner(func(*oops.Report) { n++ })
	var peak uint64
	for fed := 0; fed < total; fed += chunk.Len() {
		_, err := s.Write(chunk.Bytes())
		assert.NilError(t, err)
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc)
	}
	assert.NilError(t, s.Close())
	assert.Assert(t, n > 1000, "%d reports", n)
	const limit = 64 << 20
	assert.Assert(t, peak < limit+uint64(chunk.Len()), "heap reached %d bytes", peak)
}

func TestPendingAndFlush(t *testing.T) {
	var got []*oops.Report
	s := oops.NewScanner(func(r *oops.Report) { got = append(got, r) })
	write := func(text string) {
		_, err := s.Write([]byte(text))
		assert.NilError(t, err)
	}
	write("[    1.000000] all is well\n")
	assert.Assert(t, !s.Pending())
	write("[    2.000000] WARNING: CPU: 0 PID: 1 at a.c:1 foo+0x1/0x2\n[    2.000000] Call Trace:\n")
	assert.Assert(t, s.Pending())
	write("[    2.000000]  foo+0x1/0x2\n")
	assert.Assert(t, is.Len(got, 0))
	s.Flush()
	assert.Assert(t, !s.Pending())
	assert.Assert(t, is.Len(got, 1))
	assert.Equal(t, got[0].Title, "WARNING in foo")
	write("[    3.000000] BUG: workqueue lockup\n")
	assert.NilError(t, s.Close())
	assert.Assert(t, is.Len(got, 2))
}

func FuzzParse(f *testing.F) {
	for _, log := range logs(f) {
		if len(log) < 16<<10 {
			f.Add(log)
		}
	}
	for _, d := range dresses {
		for _, name := range []string{"kasan-slab-uaf.txt", "null.txt"} {
			log, _ := d.dressed(messagesOf(fixtures(f)[name].log))
			f.Add(log[:min(len(log), 16<<10)])
		}
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		if len(log) > 64<<10 {
			return
		}
		checkLaws(t, log)
		rnd := rand.New(rand.NewPCG(uint64(len(log)), 7))
		assert.Assert(t, is.DeepEqual(feed(t, log, rnd), oops.Parse(log)))
	})
}

func BenchmarkClean(b *testing.B) {
	log := bytes.Repeat([]byte("[   12.345678][  T123] usb 1-1: new high-speed USB device number 4 using dummy_hcd\n"), 10000)
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		if oops.ContainsCrash(log) {
			b.Fatal("found a crash")
		}
	}
}

func BenchmarkFixtures(b *testing.B) {
	var log []byte
	for _, data := range logs(b) {
		log = append(append(log, data...), '\n')
	}
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		oops.Parse(log)
	}
}

// TestLawsOnMixtures checks the laws on logs that were cut up and mixed: what a
// byte fuzzer rarely produces.
func TestLawsOnMixtures(t *testing.T) {
	const rounds = 60
	rnd := rand.New(rand.NewPCG(5, 6))
	var all [][]byte
	for _, s := range fixtures(t) {
		all = append(all, s.log)
	}
	slices.SortFunc(all, bytes.Compare)
	for range rounds {
		checkLaws(t, mixture(rnd, all))
	}
}

// mixture interleaves some of logs, dropping lines and repeating others.
func mixture(rnd *rand.Rand, logs [][]byte) []byte {
	var queues [][][]byte
	for range 1 + rnd.IntN(4) {
		queues = append(queues, bytes.SplitAfter(logs[rnd.IntN(len(logs))], []byte("\n")))
	}
	var out []byte
	for len(queues) > 0 && len(out) < 32<<10 {
		i := rnd.IntN(len(queues))
		n := min(len(queues[i]), 1+rnd.IntN(8))
		for _, line := range queues[i][:n] {
			switch rnd.IntN(20) {
			case 0: // lost
			case 1:
				out = append(append(out, line...), line...)
			case 2:
				out = append(out, line[:rnd.IntN(len(line)+1)]...)
			default:
				out = append(out, line...)
			}
		}
		if queues[i] = queues[i][n:]; len(queues[i]) == 0 {
			queues = slices.Delete(queues, i, i+1)
		}
	}
	return out
}

// TestOwn: an error of a file system on a loop device counts on machines of
// one's own alone, on other devices everywhere.
func TestOwn(t *testing.T) {
	log := func(device string) []byte {
		return []byte("[   12.345678] EXT4-fs error (device " + device + "): ext4_lookup:1815: inode #2: comm ls: bad\n")
	}
	for _, c := range []struct {
		device    string
		want, own int
	}{{"vda", 1, 1}, {"loop0", 0, 1}} {
		assert.Assert(t, is.Len(oops.Parse(log(c.device)), c.want))
		got := oops.ParseOwn(log(c.device))
		assert.Assert(t, is.Len(got, c.own))
		assert.Equal(t, got[0].Title, "EXT4-fs error in ext4_lookup")
	}
}

// TestPrograms: the crash of a program of Go is reported and does not count; what
// only looks like one is none, and on a machine of ours it is the business of
// whoever ran the program.
func TestPrograms(t *testing.T) {
	const panicked = "executing program\npanic: runtime error: index out of range [5] with length 3\n\ngoroutine 34 [running]:\nmain.main()\n"
	const fatal = "[    9.000000] x\nfatal error: runtime: out of memory\n\nruntime stack:\nruntime.throw(0x1)\n[   10.000000] Kernel panic - not syncing: foo\n"
	all := oops.Parse([]byte(panicked))
	assert.Equal(t, len(all), 1)
	assert.Equal(t, all[0].Title, "panic: runtime error: index out of range [NUM] with length NUM")
	assert.Assert(t, all[0].Suppressed)
	all = oops.Parse([]byte(fatal))
	assert.Equal(t, len(all), 2)
	assert.Equal(t, all[0].Title, "go runtime error")
	assert.Assert(t, all[0].Suppressed && !all[0].Panicked && !bytes.Contains(all[0].Raw, []byte("10.000000")), "%s", all[0].Raw)
	assert.Assert(t, !all[1].Suppressed)
	assert.Equal(t, len(oops.ParseOwn([]byte(panicked))), 0)
	for _, log := range []string{
		"x.c:1:10: fatal error: stdio.h: No such file or directory\n", "fatal error: disk full\nbye\n",
		"panic: everything is on fire\nline\n", "[    1.000000] panic: 1\n\ngoroutine 1 [running]:\n",
	} {
		assert.Equal(t, len(oops.Parse([]byte(log))), 0, log)
	}
}

// TestBootLoaderTellsReboot: a boot loader's own line is the first of the next
// kernel's, and its banner is not another.
func TestBootLoaderTellsReboot(t *testing.T) {
	const boot = "early console in extract_kernel\nDecompressing Linux... Parsing ELF... done.\nBooting the kernel.\n[    0.000000] Linux version 6.12.0\n"
	assert.Equal(t, len(oops.Parse([]byte(boot+"[    1.000000] x\n"))), 0)
	assert.Equal(t, len(oops.Parse([]byte("[   50.000000] x\n[   51.000000] reboot: Restarting system\n"+boot))), 0)
	assert.Equal(t, len(oops.Parse([]byte("[   50.000000] fuse: Unknown parameter 'Booting the kernel.'\n"))), 0)
	all := oops.Parse([]byte("[   50.000000] x\n" + boot + "[    1.000000] x\n"))
	assert.Equal(t, len(all), 1)
	assert.Equal(t, all[0].Title, "unexpected kernel reboot")
	assert.Equal(t, all[0].Kind, oops.Reboot)
}

// TestGluedHeader: a message that another console's line runs into is read, words
// that end in a header are none.
func TestGluedHeader(t *testing.T) {
	one := func(text string) string {
		if r := oops.ParseFirst([]byte("[    5.000000] x\n[    6.000000] " + text + "\n")); r != nil {
			return r.Title
		}
		return ""
	}
	assert.Equal(t, one("executing programBUG: workqueue lockup - pool"), "BUG: workqueue lockup")
	assert.Equal(t, one("DEBUG: workqueue lockup - pool"), "")
	assert.Equal(t, one("mainINFO: nothing of note"), "")
}
