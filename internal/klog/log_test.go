// SPDX-License-Identifier: Apache-2.0

package klog

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/internal/wire"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestLogFindsMarksAcrossWrites(t *testing.T) {
	c := New("NONCE")
	c.Tell("T", nil)
	log := "[    1.0] Linux version\r\n[    2.0] " + wire.TestMark("T", "TestA", wire.TestBegins, 0) + "\n[    2.1] x\n[    2.2] " +
		wire.TestMark("T", "TestA", wire.TestEnds, 0) + "\n" + strings.Repeat("y", 1<<20) + "\n[    3.0] " + wire.EndMark("NONCE") + "\n"
	for i := 0; i < len(log); i += 7 {
		_, err := c.Write([]byte(log[i:min(len(log), i+7)]))
		assert.NilError(t, err)
	}
	c.Close()
	select {
	case <-c.ended:
	default:
		t.Error("end mark not seen")
	}
	at := int64(strings.Index(log, "[    2.1]"))
	assert.DeepEqual(t, c.testsAt(at+3), []string{"TestA"})
	assert.Assert(t, is.Len(c.testsAt(int64(len(log))), 0))
}

func TestLogWantsTheRightEndMark(t *testing.T) {
	for _, log := range []string{
		wire.EndMark("OTHER") + "\n", wire.EndMark("NONCE") + "x\n", "Test prints kvmrun: end\n",
	} {
		c := New("NONCE")
		_, _ = c.Write([]byte(log))
		c.Close()
		select {
		case <-c.ended:
			t.Errorf("%q taken for the end mark", log)
		default:
		}
	}
}

func TestLogKeepsTheAgentsLastWords(t *testing.T) {
	c := New("N")
	_, _ = c.Write([]byte("[    1.1] " + wire.Fatal("N", "its own") + "\n[    1.2] " + wire.FatalMark + "no virtio console port"))
	c.Close()
	assert.Equal(t, c.fatal, "its own")
	assert.Equal(t, c.early, "no virtio console port")
	assert.DeepEqual(t, c.LastWords()[1:], []string{"[    1.2] " + wire.FatalMark + "no virtio console port"})
}

func TestLogAttributesSplats(t *testing.T) {
	c := New("N")
	c.Tell("T", nil)
	bug := "[    2.5] BUG: kernel NULL pointer dereference, address: 0000000000000008\n[    2.5] RIP: 0010:ext4_foo+0x1/0x2\n[    2.5] Call Trace:\n[    2.5]  <TASK>\n[    2.5]  ext4_foo+0x1/0x2\n[    2.5]  ext4_bar+0x1/0x2\n[    2.5]  </TASK>\n"
	_, _ = c.Write([]byte("[    2.0] " + wire.TestMark("T", "TestA", wire.TestBegins, 0) + "\n" + bug + "[    2.6] " + wire.TestMark("T", "TestA", wire.TestEnds, 0) + "\n[    3.0] quiet\n"))
	c.Close()
	s := c.Splats()
	assert.Assert(t, len(s) > 0, "the report was not found")
	assert.Equal(t, s[0].Test, "TestA")
}

// TestExpectedSplats: only what the test itself announced, and before it came.
func TestExpectedSplats(t *testing.T) {
	bug := ""
	for _, l := range []string{
		"------------[ cut here ]------------", "WARNING: CPU: 0 PID: 7 at mm/x.c:1 broken+0x1/0x2",
		"CPU: 0 UID: 0 PID: 7 Comm: init Not tainted 6.12.0 #1", "RIP: 0010:broken+0x1/0x2", "Call Trace:", " <TASK>",
		" caller+0x1/0x2", " </TASK>", "---[ end trace 0000000000000000 ]---",
	} {
		bug += "[    1.000000] " + l + "\n"
	}
	mark := func(line string) string { return "[    0.900000] " + line + "\n" }
	begin, end := mark(wire.TestMark("T", "TestA", wire.TestBegins, 0)), mark(wire.TestMark("T", "TestA", wire.TestEnds, 0))
	for name, c := range map[string]struct {
		log  string
		want bool
	}{
		"announced":       {begin + mark(wire.ExpectMark("T", "TestA", "WARNING in b.*")) + bug + end, true},
		"by a subtest":    {begin + mark(wire.ExpectMark("T", "TestA/x", "WARNING in b.*")) + bug + end, true},
		"another title":   {begin + mark(wire.ExpectMark("T", "TestA", "WARNING in b")) + bug + end, false},
		"too late":        {begin + bug + mark(wire.ExpectMark("T", "TestA", "WARNING in b.*")) + end, false},
		"by another test": {begin + mark(wire.ExpectMark("T", "TestB", "WARNING in b.*")) + bug + end, false},
		"outside":         {mark(wire.ExpectMark("T", "", "WARNING in b.*")) + bug, false},
		"no expression":   {begin + mark(wire.ExpectMark("T", "TestA", "(")) + bug + end, false},
	} {
		t.Run(name, func(t *testing.T) {
			con := New("nonce")
			con.Tell("T", nil)
			_, _ = con.Write([]byte(c.log))
			con.Close()
			got := con.Splats()
			assert.Equal(t, len(got), 1)
			assert.Equal(t, got[0].Expected, c.want)
		})
	}
}

// TestPhases: who no test is to blame for says when it came.
func TestPhases(t *testing.T) {
	const reported = "[    1.000000] WARNING: CPU: 0 PID: 7 at mm/x.c:1 broken+0x1/0x2\n[    1.000000] RIP: 0010:broken+0x1/0x2\n" +
		"[    1.000000] Call Trace:\n[    1.000000]  <TASK>\n[    1.000000]  caller+0x1/0x2\n[    1.000000]  </TASK>\n[    1.000000] ---[ end trace 0000000000000000 ]---\n"
	// Each at a time of its own: the same one at the same time is a reprint.
	second := 0
	bug := func() string {
		second++
		return strings.ReplaceAll(reported, "[    1.", fmt.Sprintf("[%5d.", second))
	}
	say := func(text string) string { return fmt.Sprintf("[%5d.000000] %s\n", second, text) }
	con := New("nonce")
	con.Tell("T", nil)
	log := bug() + say(startsInit) + bug() + say(wire.TestMark("T", "TestA", wire.TestBegins, 0))
	log += bug() + say(wire.TestMark("T", "TestA", wire.TestEnds, 0)) + bug()
	log += say(wire.TestMark("T", "TestB", wire.TestBegins, 0)) + say(wire.TestMark("T", "TestB", wire.TestEnds, 0)) + bug()
	_, _ = con.Write([]byte(log))
	con.Close()
	var got []string
	for _, s := range con.Splats() {
		got = append(got, s.Test+s.Phase)
	}
	assert.DeepEqual(t, got, []string{"boot", "setup", "TestA", "between tests", "shutdown"})
}

// TestProgressWithoutMarks: what is known of tests does not depend on how many marks
// there were.
func TestProgressWithoutMarks(t *testing.T) {
	con := New("nonce")
	con.Tell("tests", nil)
	for range MaxMarks {
		_, _ = con.Write([]byte(wire.TestMark("tests", "TestA", wire.TestBegins, 0) + "\n" + wire.TestMark("tests", "TestA", wire.TestEnds, 0) + "\n"))
	}
	_, _ = con.Write([]byte(wire.TestMark("tests", "TestB", wire.TestBegins, 0) + "\n" + wire.TestMark("tests", "TestB", wire.TestSkips, 0) + "\n" + wire.TestMark("tests", "TestC", wire.TestBegins, 0) + "\n"))
	con.Close()
	ended, failed, skipped, running := con.Progress()
	assert.DeepEqual(t, ended, []string{"TestA", "TestB"})
	assert.Equal(t, len(failed), 0)
	assert.DeepEqual(t, skipped, []string{"TestB"})
	assert.DeepEqual(t, running, []string{"TestC"})
}

func TestFormatKmsg(t *testing.T) {
	in := "6,1,1234567,-;plain\n SUBSYSTEM=x\n DEVICE=y\n4,2,61000001,c,caller=T123;two\\x0alines \\x5c and \\xzz\nrubbish\n5,3;short\n6,4,x,-;no time\n"
	assert.Equal(t, string(formatKmsg([]byte(in))),
		"[    1.234567] plain\n[   61.000001][  T123] two\n[   61.000001][  T123] lines \\ and \\xzz\n")
}

func FuzzFormatKmsg(f *testing.F) {
	f.Add([]byte("6,1,1234567,-;plain\n SUBSYSTEM=x\n4,2,61000001,c,caller=T123;two\\x0alines\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _ = formatKmsg(b) })
}
