// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// warningAt is a report, each line made by line.
func warningAt(function string, line func(string) string) string {
	var b strings.Builder
	for _, l := range []string{
		"------------[ cut here ]------------", "WARNING: CPU: 0 PID: 7 at mm/x.c:1 " + function + "+0x1/0x2",
		"CPU: 0 UID: 0 PID: 7 Comm: init Not tainted 6.12.0 #1", "RIP: 0010:" + function + "+0x1/0x2", "Call Trace:", " <TASK>",
		" caller+0x1/0x2", " </TASK>", "---[ end trace 0000000000000000 ]---",
	} {
		b.WriteString(line(l) + "\n")
	}
	return b.String()
}

// TestWitnesses: what console, agent and taint bits say together. That real guests
// bring this about is among the hostile ones.
func TestWitnesses(t *testing.T) {
	console := func(sec string) func(string) string {
		return func(l string) string { return "[    " + sec + ".000000] " + l }
	}
	record := func(sec string) func(string) string {
		return func(l string) string { return "4,9," + sec + "000000,-;" + l }
	}
	mark := func(at wire.TestMoment, taint uint64) string { return wire.TestMark("T", "TestA", at, taint) }
	kmark := func(at wire.TestMoment, taint uint64) string { return "14,8,1500000,-;" + mark(at, taint) + "\n" }
	boot := "[    0.100000] " + "Run /init as init process" + "\n"
	begin, end := "[    1.5] "+mark(wire.TestBegins, 0)+"\n", "[    4.5] "+mark(wire.TestEnds, 512)+"\n"
	for name, c := range map[string]struct {
		console, kmsg string
		ready         uint64
		done          *wire.Done
		splats        []string // title, in which test
		scanner, note string
		kunit         string // what of KUnit failed
	}{
		"quiet":                   {console: boot + begin, done: &wire.Done{}},
		"on the console":          {console: boot + begin + warningAt("f", console("2")) + end, done: &wire.Done{Taint: 512}, splats: []string{"WARNING in f|TestA"}},
		"on both":                 {console: boot + begin + warningAt("f", console("2")) + end, kmsg: kmark(wire.TestBegins, 0) + warningAt("f", record("2")) + kmark(wire.TestEnds, 512), done: &wire.Done{Taint: 512}, splats: []string{"WARNING in f|TestA"}},
		"only the agent's":        {console: boot, kmsg: kmark(wire.TestBegins, 0) + warningAt("f", record("2")) + kmark(wire.TestEnds, 512), done: &wire.Done{Taint: 512}, splats: []string{"WARNING in f|TestA"}, note: "1 kernel reports are not in the console's log"},
		"one of two":              {console: boot + begin + warningAt("f", console("2")) + end, kmsg: warningAt("f", record("2")) + warningAt("f", record("3")), done: &wire.Done{Taint: 512}, splats: []string{"WARNING in f|TestA", "WARNING in f|"}, note: "1 kernel reports are not in the console's log"},
		"nobody's":                {console: boot + begin + end, done: &wire.Done{Taint: 512}, splats: []string{"taint W (a WARNING was raised) without a report in the kernel log|TestA"}},
		"nobody's, in the end":    {console: boot, done: &wire.Done{Taint: 512}, splats: []string{"taint W (a WARNING was raised) without a report in the kernel log|"}},
		"nobody's, at boot":       {console: boot, ready: 128, done: &wire.Done{Taint: 128}, splats: []string{"taint D (the kernel died: an oops or a BUG) without a report in the kernel log|"}},
		"another kind's":          {console: boot + begin + warningAt("f", console("2")) + end, done: &wire.Done{Taint: 512 | 16384}, splats: []string{"WARNING in f|TestA", "taint L (a soft lockup was found) without a report in the kernel log|"}},
		"explained too late":      {console: boot + begin + end + warningAt("f", console("5")), done: &wire.Done{Taint: 512}, splats: []string{"WARNING in f|", "taint W (a WARNING was raised) without a report in the kernel log|TestA"}},
		"harmless taint":          {console: boot, ready: 1, done: &wire.Done{Taint: 1 | 64 | 4096}},
		"lost":                    {console: boot, done: &wire.Done{Lost: "records\nwere"}, scanner: "records were"},
		"dropped, not lost":       {console: boot + "** 12 printk messages dropped **\n", done: &wire.Done{}, note: "the console dropped 12 messages; the agent has read all of them"},
		"dropped and lost":        {console: boot + "** 12 printk messages dropped **\n", done: &wire.Done{Lost: "x"}, scanner: "x"},
		"dropped at boot":         {console: "** 12 printk messages dropped **\n" + boot, done: &wire.Done{}, scanner: "the console dropped 12 messages during the boot"},
		"a program's own words":   {console: boot + "[    1.0] ** 12 printk messages dropped **\n", done: &wire.Done{}},
		"KUnit on the console":    {console: boot + "[    2.0] KTAP version 1\n[    2.0] 1..1\n[    2.1] not ok 1 a\n", done: &wire.Done{}, kunit: "kunit/a"},
		"KUnit, only the agent's": {console: boot, kmsg: "6,8,2000000,-;KTAP version 1\n6,9,2000000,-;1..1\n6,10,2100000,-;not ok 1 a\n", done: &wire.Done{}, kunit: "kunit/a"},
		"without a word of leave": {console: boot + begin, done: nil},
	} {
		t.Run(name, func(t *testing.T) {
			con := klog.New("N")
			con.Tell("T", nil)
			_, _ = con.Write([]byte(c.console))
			con.Close()
			out := &Outcome{Findings: agent.Findings{Ready: &wire.Ready{Taint: c.ready}, Done: c.done, Kmsg: []byte(c.kmsg)}, Splats: con.Splats(), KernelTests: newKernelTests(con.Results())}
			dir := t.TempDir()
			s := &session{guest: &guest{con: con, nonce: "N"}, out: out, p: Program{Dir: dir}}
			s.witness()
			var got []string
			for _, sp := range out.Splats {
				got = append(got, sp.Title+"|"+sp.Test)
			}
			assert.DeepEqual(t, got, c.splats)
			assert.Equal(t, out.Scanner, c.scanner)
			failed := ""
			for _, f := range out.KernelTests.Failed {
				failed += f.Name
			}
			assert.Equal(t, failed, c.kunit)
			notes := strings.Join(out.Notes, "\n")
			assert.Assert(t, strings.Contains(notes, c.note) && (notes == "") == (c.note == ""), notes)
			_, err := os.Stat(filepath.Join(dir, "kmsg.log"))
			assert.Equal(t, err == nil, strings.Contains(notes, "kmsg.log"))
		})
	}
}
