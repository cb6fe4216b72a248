// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// agentCase is a test of a serving agent. Each runs against an agent in this
// process, and all of them one after the other against one in a machine.
type agentCase struct {
	name string
	run  func(t *testing.T, c *client)
}

var agentCases = []agentCase{
	{"Exit status", func(t *testing.T, c *client) {
		for _, code := range []string{"0", "1", "255"} {
			res := c.run(t, helperRun("exit", code))
			assert.DeepEqual(t, res.exited, &wire.Exited{Code: atoi(code)})
		}
	}},
	{"Killed by a signal", func(t *testing.T, c *client) {
		for _, s := range []string{"9", "15"} {
			res := c.run(t, helperRun("kill", s))
			assert.DeepEqual(t, res.exited, &wire.Exited{Code: -1, Signal: atoi(s)})
		}
	}},
	{"Streams are apart", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("print", "a", "b", "c", "d"))
		assert.Equal(t, res.out, "a\nc\n")
		assert.Equal(t, res.err, "b\nd\n")
	}},
	{"Streams merged in order", func(t *testing.T, c *client) {
		r := helperRun("print", "a", "b", "c", "d")
		r.Merge = true
		res := c.run(t, r)
		assert.Equal(t, res.out, "a\nb\nc\nd\n")
		assert.Equal(t, res.err, "")
	}},
	{"Surroundings", func(t *testing.T, c *client) {
		r := helperRun("info")
		r.Dir = "/tmp/kvmrun-guest-test/made/for/it"
		r.Env = append(r.Env, "X=1", "X=2")
		out := c.run(t, r).out
		for _, want := range []string{
			"wd=/tmp/kvmrun-guest-test/made/for/it\n", "PATH=" + defaultPath + "\n", "HOME=/root\n", "X=1\n", "leader=true\n",
			"0=/dev/null ", " 1=pipe", " 2=pipe", "mask=0\n",
		} {
			assert.Assert(t, cmp.Contains(out, want))
		}
		r.Dir, r.Env = "", append(r.Env, "PATH=/p", "HOME=/h")
		out = c.run(t, r).out
		for _, want := range []string{"wd=/tmp\n", "PATH=/p\n", "HOME=/h\n"} {
			assert.Assert(t, cmp.Contains(out, want))
		}
	}},
	{"Cannot be started", func(t *testing.T, c *client) {
		dir := "/tmp/kvmrun-guest-test/bad"
		write := helperRun("write", "text", "644", "not a program")
		write.Dir = dir
		assert.Equal(t, c.run(t, write).out, "")
		write = helperRun("write", "garbage", "755", "not a program")
		write.Dir = dir
		assert.Equal(t, c.run(t, write).out, "")
		write = helperRun("write", "script", "755", "#!/no/such/interpreter\n")
		write.Dir = dir
		assert.Equal(t, c.run(t, write).out, "")

		for _, test := range []struct {
			argv          []string
			dir, env      string
			notFound, not bool
			err           string
		}{
			{argv: nil, err: "no program given"},
			{argv: []string{""}, err: "no program given"},
			{argv: []string{"no-such-program"}, notFound: true, err: "not found in PATH (" + defaultPath + ")"},
			{argv: []string{"text"}, env: "PATH=" + dir, not: true, err: "permission denied"},
			{argv: []string{"/no/such/program"}, notFound: true, err: "no such file"},
			{argv: []string{dir + "/text/x"}, notFound: true, err: "not a directory"},
			{argv: []string{dir}, not: true, err: "is a directory"},
			{argv: []string{"./text"}, dir: dir, not: true, err: "permission denied"},
			{argv: []string{"./garbage"}, dir: dir, not: true, err: "exec format error"},
			{argv: []string{"./script"}, dir: dir, not: true, err: "interpreter"},
			{argv: []string{"/no/such/program"}, dir: dir + "/text/x", err: "make working directory"},
			{argv: []string{"/a\x00b"}, err: "invalid argument"},
		} {
			r := wire.Run{Argv: test.argv, Dir: test.dir}
			if test.env != "" {
				r.Env = []string{test.env}
			}
			e := c.run(t, r).exited
			assert.Equal(t, e.Code, -1, "%q", test.argv)
			assert.Equal(t, e.NotFound, test.notFound, "%q: %s", test.argv, e.Err)
			assert.Equal(t, e.NotExecutable, test.not, "%q: %s", test.argv, e.Err)
			assert.Assert(t, cmp.Contains(e.Err, test.err), "%q", test.argv)
		}
	}},
	{"Relative to PATH", func(t *testing.T, c *client) {
		r := helperRun("exit", "5")
		r.Argv[0] = "exe"
		r.Env = append(r.Env, "PATH=/no/such/dir:/proc/self")
		assert.DeepEqual(t, c.run(t, r).exited, &wire.Exited{Code: 5})
	}},
	{"Signals", func(t *testing.T, c *client) {
		wait := c.start(t, helperRun("term"))
		c.waitOutput(t, func() bool { return strings.HasSuffix(string(c.out), "ready\n") })
		// 0 and 999 are no signals to the kernel: nothing must happen.
		for _, n := range []int{0, 999, -1, 15} {
			assert.NilError(t, c.w.Send(wire.Message{Signal: &wire.Signal{Number: n}}))
		}
		res := wait()
		assert.Equal(t, res.out, "ready\nterminated\n")
		assert.Equal(t, res.exited.Code, 7)
		// Nobody is there to get this one.
		assert.NilError(t, c.w.Send(wire.Message{Signal: &wire.Signal{Number: 9}}))
	}},
	{"Much output", func(t *testing.T, c *client) {
		const n = 8 << 20
		res := c.run(t, helperRun("flood", "8388608"))
		assert.Equal(t, len(res.out), n)
		assert.Equal(t, len(res.err), n)
		want := strings.Repeat("0123456\n", n/8)
		assert.Assert(t, res.out == want && res.err == want)
	}},
	{"Input", func(t *testing.T, c *client) {
		r := helperRun("cat")
		r.Stdin = true
		wait := c.start(t, r)
		piece := strings.Repeat("input\n", 10000)
		go func() {
			for range 50 {
				_ = c.in.SendStdin([]byte(piece))
			}
			_ = c.in.SendStdin(nil)
		}()
		res := wait()
		assert.Equal(t, res.exited.Code, 0)
		assert.Assert(t, res.out == strings.Repeat(piece, 50))
	}},
	{"Input that nobody reads", func(t *testing.T, c *client) {
		piece := make([]byte, 512<<10)
		sent := make(chan struct{})
		send := func() {
			for range 8 {
				_ = c.in.SendStdin(piece)
			}
			_ = c.in.SendStdin(nil)
			sent <- struct{}{}
		}
		// One that ends at once, one that cannot be started, and one that has
		// to be killed.
		r := helperRun("exit", "4")
		r.Stdin = true
		wait := c.start(t, r)
		go send()
		assert.Equal(t, wait().exited.Code, 4)
		<-sent

		wait = c.start(t, wire.Run{Argv: []string{"/no/such"}, Stdin: true})
		go send()
		assert.Equal(t, wait().exited.NotFound, true)
		<-sent

		r = helperRun("block")
		r.Stdin = true
		wait = c.start(t, r)
		go send()
		c.waitOutput(t, func() bool { return strings.HasSuffix(string(c.out), "ready\n") })
		assert.NilError(t, c.w.Send(wire.Message{Signal: &wire.Signal{Number: 9}}))
		assert.Equal(t, wait().exited.Signal, 9)
		<-sent

		// None of it reaches the next program.
		r = helperRun("cat")
		r.Stdin = true
		wait = c.start(t, r)
		assert.NilError(t, c.in.SendStdin([]byte("mine")))
		assert.NilError(t, c.in.SendStdin(nil))
		assert.Equal(t, wait().out, "mine")
	}},
	{"Outlived in silence", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("spawn", "3", "sleep", "3600000"))
		assert.Equal(t, res.exited.Code, 0)
		assert.Equal(t, res.out, "parent ends\n")
		assert.Equal(t, len(res.done.Warnings), 0, "%v", res.done.Warnings)
	}},
	{"Outlived by a flood", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("spawn", "2", "forever"))
		assert.Equal(t, res.exited.Code, 0)
		assert.Equal(t, strings.Count(res.out, "parent ends\n"), 1)
	}},
	{"Many orphans", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("spawn", "40", "exit", "0"))
		assert.Equal(t, res.exited.Code, 0)
		assert.Equal(t, res.out, "parent ends\n")
	}},
	{"Terminal", func(t *testing.T, c *client) {
		r := helperRun("tty")
		r.TTY = &wire.Winsize{Rows: 10, Cols: 20}
		res := c.run(t, r)
		assert.Equal(t, res.out, "tty0=true\r\ntty1=true\r\ntty2=true\r\ncontrolling: true\r\n")
		assert.Equal(t, res.exited.Code, 0)
	}},
	{"Terminal size", func(t *testing.T, c *client) {
		r := helperRun("winch", "33")
		r.TTY = &wire.Winsize{Rows: 10, Cols: 20}
		wait := c.start(t, r)
		c.waitOutput(t, func() bool { return strings.HasSuffix(string(c.out), "ready\r\n") })
		assert.NilError(t, c.w.Send(wire.Message{Resize: &wire.Winsize{Rows: 33, Cols: 44}}))
		assert.Equal(t, wait().out, "ready\r\nrows=33 cols=44\r\n")
		// Nobody has a terminal now.
		assert.NilError(t, c.w.Send(wire.Message{Resize: &wire.Winsize{Rows: 1, Cols: 1}}))
	}},
	{"Terminal input", func(t *testing.T, c *client) {
		r := helperRun("cat")
		r.TTY, r.Stdin = &wire.Winsize{Rows: 10, Cols: 20}, true
		wait := c.start(t, r)
		assert.NilError(t, c.in.SendStdin([]byte("hello\n")))
		assert.NilError(t, c.in.SendStdin(nil))
		res := wait()
		assert.Equal(t, res.exited.Code, 0)
		assert.Equal(t, res.out, "hello\r\nhello\r\n") // the echo and the answer
	}},
	{"Ctrl-C on a terminal", func(t *testing.T, c *client) {
		r := helperRun("block")
		r.TTY, r.Stdin = &wire.Winsize{Rows: 10, Cols: 20}, true
		wait := c.start(t, r)
		c.waitOutput(t, func() bool { return strings.HasSuffix(string(c.out), "ready\r\n") })
		assert.NilError(t, c.in.SendStdin([]byte{3}))
		assert.NilError(t, c.in.SendStdin(nil))
		assert.Equal(t, unix.Signal(wait().exited.Signal), unix.SIGINT)
	}},
	{"Freeze beside a program", func(t *testing.T, c *client) {
		c.changed.L.Lock()
		had := len(c.err) // of the cases before
		c.changed.L.Unlock()
		wait := c.start(t, helperRun("pause", "2"))
		assert.Assert(t, c.next(t).Started != nil)
		for i := range 2 {
			// The test must not freeze before the program has written; what it has
			// written is passed on before the answer, and counted to the byte.
			errs := strings.Repeat("error 0\n", i+1)
			c.waitOutput(t, func() bool { return len(c.err) == had+len(errs) })
			assert.NilError(t, c.w.Send(wire.Message{Freeze: &wire.Freeze{}}))
			assert.DeepEqual(t, c.next(t), wire.Message{Frozen: &wire.Frozen{Stdout: int64(i+1) * int64(len("before 0\n")), Stderr: int64(len(errs))}})
			assert.NilError(t, c.w.Send(wire.Message{Signal: &wire.Signal{Number: int(unix.SIGUSR1)}}))
		}
		res := wait()
		assert.Equal(t, res.exited.Code, 0)
		assert.Equal(t, res.out, "before 0\nbefore 1\n")
		// Beside none.
		assert.NilError(t, c.w.Send(wire.Message{Freeze: &wire.Freeze{}}))
		assert.DeepEqual(t, c.next(t), wire.Message{Frozen: &wire.Frozen{}})
	}},
	{"Fetch", func(t *testing.T, c *client) {
		dir := "/tmp/kvmrun-guest-test/fetch"
		for _, r := range []wire.Run{
			helperRun("fill", "big", "1000000"),
			helperRun("write", "empty", "600", ""),
			helperRun("mkfifo", "fifo"),
		} {
			r.Dir = dir
			assert.Equal(t, c.run(t, r).out, "")
		}
		r := helperRun("write", "last", "644", "last")
		r.Dir = dir
		r.Fetch = []string{dir + "/missing", dir + "/empty", dir + "/fifo", dir, dir + "/big/below", "/proc/self/mem"}
		res := c.run(t, r)
		for key, want := range map[string]string{
			"1/": "", "3/empty": "", "3/last": "last", "3/big": strings.Repeat("y", 1000000),
		} {
			got, ok := res.files[key]
			assert.Assert(t, ok && got == want, key)
		}
		assert.Assert(t, cmp.Contains(res.files["2/"], "not a regular file"))
		assert.Assert(t, cmp.Contains(res.files["4/"], "not a directory"))
		assert.Assert(t, cmp.Contains(res.files["5/"], "!"))
		assert.Equal(t, len(res.files), 7, "%d files", len(res.files))
	}},
}

func atoi(s string) (n int) {
	for _, r := range s {
		n = 10*n + int(r-'0')
	}
	return n
}

func TestAgent(t *testing.T) {
	for _, test := range agentCases {
		t.Run(test.name, func(t *testing.T) {
			// Some leave files in /tmp, as programs do.
			t.Cleanup(func() { assert.NilError(t, os.RemoveAll("/tmp/kvmrun-guest-test")) })
			f := newFake()
			c := startAgent(t, f, nil)
			assert.DeepEqual(t, c.ready.Modules, []string{"m1"})
			assert.DeepEqual(t, c.ready.Warnings, []string{"w1"})
			test.run(t, c)
		})
	}
}

// ends waits for the agent's Fault and last words.
func ends(t *testing.T, c *client, f *fake, why string) {
	t.Helper()
	for {
		if m := c.receive(t); m.Fault != nil {
			assert.Assert(t, cmp.Contains(m.Fault.Message, why))
			break
		}
	}
	<-f.off
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.log[len(f.log)-1]
	assert.Assert(t, strings.HasPrefix(last, wire.FatalMark) && strings.Contains(last, why), last)
}

func TestAgentFaults(t *testing.T) {
	t.Run("two programs", func(t *testing.T) {
		f := newFake()
		c := startAgent(t, f, nil)
		r := helperRun("block")
		assert.NilError(t, c.w.Send(wire.Message{Run: &r}))
		assert.NilError(t, c.w.Send(wire.Message{Run: &r}))
		ends(t, c, f, "while a program runs")
	})
	t.Run("guest's message", func(t *testing.T) {
		f := newFake()
		c := startAgent(t, f, nil)
		assert.NilError(t, c.w.Send(wire.Message{Done: &wire.Done{}}))
		ends(t, c, f, "only a guest sends")
	})
	t.Run("garbage", func(t *testing.T) {
		f := newFake()
		c := startAgent(t, f, nil)
		assert.NilError(t, c.w.SendStdin([]byte("no JSON")))
		ends(t, c, f, "decode message")
	})
	t.Run("mounts", func(t *testing.T) {
		f := newFake()
		f.fail["mounts"] = unix.EIO
		c := startAgent(t, f, nil)
		ends(t, c, f, "read mounts")
	})
	t.Run("sync that does not end", func(t *testing.T) {
		f := newFake()
		f.block = make(chan struct{})
		c := startAgent(t, f, func(a *agent) { a.finishLimit = time.Millisecond })
		t.Cleanup(func() { close(f.block) })
		r := helperRun("exit", "0")
		assert.NilError(t, c.w.Send(wire.Message{Run: &r}))
		ends(t, c, f, "frozen")
	})
}

// TestAgentThaws looks at what is done, in which order, in a machine that goes on
// from a frozen one.
func TestAgentThaws(t *testing.T) {
	f := newFake()
	f.fail["clock 5"] = unix.EPERM
	c := startAgent(t, f, nil)
	assert.NilError(t, c.w.Send(wire.Message{Freeze: &wire.Freeze{}}))
	assert.DeepEqual(t, c.next(t), wire.Message{Frozen: &wire.Frozen{}})
	assert.NilError(t, c.w.Send(wire.Message{Thaw: &wire.Thaw{ID: "a", UnixNS: 5, Seed: make([]byte, wire.SeedSize)}}))
	res := c.run(t, helperRun("exit", "3"))
	assert.Equal(t, res.exited.Code, 3)
	assert.DeepEqual(t, res.done.Warnings, []string{"set the clock: operation not permitted"})
	assert.DeepEqual(t, f.list()[:6], []string{"linger", "open files", "sync", "reseed 64", "clock 5", "hostname kvmrun-a"})

	f = newFake()
	c = startAgent(t, f, nil)
	assert.NilError(t, c.w.Send(wire.Message{Thaw: &wire.Thaw{UnixNS: 5, Seed: make([]byte, wire.SeedSize)}}))
	c.run(t, helperRun("exit", "3"))
	assert.DeepEqual(t, f.list()[:2], []string{"reseed 64", "clock 5"}) // and the name stays

	f = newFake()
	f.fail["reseed 64"] = unix.ENODATA
	c = startAgent(t, f, nil)
	assert.NilError(t, c.w.Send(wire.Message{Thaw: &wire.Thaw{Seed: make([]byte, wire.SeedSize)}}))
	ends(t, c, f, "reseed the random number generator")
}

// TestMountsAreWatched lets nothing pass that was mounted since the freeze.
func TestMountsAreWatched(t *testing.T) {
	cmd := exec.Command(self, t.TempDir())
	cmd.Env = append(os.Environ(), helperEnv+"=linger")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs to mount: run the tests as root")
	}
	assert.NilError(t, err, "%s", out)
	assert.Equal(t, string(out), "before: false\nlingering: true true\nmounted: false false\nnot as after the boot: false\n")
}

func TestAgentShutdown(t *testing.T) {
	f := newFake()
	c := startAgent(t, f, nil)
	assert.NilError(t, c.w.Send(wire.Message{Shutdown: &wire.Shutdown{}}))
}

// TestAgentCleansUp looks at what is done, in which order, after a program.
func TestAgentCleansUp(t *testing.T) {
	f := newFake()
	boot := "1 0 0:1 / / rw - tmpfs none rw\n2 1 0:2 / /tmp rw - tmpfs none rw\n"
	f.info = []string{boot, boot +
		"7 1 0:7 / /a rw - tmpfs none rw\n" +
		`8 7 0:8 / /a/b\040c rw - tmpfs none rw` + "\n" +
		// An ID may be used again.
		"2 1 0:9 / /elsewhere rw - tmpfs none rw\n"}
	f.fail["unmount /a"] = unix.EBUSY
	f.fail["unmount /a/b c"] = unix.EINVAL
	f.fail["console 8"] = unix.EPERM
	c := startAgent(t, f, nil)
	res := c.run(t, helperRun("exit", "0"))
	assert.DeepEqual(t, f.list(), []string{
		"killall", "unmount /elsewhere", "unmount /a/b c", "unmount /a", "detach /a", "sync", "console 8",
	})
	assert.Equal(t, len(res.done.Warnings), 2)
	assert.Assert(t, cmp.Contains(res.done.Warnings[0], "unmount /a: "))
	assert.Assert(t, cmp.Contains(res.done.Warnings[1], "console"))
	assert.DeepEqual(t, f.log, []string{wire.EndMark("nonce-1")})
}

func TestPortEndOfFile(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	assert.NilError(t, err)
	defer unix.Close(fds[0])
	_, err = unix.Write(fds[1], []byte("ab"))
	assert.NilError(t, err)
	assert.NilError(t, unix.Close(fds[1]))
	p := &port{fd: fds[0], reconnect: 4 * time.Millisecond}
	b, err := io.ReadAll(p)
	assert.NilError(t, err)
	assert.Equal(t, string(b), "ab")
	_, err = p.Write([]byte("x"))
	assert.Assert(t, errors.Is(err, unix.EPIPE), err)
}
