// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// terminal is a kvmrun on a pseudo-terminal.
type terminal struct {
	cmd    *exec.Cmd
	master *os.File
	tty    *os.File // kept open, to look at its settings afterwards
	before unix.Termios
	out    *stream
	at     int
}

func onTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	return startOnTerminal(t, command(t, args...))
}

// startOnTerminal starts a command in a session of its own.
func startOnTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	cmd.Env = append(cmd.Env, "TERM=xterm")
	opened, tty, err := pty.Open()
	assert.NilError(t, err)
	// A copy for the poller, so that Close ends a Read.
	fd, err := unix.FcntlInt(opened.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	assert.NilError(t, err)
	assert.NilError(t, opened.Close())
	assert.NilError(t, unix.SetNonblock(fd, true))
	master := os.NewFile(uintptr(fd), "terminal")
	t.Cleanup(func() { _ = master.Close(); _ = tty.Close() })
	assert.NilError(t, pty.Setsize(master, &pty.Winsize{Rows: 31, Cols: 97}))
	x := &terminal{cmd: cmd, master: master, tty: tty}
	x.before = x.settings(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	x.out = follow(master)
	return x
}

func (x *terminal) settings(t *testing.T) unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(x.tty.Fd()), unix.TCGETS)
	assert.NilError(t, err)
	return *s
}

func (x *terminal) expect(t *testing.T, what string) {
	t.Helper()
	x.at = x.out.await(t, x.at, what)
}

func (x *terminal) typed(t *testing.T, s string) {
	t.Helper()
	_, err := x.master.WriteString(s)
	assert.NilError(t, err)
}

// end waits for the exit, and checks that the terminal is as it was.
func (x *terminal) end(t *testing.T) int {
	t.Helper()
	_ = x.cmd.Wait()
	assert.Check(t, is.DeepEqual(x.settings(t), x.before), "the terminal was not restored")
	return code(x.cmd.ProcessState)
}

// TestShell is a session of a user's.
func TestShell(t *testing.T) {
	t.Parallel()
	x := onTerminal(t, "shell", "-file", must(t, prog)+":/usr/bin/prog")
	x.expect(t, "# ")
	q := qemu(t, x.cmd)
	// What is typed is echoed once, by the guest; the sum tells the answer
	// from the echo.
	x.typed(t, "echo $((6*7))+\r")
	x.expect(t, "\n42+")
	x.expect(t, "# ")
	x.typed(t, "tty\r")
	x.expect(t, "\n/dev/pts/0")
	x.expect(t, "# ")

	// The size is passed on when it changes.
	x.typed(t, "prog winsize\r")
	x.expect(t, "size 97x31")
	assert.NilError(t, pty.Setsize(x.master, &pty.Winsize{Rows: 40, Cols: 111}))
	x.expect(t, "size 111x40")

	// Ctrl-C ends what runs, and not the shell.
	x.typed(t, "\x03")
	x.expect(t, "# ")
	// Also a program that leaves the signal alone, and a pipeline.
	x.typed(t, "prog wait | cat\r")
	x.expect(t, "\nready")
	x.typed(t, "\x03")
	x.expect(t, "# ")
	x.typed(t, "exit 5\r")
	assert.Equal(t, x.end(t), 5, "%s", x.out)
	q.gone(t)
}

// TestShellEndOfInput: Ctrl-D leaves, with the status of the last command.
func TestShellEndOfInput(t *testing.T) {
	t.Parallel()
	x := onTerminal(t, "shell")
	x.expect(t, "# ")
	x.typed(t, "false\r")
	x.expect(t, "false\r\n")
	x.expect(t, "# ")
	x.typed(t, "\x04")
	assert.Equal(t, x.end(t), 1, "%s", x.out)
}

// TestShellWithoutAKernel: an error before the VM's start leaves a usable
// terminal, and is readable on it.
func TestShellWithoutAKernel(t *testing.T) {
	t.Parallel()
	x := onTerminal(t, "shell", "-kernel", "/none")
	x.expect(t, "kernel /none: no such file or directory")
	assert.Equal(t, x.end(t), 2, "%s", x.out)
	assert.Check(t, is.Equal(strings.Count(x.out.String(), "\n"), strings.Count(x.out.String(), "\r\n")))
}

// TestShellTerminated: what ends kvmrun ends the VM, and gives the terminal back.
func TestShellTerminated(t *testing.T) {
	t.Parallel()
	x := onTerminal(t, "shell")
	x.expect(t, "# ")
	q := qemu(t, x.cmd)
	assert.NilError(t, x.cmd.Process.Signal(unix.SIGTERM))
	x.expect(t, "interrupted: ")
	assert.Equal(t, x.end(t), 3, "%s", x.out)
	q.gone(t)
}

// TestShellHangup: the terminal's window is closed.
func TestShellHangup(t *testing.T) {
	t.Parallel()
	x := onTerminal(t, "shell")
	x.expect(t, "# ")
	q := qemu(t, x.cmd)
	assert.NilError(t, x.tty.Close())
	assert.NilError(t, x.master.Close())
	_ = x.cmd.Wait()
	q.gone(t)
}

// TestExecInBackground: a job of an interactive shell that nobody types to is not
// stopped for reading, and reads when it is brought to the foreground.
func TestExecInBackground(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash, which has job control: install it with: apt-get install bash")
	}
	cmd := command(t, "exec", "--")
	run := strings.Join(cmd.Args, " ")
	cmd.Path, cmd.Args = must(t, func() (string, error) { return exec.LookPath("bash") }), []string{"bash", "--norc", "--noediting", "-i"}
	cmd.Env = append(cmd.Env, "PS1=ready> ")
	x := startOnTerminal(t, cmd)
	x.expect(t, "ready> ")
	// What is typed is echoed; the sum tells the answer from the echo.
	x.typed(t, run+" sh -c 'exit 5' & wait $!; echo status $(($?+0)).\r")
	x.expect(t, "\nstatus 5.")
	x.expect(t, "ready> ")

	x.typed(t, run+" sh -c 'read x; echo got $x.' & sleep 1; jobs\r")
	x.expect(t, "Running")
	x.expect(t, "ready> ")
	x.typed(t, "fg; echo status $(($?+0)).\r")
	x.typed(t, "a line\r")
	x.expect(t, "\ngot a line.")
	x.expect(t, "\nstatus 0.")
	x.typed(t, "exit\r")
	_ = x.cmd.Wait()
}
