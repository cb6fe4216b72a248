// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

var helpers = kit.Helpers{
	"open":    helpOpen,
	"traceme": helpTraceme,
	"sleep":   helpSleep,
}

// helpOpen tries to open a directory and returns the errno, 0 for success.
func helpOpen(in json.RawMessage) (any, error) {
	var path string
	if err := json.Unmarshal(in, &path); err != nil {
		return nil, err
	}
	return errnoOf(openDir(path)), nil
}

// helpTraceme asks to be traced by its parent.
func helpTraceme(json.RawMessage) (any, error) {
	_, _, e := unix.Syscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0)
	return int(e), nil
}

func errnoOf(err error) int {
	var e unix.Errno
	errors.As(err, &e)
	return int(e)
}

// sleeper is a process that does nothing until it is stopped.
type sleeper struct {
	cmd  *exec.Cmd
	hold *os.File
}

// startSleeper starts one from the calling thread, whose domain it inherits,
// and returns when it runs. Layers other than nil make it confine itself
// further, by nothing but what it handles.
//
// That exec.Cmd.Start has returned is not enough for anything that looks at
// the process: the kernel closes the descriptors from before, which tells Go
// that execve(2) succeeded, before it replaces the memory (begin_new_exec,
// fs/exec.c), and shared memory may always be traced.
func startSleeper(t testing.TB, further *attr) *sleeper {
	t.Helper()
	h := kit.NewHelper(t, "sleep", further)
	up, ready, err := os.Pipe()
	assert.NilError(t, err)
	in, hold, err := os.Pipe()
	assert.NilError(t, err)
	h.Cmd.ExtraFiles = append(h.Cmd.ExtraFiles, ready, in)
	h.Cmd.Stdout, h.Cmd.Stderr = os.Stdout, os.Stderr
	s := &sleeper{cmd: h.Cmd, hold: hold}
	assert.NilError(t, h.Cmd.Start())
	t.Cleanup(func() { _ = s.stop() })
	_, _ = ready.Close(), in.Close()
	_, err = up.Read(make([]byte, 1))
	_ = up.Close()
	assert.NilError(t, err, "wait for the helper")
	return s
}

// helpSleep confines itself further, says that it runs and waits for the end
// of its second input.
func helpSleep(in json.RawMessage) (any, error) {
	var further *attr
	if err := json.Unmarshal(in, &further); err != nil {
		return nil, err
	}
	if further != nil {
		rs, err := create(further, unsafe.Sizeof(*further), 0)
		if err != nil {
			return nil, err
		}
		if err := restrict(rs, 0); err != nil {
			return nil, err
		}
	}
	// After the reply, which is kit's descriptor 3.
	if _, err := unix.Write(4, []byte{0}); err != nil {
		return nil, err
	}
	_, err := unix.Read(5, make([]byte, 1))
	return nil, err
}

func (s *sleeper) pid() int { return s.cmd.Process.Pid }

// stop ends the input and returns how the process ended.
func (s *sleeper) stop() syscall.WaitStatus {
	_ = s.hold.Close()
	_ = s.cmd.Wait()
	if s.cmd.ProcessState == nil {
		return 0
	}
	return s.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// TestInheritedByChildren: a process that a confined thread starts is
// confined, across fork and execve.
func TestInheritedByChildren(t *testing.T) {
	l := fsLayer(fsReadDir, nil)
	confined(t, func() {
		assert.Check(t, cmp.Equal(kit.Call[int](t, "open", "/tmp"), int(unix.EACCES)), "child of a confined thread")
	}, l)
	assert.Check(t, cmp.Equal(kit.Call[int](t, "open", "/tmp"), 0), "child of an unconfined thread")
}

// TestThreadLocal: other threads of the process stay free.
func TestThreadLocal(t *testing.T) {
	confined(t, func() {
		kit.WantErrno(t, "confined thread", openDir("/tmp"), unix.EACCES)
		kit.OnThread(t, func() { kit.WantErrno(t, "new thread of the process", openDir("/tmp"), 0) })
		kit.WantErrno(t, "confined thread again", openDir("/tmp"), unix.EACCES)
	}, fsLayer(fsReadDir, nil))
}

// mayTrace tells whether the calling thread may trace a process: an access to
// its memory that fails only because of the address.
func mayTrace(pid int) error {
	b := make([]byte, 1)
	local := []unix.Iovec{{Base: &b[0], Len: 1}}
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0, Len: 1}}, 0)
	if errors.Is(err, unix.EFAULT) {
		return nil
	}
	return err
}

// TestPtrace: only a process of the same domain or one nested in it may be
// traced.
func TestPtrace(t *testing.T) {
	free := startSleeper(t, nil)
	kit.WantErrno(t, "no domain traces no domain", mayTrace(free.pid()), 0)
	confined(t, func() {
		kit.WantErrno(t, "domain traces no domain", mayTrace(free.pid()), unix.EPERM)
		// Not environ: newer kernels let everybody with CAP_PERFMON read it
		// (kernel/fork.c: may_access_mm).
		kit.WantErrno(t, "open memory of no domain", open(fmt.Sprintf("/proc/%d/mem", free.pid()), unix.O_RDONLY), unix.EACCES)
		_, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", free.pid()))
		kit.WantErrno(t, "read directory of no domain", err, unix.EACCES)
		same := startSleeper(t, nil)
		kit.WantErrno(t, "domain traces the same domain", mayTrace(same.pid()), 0)
		kit.WantErrno(t, "domain traces its own process", mayTrace(os.Getpid()), 0)
		kit.OnThread(t, func() {
			kit.WantErrno(t, "no domain traces a domain", mayTrace(same.pid()), 0)
			enforce(t, fsLayer(fsMakeBlock, nil))
			kit.WantErrno(t, "domain traces another domain", mayTrace(same.pid()), unix.EPERM)
		})
		nested := startSleeper(t, &attr{FS: fsMakeBlock})
		kit.WantErrno(t, "domain traces a nested domain", mayTrace(nested.pid()), 0)
		enforce(t, fsLayer(fsMakeBlock, nil))
		kit.WantErrno(t, "nested domain traces a sibling", mayTrace(nested.pid()), unix.EPERM)
		kit.WantErrno(t, "nested domain traces its parent domain", mayTrace(same.pid()), unix.EPERM)
	}, fsLayer(fsMakeBlock, nil))
}

// TestPtraceTraceme: a process may not ask a parent to trace it that could not
// by itself.
func TestPtraceTraceme(t *testing.T) {
	traceme := func(l ...layer) int {
		var e int
		kit.OnThread(t, func() {
			// The helper asks when its input ends: after its parent, this
			// thread, has confined itself.
			in, end, err := os.Pipe()
			assert.NilError(t, err)
			defer func() { _ = in.Close() }()
			reply, out, err := os.Pipe()
			assert.NilError(t, err)
			defer func() { _ = reply.Close() }()
			h := kit.NewHelper(t, "traceme", nil)
			h.Cmd.Stdin = in
			h.Cmd.ExtraFiles = []*os.File{out}
			assert.NilError(t, h.Cmd.Start())
			_ = out.Close()
			enforce(t, l...)
			assert.NilError(t, end.Close())
			var r struct{ Out int }
			assert.NilError(t, json.NewDecoder(reply).Decode(&r))
			assert.NilError(t, h.Cmd.Wait())
			e = r.Out
		})
		return e
	}
	assert.Check(t, cmp.Equal(traceme(), 0), "of an unconfined parent")
	assert.Check(t, cmp.Equal(traceme(fsLayer(fsMakeBlock, nil)), int(unix.EPERM)), "of a parent in a domain")
}

// TestScopeSignal: a scoped domain may signal only processes in it or below.
func TestScopeSignal(t *testing.T) {
	needABI(t, 6)
	outside := startSleeper(t, nil)
	kill := func(s *sleeper) error { return unix.Kill(s.pid(), 0) }
	confined(t, func() {
		kit.WantErrno(t, "outside, domain without the scope", kill(outside), 0)
	}, layer{attr: attr{Scoped: scopeUnix}})
	confined(t, func() {
		kit.WantErrno(t, "outside", kill(outside), unix.EPERM)
		kit.WantErrno(t, "outside, a real signal", unix.Kill(outside.pid(), unix.SIGKILL), unix.EPERM)
		kit.WantErrno(t, "own process", unix.Kill(os.Getpid(), 0), 0)
		inside := startSleeper(t, nil)
		kit.WantErrno(t, "same domain", kill(inside), 0)
		enforce(t, layer{attr: attr{FS: fsMakeBlock}})
		kit.WantErrno(t, "scoped parent domain's process", kill(inside), 0)
		enforce(t, layer{attr: attr{Scoped: scopeSignal}})
		kit.WantErrno(t, "outside the second scope", kill(inside), unix.EPERM)
	}, layer{attr: attr{Scoped: scopeSignal}})
	ws := outside.stop()
	kit.Want(t, !ws.Signaled(), "the process outside was killed by %v", ws.Signal())
}

// TestScopeSignalThreads: threads of one process may always signal each other
// (erratum 2).
func TestScopeSignalThreads(t *testing.T) {
	needErratum(t, 2)
	tid := make(chan int)
	release := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		kit.OnThread(t, func() { tid <- unix.Gettid(); <-release })
	}()
	other := <-tid
	confined(t, func() {
		kit.WantErrno(t, "another thread", unix.Tgkill(os.Getpid(), other, 0), 0)
		kit.WantErrno(t, "the first thread", unix.Tgkill(os.Getpid(), os.Getpid(), 0), 0)
	}, layer{attr: attr{Scoped: scopeSignal}})
	close(release)
	<-done
}

// TestScopeSignalOwner: signals that the kernel sends for a descriptor count
// as sent by who became its owner.
func TestScopeSignalOwner(t *testing.T) {
	needABI(t, 6)
	for _, c := range []struct {
		name  string
		layer layer
		dies  bool
	}{
		{"scoped", layer{attr: attr{Scoped: scopeSignal}}, false},
		{"not scoped", layer{attr: attr{Scoped: scopeUnix}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			outside := startSleeper(t, nil)
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			assert.NilError(t, err)
			defer func() { _ = unix.Close(pair[0]); _ = unix.Close(pair[1]) }()
			confined(t, func() {
				fcntl := func(cmd, arg int) {
					t.Helper()
					_, err := unix.FcntlInt(uintptr(pair[0]), cmd, arg)
					assert.NilError(t, err)
				}
				fcntl(unix.F_SETOWN, outside.pid())
				// Not caught by anybody in the sleeper.
				fcntl(unix.F_SETSIG, int(unix.SIGKILL))
				fcntl(unix.F_SETFL, unix.O_ASYNC)
			}, c.layer)
			// The writer is not confined, the owner of the descriptor was.
			_, err = unix.Write(pair[1], []byte{0})
			assert.NilError(t, err)
			ws := outside.stop()
			assert.Check(t, cmp.Equal(ws.Signaled(), c.dies), "ended with status %#x", int(ws))
		})
	}
}

// TestScopeAbstractUnix: a scoped domain cannot reach abstract sockets made
// outside; pathname sockets and those from before are not concerned.
func TestScopeAbstractUnix(t *testing.T) {
	needABI(t, 6)
	stream := proto{name: "stream", family: unix.AF_UNIX, typ: unix.SOCK_STREAM}
	dgram := proto{name: "datagram", family: unix.AF_UNIX, typ: unix.SOCK_DGRAM}
	n := ports(4)
	stream.serve(t, n[0])
	dgram.serve(t, n[1])
	dgram.serve(t, n[2])
	path := fs.Tmpfs(t, 0) + "/sock"
	named := stream.socket(t)
	assert.NilError(t, unix.Bind(named, &unix.SockaddrUnix{Name: path}))
	assert.NilError(t, unix.Listen(named, 4))
	connected := dgram.socket(t)
	assert.NilError(t, unix.Connect(connected, dgram.addr(n[1])))
	for _, c := range []struct {
		name   string
		layers []layer
		want   unix.Errno
	}{
		{"unconfined", nil, 0},
		{"signal scope", []layer{{attr: attr{Scoped: scopeSignal}}}, 0},
		{"scoped", []layer{{attr: attr{Scoped: scopeUnix}}}, unix.EPERM},
		{"scoped below another layer", []layer{{attr: attr{Scoped: scopeUnix}}, {attr: attr{FS: fsMakeBlock}}}, unix.EPERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			confined(t, func() {
				kit.WantErrno(t, "connect a stream", stream.connect(t, n[0]), c.want)
				kit.WantErrno(t, "connect a datagram socket", dgram.connect(t, n[1]), c.want)
				kit.WantErrno(t, "send a datagram", unix.Sendto(dgram.socket(t), []byte{0}, 0, dgram.addr(n[1])), c.want)
				kit.WantErrno(t, "send to the peer from before", unix.Sendto(connected, []byte{0}, unix.MSG_DONTWAIT, dgram.addr(n[1])), 0)
				kit.WantErrno(t, "send to another than the peer", unix.Sendto(connected, []byte{0}, 0, dgram.addr(n[2])), c.want)
				kit.WantErrno(t, "connect by path", unix.Connect(stream.socket(t), &unix.SockaddrUnix{Name: path}), 0)
				own := fmt.Sprintf("@kvmrun-own-%d-%s", n[3], strings.ReplaceAll(c.name, " ", "-"))
				srv := stream.socket(t)
				assert.NilError(t, unix.Bind(srv, &unix.SockaddrUnix{Name: own}))
				assert.NilError(t, unix.Listen(srv, 1))
				kit.WantErrno(t, "connect to a socket of the same domain", unix.Connect(stream.socket(t), &unix.SockaddrUnix{Name: own}), 0)
			}, c.layers...)
		})
	}
}
