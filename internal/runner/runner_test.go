// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/wire"
)

func TestConsoleFindsMarksAcrossWrites(t *testing.T) {
	c := newConsole("NONCE")
	c.tell("T", nil)
	log := "[    1.0] Linux version\r\n[    2.0] " + wire.TestMark("T", "TestA", wire.TestBegins, 0) + "\n[    2.1] x\n[    2.2] " +
		wire.TestMark("T", "TestA", wire.TestEnds, 0) + "\n" + strings.Repeat("y", 1<<20) + "\n[    3.0] " + wire.EndMark("NONCE") + "\n"
	for i := 0; i < len(log); i += 7 {
		_, err := c.Write([]byte(log[i:min(len(log), i+7)]))
		assert.NilError(t, err)
	}
	c.close()
	select {
	case <-c.ended:
	default:
		t.Error("end mark not seen")
	}
	at := int64(strings.Index(log, "[    2.1]"))
	assert.DeepEqual(t, c.testsAt(at+3), []string{"TestA"})
	assert.Assert(t, is.Len(c.testsAt(int64(len(log))), 0))
}

func TestConsoleWantsTheRightEndMark(t *testing.T) {
	for _, log := range []string{
		wire.EndMark("OTHER") + "\n", wire.EndMark("NONCE") + "x\n", "Test prints kvmrun: end\n",
	} {
		c := newConsole("NONCE")
		_, _ = c.Write([]byte(log))
		c.close()
		select {
		case <-c.ended:
			t.Errorf("%q taken for the end mark", log)
		default:
		}
	}
}

func TestConsoleKeepsTheAgentsLastWords(t *testing.T) {
	c := newConsole("N")
	_, _ = c.Write([]byte("[    1.1] " + wire.Fatal("N", "its own") + "\n[    1.2] " + wire.FatalMark + "no virtio console port"))
	c.close()
	assert.Equal(t, c.fatal, "its own")
	assert.Equal(t, c.early, "no virtio console port")
	assert.DeepEqual(t, c.lastWords()[1:], []string{"[    1.2] " + wire.FatalMark + "no virtio console port"})
}

func TestConsoleAttributesSplats(t *testing.T) {
	c := newConsole("N")
	c.tell("T", nil)
	bug := "[    2.5] BUG: kernel NULL pointer dereference, address: 0000000000000008\n[    2.5] RIP: 0010:ext4_foo+0x1/0x2\n[    2.5] Call Trace:\n[    2.5]  <TASK>\n[    2.5]  ext4_foo+0x1/0x2\n[    2.5]  ext4_bar+0x1/0x2\n[    2.5]  </TASK>\n"
	_, _ = c.Write([]byte("[    2.0] " + wire.TestMark("T", "TestA", wire.TestBegins, 0) + "\n" + bug + "[    2.6] " + wire.TestMark("T", "TestA", wire.TestEnds, 0) + "\n[    3.0] quiet\n"))
	c.close()
	s := c.splats()
	assert.Assert(t, len(s) > 0, "the report was not found")
	assert.Equal(t, s[0].test, "TestA")
}

// TestSelected: a suite is only left out when none of its tests can match.
func TestSelected(t *testing.T) {
	x := Matrix{Suites: []Suite{{Tests: []string{"TestA", "TestB"}}, {Tests: []string{"TestC"}}}}
	for run, want := range map[string]int{"": 2, "TestA": 1, "TestC/sub": 1, "TestA/x|TestC": 2, "TestC|TestA/x": 2, "A|B": 1, "^Test": 2} {
		x.Run = run
		got, err := selected(x)
		assert.NilError(t, err)
		assert.Check(t, is.Len(got, want), "-run %s", run)
	}
	for _, bad := range []Matrix{{Run: "TestD"}, {Run: "Test("}, {Run: "TestA/("}, {Skip: "("}, {Run: "TestA", Skip: "b/("}} {
		bad.Suites = x.Suites
		_, err := selected(bad)
		assert.Check(t, err != nil, "%+v", bad)
	}
}

func TestLogFilesAreBoundedAndReportErrors(t *testing.T) {
	dir := t.TempDir()
	var l logFiles
	f := l.create(dir, "a")
	f.left = 10
	_, _ = f.Write([]byte("0123456"))
	_, _ = f.Write([]byte("789abc"))
	_, _ = f.Write([]byte("more"))
	assert.NilError(t, l.close())
	b, err := os.ReadFile(filepath.Join(dir, "a"))
	assert.NilError(t, err)
	assert.Equal(t, string(b), "0123456789\n[kvmrun: cut here, the rest was not kept]\n")

	var bad logFiles
	_, err = bad.create(filepath.Join(dir, "missing"), "a").Write([]byte("x"))
	assert.NilError(t, err, "a stream must go on")
	assert.ErrorContains(t, bad.close(), "no such file")
	if _, err := os.Stat("/dev/full"); err == nil {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		assert.NilError(t, err)
		l := logFiles{{f: full, left: 10}}
		_, _ = l[0].Write([]byte("x"))
		assert.ErrorContains(t, l.close(), "no space left")
	}
}
