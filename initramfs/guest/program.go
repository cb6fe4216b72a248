// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

const (
	// defaultPath is what a program gets that was given no PATH.
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// defaultDir is where programs run when no directory was given.
	defaultDir = "/tmp"

	// pipeSize lets a program write on while a port is slow: 1 MiB is the
	// default limit of fs.pipe-max-size (pipe(7)).
	pipeSize = 1 << 20
	// copySize is what is read from a pipe at once.
	copySize = 256 << 10
)

// program is one that runs, or that could not be started.
type program struct {
	pid     int
	status  <-chan unix.WaitStatus
	failed  *wire.Exited // why it could not be started
	stdout  *stream
	stderr  *stream   // nil when merged, or on a terminal
	stdin   io.Closer // the writing end; closed when the program has ended
	tty     *os.File  // the terminal's master side
	release chan word // lets a held program go on; nil for others
}

// start starts what r asks for. A program that cannot be started is one that
// has ended.
func (a *agent) start(r *wire.Run) *program {
	p, err := a.tryStart(r)
	if err != nil {
		e := &wire.Exited{Code: -1, Err: err.Error()}
		e.NotFound = errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
		e.NotExecutable = errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.EISDIR) || errors.Is(err, errLoader)
		if e.NotExecutable {
			e.NotFound = false
		}
		if r.Stdin {
			a.pumpStdin(nil, nil) // the host sends it all the same
		}
		return &program{failed: e}
	}
	return p
}

// opaque hides an error's kind: what fails on our side must not be taken for a
// missing program.
func opaque(err error) error { return errors.New(err.Error()) }

var errLoader = errors.New("the file is there, but the program loader or #! interpreter that it names is not")

func (a *agent) tryStart(r *wire.Run) (*program, error) {
	if len(r.Argv) == 0 || r.Argv[0] == "" {
		return nil, errors.New("no program given")
	}
	env := completeEnv(r.Env)
	dir := r.Dir
	if dir == "" {
		dir = defaultDir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make working directory: %w", opaque(err))
	}
	exe, err := lookPath(r.Argv[0], dir, env)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", r.Argv[0], err)
	}

	p := &program{}
	if r.Hold != "" {
		p.release = make(chan word, 1)
	}
	var child []int // descriptors to close in any case
	defer func() {
		for _, fd := range child {
			_ = unix.Close(fd)
		}
	}()
	var ours []*os.File // to close on failure
	fail := func(what string, err error) (*program, error) {
		for _, f := range ours {
			_ = f.Close()
		}
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Sys: &syscall.SysProcAttr{Setsid: true}}
	var pump func()

	if r.TTY != nil {
		master, slave, err := openTerminal(*r.TTY)
		if err != nil {
			return fail("open terminal", opaque(err))
		}
		child, ours = append(child, slave), append(ours, master)
		attr.Sys.Setctty = true
		attr.Files = []uintptr{uintptr(slave), uintptr(slave), uintptr(slave)}
		p.tty = master
		p.stdout = newStream(master, a.ports.out)
		if r.Stdin {
			pump = func() { a.pumpStdin(master, func() { _, _ = master.Write([]byte{endOfText}) }) }
		}
	} else {
		var stdin int
		if r.Stdin {
			w, fd, err := pipe(1)
			if err != nil {
				return fail("make pipe", opaque(err))
			}
			ours = append(ours, w)
			stdin, p.stdin = fd, w
			pump = func() { a.pumpStdin(w, func() { _ = w.Close() }) }
		} else {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fail("open /dev/null", opaque(err))
			}
			stdin = fd
		}
		child = append(child, stdin)
		rd, stdout, err := pipe(0)
		if err != nil {
			return fail("make pipe", opaque(err))
		}
		child, ours = append(child, stdout), append(ours, rd)
		p.stdout = newStream(rd, a.ports.out)
		stderr := stdout
		if !r.Merge {
			rd, fd, err := pipe(0)
			if err != nil {
				return fail("make pipe", opaque(err))
			}
			child, ours = append(child, fd), append(ours, rd)
			p.stderr = newStream(rd, a.ports.err)
			stderr = fd
		}
		attr.Files = []uintptr{uintptr(stdin), uintptr(stdout), uintptr(stderr)}
	}

	p.pid, p.status, err = a.reaper.start(func() (int, error) {
		if r.Hold == wire.HoldExec {
			return forkHeld(exe, r.Argv, attr)
		}
		return syscall.ForkExec(exe, r.Argv, attr)
	})
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = errLoader
		}
		return fail("start "+exe, err)
	}
	for _, s := range []*stream{p.stdout, p.stderr} {
		if s != nil {
			go func() {
				defer dieOnPanic(a.sys)
				s.copy()
			}()
		}
	}
	if pump != nil {
		pump()
	}
	a.send(wire.Message{Started: &wire.Started{PID: p.pid}})
	return p, nil
}

// completeEnv adds what every program expects.
func completeEnv(env []string) []string {
	out := append([]string{}, env...)
	for _, kv := range []string{"PATH=" + defaultPath, "HOME=/root"} {
		key, _, _ := strings.Cut(kv, "=")
		if _, ok := lookEnv(env, key); !ok {
			out = append(out, kv)
		}
	}
	return out
}

func lookEnv(env []string, key string) (value string, ok bool) {
	for _, kv := range env {
		if v, found := strings.CutPrefix(kv, key+"="); found {
			return v, true // the first one counts, as in getenv(3) of glibc
		}
	}
	return "", false
}

// lookPath finds a program as execvp(3) does, in env's PATH.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(dir, name)
		}
		return name, executable(name)
	}
	list, _ := lookEnv(env, "PATH")
	result := error(unix.ENOENT)
	for _, d := range strings.Split(list, ":") {
		if !path.IsAbs(d) {
			d = path.Join(dir, d)
		}
		p := path.Join(d, name)
		err := executable(p)
		if err == nil {
			return p, nil
		}
		if errors.Is(err, unix.EACCES) {
			result = err
		}
	}
	if errors.Is(result, unix.ENOENT) {
		return "", fmt.Errorf("not found in PATH (%s): %w", list, result)
	}
	return "", result
}

// executable says why p could not be executed, as far as its inode tells.
func executable(p string) error {
	fi, err := os.Stat(p)
	switch {
	case err != nil:
		var pe *fs.PathError
		if errors.As(err, &pe) {
			return pe.Err
		}
		return err
	case fi.IsDir():
		return unix.EISDIR
	case fi.Mode()&0o111 == 0:
		return unix.EACCES
	}
	return nil
}

// pipe makes a pipe with one end for us, on which the poller and with it
// deadlines work, and one for a program, which expects it to block.
func pipe(ours int) (us *os.File, theirs int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, err
	}
	theirs = fds[1-ours]
	if err := unix.SetNonblock(fds[ours], true); err != nil {
		return nil, -1, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	// A smaller one works too: another user may have used up the pages.
	_, _ = unix.FcntlInt(uintptr(theirs), unix.F_SETPIPE_SZ, pipeSize)
	return os.NewFile(uintptr(fds[ours]), "pipe"), theirs, nil
}

// wait waits until the program has ended and its output has been passed on.
func (p *program) wait(grace time.Duration) *wire.Exited {
	if p.failed != nil {
		return p.failed
	}
	ws := <-p.status
	// Other processes may hold the pipes open. What the program itself wrote
	// is in the pipes now, and is always read.
	deadline := time.Now().Add(grace)
	e := &wire.Exited{Code: ws.ExitStatus(), Stdout: p.stdout.finish(deadline)}
	if p.stderr != nil {
		e.Stderr = p.stderr.finish(deadline)
	}
	if p.stdin != nil {
		_ = p.stdin.Close() // wakes the pump; it goes on reading for nobody
	}
	if ws.Signaled() {
		e.Code, e.Signal, e.Core = -1, int(ws.Signal()), ws.CoreDump()
	}
	return e
}

func (p *program) resize(size wire.Winsize) {
	if p.tty != nil {
		// Fails when the program has just ended.
		_ = setSize(p.tty, size)
	}
}

// stream copies a program's output to a port.
type stream struct {
	r    *os.File
	w    io.Writer
	n    int64 // bytes passed on; copy's, until it has ended or answers settle
	done chan struct{}

	mu    sync.Mutex // held by settle and finish, which both use the deadline
	ended bool       // finish was called
	// settled, when not nil, is closed by copy when it has passed on what is in
	// the pipe.
	settled atomic.Pointer[chan struct{}]
}

func newStream(r *os.File, w io.Writer) *stream {
	return &stream{r: r, w: w, done: make(chan struct{})}
}

// copy copies until nobody has the other end open or the deadline is over.
func (s *stream) copy() {
	defer close(s.done)
	buf := make([]byte, copySize)
	for {
		n, err := s.r.Read(buf)
		s.write(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.drain(buf)
			if c := s.settled.Swap(nil); c != nil {
				close(*c)
				continue
			}
			return
		}
		if err != nil { // EOF; EIO on a terminal
			return
		}
	}
}

// write passes data on. When the port fails the control port does too, and ends
// everything; until then the program must not block.
func (s *stream) write(b []byte) {
	if len(b) == 0 {
		return
	}
	n, _ := s.w.Write(b)
	s.n += int64(n)
}

// drain passes on what is in the pipe, but no more than one pipe full: somebody
// may be filling it as fast as we read.
func (s *stream) drain(buf []byte) {
	if err := s.r.SetReadDeadline(time.Time{}); err != nil {
		return
	}
	raw, err := s.r.SyscallConn()
	if err != nil {
		return
	}
	for left := pipeSize; left > 0; {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.Read(int(fd), buf[:min(left, len(buf))])
			return true // never wait
		})
		if err != nil || n <= 0 {
			return
		}
		s.write(buf[:n])
		left -= n
	}
}

// finish waits for the end of the stream, at most until the deadline and a pipe
// full more, and returns how many bytes it had.
func (s *stream) finish(deadline time.Time) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	select {
	case <-s.done: // without a deadline
	default:
		if err := s.r.SetReadDeadline(deadline); err != nil {
			// Cannot be: pipes and terminals are pollable.
			_ = s.r.Close()
		}
		<-s.done
	}
	_ = s.r.Close()
	return s.n
}

// settle passes on what has been written until now, and returns how many bytes
// the stream has had. While it runs nobody should write.
func (s *stream) settle() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return s.n
	}
	c := make(chan struct{})
	s.settled.Store(&c)
	if err := s.r.SetReadDeadline(time.Unix(1, 0)); err != nil { // long past; drain sets it back
		return 0 // cannot be, see finish
	}
	select {
	case <-c:
	case <-s.done:
	}
	return s.n
}

// pumpStdin passes the frames of one run's standard input to w until the empty
// frame, then calls end. When w fails, or is nil, the rest is read for nobody,
// so that the next run's input is not mistaken for this one's.
func (a *agent) pumpStdin(w io.Writer, end func()) {
	before, done := a.lastStdin, make(chan struct{})
	a.lastStdin = done
	go func() {
		defer dieOnPanic(a.sys)
		defer close(done)
		<-before
		r := wire.NewReader(a.ports.in)
		for {
			b, err := r.ReceiveStdin()
			if err != nil {
				if end != nil {
					end()
				}
				if !errors.Is(err, io.EOF) {
					a.fault("read standard input's port: %v", err)
				}
				return
			}
			if w == nil {
				continue
			}
			if _, err := w.Write(b); err != nil {
				w = nil
			}
		}
	}()
}
