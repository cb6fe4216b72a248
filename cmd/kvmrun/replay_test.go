// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/internal/result"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

const sampleSuite = "github.com/kvmrun/kvmrun/suites/testmain/testdata/sample"

var ext4Suite = goBuild("ext4.test", "test", "-c", "-ldflags=-s -w", "github.com/kvmrun/kvmrun/suites/ext4")

// TestReplayOfGoTest: a test that go test ran, with a binary that is gone, again:
// as it was, in a shell on a terminal, and under gdb by the very command that is
// printed.
func TestReplayOfGoTest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := command(t, "unused")
	run.Path, run.Args = must(t, func() (string, error) { return exec.LookPath("go") }),
		[]string{"go", "test", "-v", sampleSuite, "-kernel", kernel(t), "-isolate", "test", "-logs", dir, "-run", "TestSub"}
	run.Dir = ""
	gocache, err := exec.Command("go", "env", "GOCACHE").Output() // not below the tests' own XDG_CACHE_HOME
	assert.NilError(t, err)
	run.Env = append(run.Env, "GOCACHE="+strings.TrimSpace(string(gocache)))
	got := finish(t, run)
	assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)

	again := finish(t, command(t, "replay", "-o", t.TempDir(), dir, "TestSub/two_words"))
	assert.Equal(t, again.code, 0, "%s%s", again.stdout, again.stderr)
	assert.Check(t, is.Contains(again.stdout, "--- PASS: TestSub/two_words/deep"))
	assert.Check(t, !strings.Contains(again.stdout, "TestSub/one"), again.stdout)

	t.Run("shell", func(t *testing.T) {
		x := onTerminal(t, "replay", "-shell", "-o", t.TempDir(), dir, "TestPass")
		x.expect(t, "# ")
		q := qemu(t, x.cmd)
		x.typed(t, "pwd\r")
		x.expect(t, "\n/root")
		x.expect(t, "# ")
		x.typed(t, "./test\r")
		x.expect(t, "--- PASS: TestPass")
		x.expect(t, "# ")
		x.typed(t, "exit\r")
		assert.Equal(t, x.end(t), 0, "%s", x.out)
		q.gone(t)
	})
	t.Run("gdb", func(t *testing.T) {
		if _, err := exec.LookPath("gdb"); err != nil {
			t.Skip("gdb is not installed: apt-get install gdb, or .ci/setup test")
		}
		cmd := command(t, "replay", "-gdb", "-o", t.TempDir(), dir, "TestPass")
		stderr, err := cmd.StderrPipe()
		assert.NilError(t, err)
		stdout, err := cmd.StdoutPipe()
		assert.NilError(t, err)
		assert.NilError(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		out, errs := follow(stdout), follow(stderr)
		errs.await(t, errs.await(t, 0, "waiting for a debugger: "), "\n")
		said := regexp.MustCompile(`waiting for a debugger: (.*)`).FindStringSubmatch(errs.String())
		q := qemu(t, cmd)
		g := debugger(t, said[1])
		// The machine stands still where it was frozen, and makes single steps.
		g.say("printf \"at %#lx\\n\", $rip", "at 0x")
		g.say("stepi", "(gdb)")
		g.say("printf \"at %#lx\\n\", $rip", "at 0x")
		assert.Check(t, !strings.Contains(out.String(), "TestPass"), "the test ran while the machine stood still: %s", out)
		g.say("detach", "detached")
		g.end()
		out.awaitEnd(t)
		errs.awaitEnd(t)
		assert.NilError(t, cmd.Wait(), "%s", errs)
		assert.Check(t, is.Contains(out.String(), "--- PASS: TestPass"))
		q.gone(t)
	})
}

// TestFaultReplayUnderGDB stops at a function of a kernel with debug information,
// in a run whose disk has a fault: such a machine boots.
func TestFaultReplayUnderGDB(t *testing.T) {
	t.Parallel()
	vmlinux := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if vmlinux == "" {
		t.Skip("KVMRUN_DEBUG_KERNEL is not set: name the vmlinux that `kvmrun kernel build -src debian:6.12 -profile kasan` makes")
	}
	if _, err := exec.LookPath("gdb"); err != nil {
		t.Skip("gdb is not installed: apt-get install gdb, or .ci/setup test")
	}
	for name, args := range map[string][]string{
		"forked": nil,
		"booted": {"-fault", "disk-read:e4-4k,nth=1000000"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "logs")
			run := finish(t, command(t, append([]string{
				"run", "-kernel", vmlinux, "-suite", must(t, ext4Suite), "-run", "^TestPowerCut$", "-o", dir,
			}, args...)...))
			assert.Equal(t, run.code, 0, "%s%s", run.stdout, run.stderr)
			cmd := command(t, "replay", "-gdb", "-o", t.TempDir(), dir, "TestPowerCut")
			stderr, err := cmd.StderrPipe()
			assert.NilError(t, err)
			stdout, err := cmd.StdoutPipe()
			assert.NilError(t, err)
			assert.NilError(t, cmd.Start())
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			out, errs := follow(stdout), follow(stderr)
			errs.await(t, errs.await(t, 0, "waiting for a debugger: "), "\n")
			said := regexp.MustCompile(`waiting for a debugger: (.*)`).FindStringSubmatch(errs.String())
			g := debugger(t, said[1])
			g.say("break ext4_fill_super", "Breakpoint 1")
			g.say("continue", "Breakpoint 1, ext4_fill_super")
			g.say("backtrace", "get_tree_bdev")
			g.say("print init_uts_ns.name.sysname", `"Linux`)
			g.say("delete", "(gdb)")
			g.say("detach", "detached")
			g.end()
			out.awaitEnd(t)
			errs.awaitEnd(t)
			assert.NilError(t, cmd.Wait(), "%s", errs)
			assert.Check(t, is.Contains(out.String(), "--- PASS: TestPowerCut"))
		})
	}
}

// gdbSession is a gdb that reads commands from a pipe.
type gdbSession struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *stream
	at  int
}

// debugger runs the command as a user's shell would.
func debugger(t *testing.T, command string) *gdbSession {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "TERM=dumb", "DEBUGINFOD_URLS=")
	in, err := cmd.StdinPipe()
	assert.NilError(t, err)
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	cmd.Stdout, cmd.Stderr = w, w
	assert.NilError(t, cmd.Start())
	assert.NilError(t, w.Close())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = r.Close()
	})
	g := &gdbSession{t: t, cmd: cmd, in: in, out: follow(r)}
	g.at = g.out.await(t, 0, "Remote debugging using ")
	g.say("set pagination off", "(gdb)")
	return g
}

// say types a line and waits for the answer.
func (g *gdbSession) say(line, want string) {
	g.t.Helper()
	_, err := io.WriteString(g.in, line+"\n")
	assert.NilError(g.t, err)
	g.at = g.out.await(g.t, g.at, want)
}

// end leaves gdb.
func (g *gdbSession) end() {
	g.t.Helper()
	_, err := io.WriteString(g.in, "quit\n")
	assert.NilError(g.t, err)
	g.out.awaitEnd(g.t)
	assert.NilError(g.t, g.cmd.Wait(), "%s", g.out)
}

// TestTemplatesInTheCache: a run leaves its template in the cache, where it is
// listed and can be removed, and the next run does not boot.
func TestTemplatesInTheCache(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := func(logs string) []string {
		return []string{"run", "-cache", dir, "-suite", must(t, sample), "-run", "TestPass", "-isolate", "test", "-o", logs}
	}
	read := func(got outcome, logs string) string {
		t.Helper()
		assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
		text, err := os.ReadFile(filepath.Join(logs, must(t, kernelRelease)+"-sample", "console.log"))
		assert.NilError(t, err)
		boot, _, ok := strings.Cut(string(text), "kvmrun: forked as")
		assert.Assert(t, ok, "%s", text)
		return boot[:strings.LastIndexByte(boot, '\n')] // the time of the fork is its own
	}
	run := func(logs string) string {
		t.Helper()
		return read(finish(t, command(t, args(logs)...)), logs)
	}
	first := run(t.TempDir())
	list := finish(t, command(t, "kernel", "list", "-cache", dir))
	assert.Check(t, is.Regexp(`(?m)^ *\d+ MiB  template .*  template of `+regexp.QuoteMeta(must(t, kernelRelease))+", suite sample$", list.stdout))
	assert.Equal(t, run(t.TempDir()), first, "it booted")
	pruned := finish(t, command(t, "kernel", "prune", "-cache", dir, "-max", "0"))
	assert.Equal(t, pruned.code, 0, "%s%s", pruned.stdout, pruned.stderr)
	list = finish(t, command(t, "kernel", "list", "-cache", dir))
	assert.Check(t, !strings.Contains(list.stdout, "template of"), list.stdout)
	// The memory of templates is not bounded by a file system's size.
	logs := t.TempDir()
	assert.Check(t, read(small(t, "/dev/shm", "64k", args(logs)...), logs) != first, "the template is gone")
}

var sampleBinary = goBuild("sample.test", "test", "-c", "-ldflags=-s -w", sampleSuite)

// TestReplayOfACopiedResult: what one process wrote of its jobs is all that another
// one needs, wherever it has been moved: the verdict is the same, by its allow-list
// too, whose file is gone.
func TestReplayOfACopiedResult(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, copied, allow := filepath.Join(dir, "first"), filepath.Join(dir, "copied"), filepath.Join(dir, "allow")
	assert.NilError(t, os.WriteFile(allow, []byte("title: KASAN: slab-use-after-free* | reason: a test | link: https://example.org/1 | expires: 2099-01-01\n"), 0o600))
	got := finish(t, command(t, "run", "-kernel", kernel(t), "-suite", must(t, sampleBinary), "-o", first, "-allow", allow,
		"-isolate", "test", "-run", "TestPass|TestZFail|TestZSplat"))
	assert.Equal(t, got.code, 1, "%s%s", got.stdout, got.stderr)
	text, err := os.ReadFile(filepath.Join(first, "result.json"))
	assert.NilError(t, err)
	var run result.Run
	assert.NilError(t, json.Unmarshal(text, &run))
	assert.NilError(t, os.CopyFS(copied, os.DirFS(first)))
	assert.NilError(t, os.RemoveAll(first))
	assert.NilError(t, os.Remove(allow))
	want := map[string]int{"TestPass": 0, "TestZFail": 1, "TestZSplat": 0}
	assert.Equal(t, len(run.Jobs), 1)
	assert.Equal(t, len(run.Jobs[0].Cases), len(want), "%s", text)
	for _, c := range run.Jobs[0].Cases {
		t.Run(c.Name, func(t *testing.T) {
			assert.Equal(t, c.Status == result.StatusPass, want[c.Name] == 0, "%+v", c)
			for _, where := range []string{copied, filepath.Join(copied, "result.json")} {
				again := finish(t, command(t, "replay", "-o", t.TempDir(), where, c.Name))
				assert.Check(t, is.Equal(again.code, want[c.Name]), "%s%s", again.stdout, again.stderr)
				assert.Check(t, is.Contains(again.stdout, c.Name+" ("))
			}
		})
	}
	// Nobody has to trust what was changed on the way.
	file := filepath.Join(copied, filepath.Base(run.Jobs[0].Dir), "replay.json")
	text, err = os.ReadFile(file)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(file, []byte(strings.Replace(string(text), "reason: a test", "reason: b test", 1)), 0o600))
	again := finish(t, command(t, "replay", copied, "TestPass"))
	assert.Equal(t, again.code, 2, "%s%s", again.stdout, again.stderr)
	assert.Check(t, is.Contains(again.stderr, "changed by hand"))
}
