// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"errors"
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// A forked process that does not exec has one thread and no working Go
// runtime: even a function's check of its stack may end up in the scheduler.
// So what it does is data, a list of system calls in memory that is shared
// with its parent, interpreted by one function without such checks.

// rawStep is one system call and its result.
type rawStep struct {
	nr, a, b, c, d uintptr
	// child is the index of the step with which a process goes on that this
	// step, a clone(2), has made.
	child  uintptr
	ret    uintptr
	err    unix.Errno
	isFork bool
}

func exitStep() rawStep { return rawStep{nr: unix.SYS_EXIT_GROUP} }

func forkStep(child uintptr) rawStep {
	return rawStep{nr: unix.SYS_CLONE, a: uintptr(unix.SIGCHLD), child: child, isFork: true}
}

// waitStep waits for any child; the status is not looked at.
func waitStep() rawStep { return rawStep{nr: unix.SYS_WAIT4, a: ^uintptr(0)} }

// openDirStep opens a directory; the string, with its NUL, must not move.
func openDirStep(path *byte) rawStep {
	return rawStep{
		nr: unix.SYS_OPENAT, a: ^uintptr(99), // AT_FDCWD, -100
		b: uintptr(unsafe.Pointer(path)), c: unix.O_RDONLY | unix.O_DIRECTORY,
	}
}

// runForked runs the steps in a forked process and fills in their results.
// The last step must end the process.
func runForked(steps []rawStep) error {
	size := len(steps) * int(unsafe.Sizeof(rawStep{}))
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map shared memory: %w", err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	shared := unsafe.Slice((*rawStep)(unsafe.Pointer(&mem[0])), len(steps))
	copy(shared, steps)
	pid, e := forkInto(&shared[0])
	if e != 0 {
		return fmt.Errorf("fork: %w", e)
	}
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(int(pid), &ws, 0, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the forked process: %w", err)
		}
	}
	copy(steps, shared)
	if ws != 0 {
		return fmt.Errorf("the forked process ended with status %#x", int(ws))
	}
	return nil
}

//go:nosplit
//go:norace
func forkInto(steps *rawStep) (pid uintptr, e unix.Errno) {
	pid, _, e = unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid != 0 || e != 0 {
		return pid, e
	}
	for i := uintptr(0); ; i++ {
		s := (*rawStep)(unsafe.Add(unsafe.Pointer(steps), i*unsafe.Sizeof(rawStep{})))
		r, _, e := unix.RawSyscall6(s.nr, s.a, s.b, s.c, s.d, 0, 0)
		if s.isFork && r == 0 && e == 0 {
			i = s.child - 1
			continue
		}
		s.ret, s.err = r, e
	}
}

// TestInheritedByFork: a forked process is confined without an execve.
func TestInheritedByFork(t *testing.T) {
	try := func() error {
		path, err := unix.BytePtrFromString("/tmp")
		assert.NilError(t, err)
		steps := []rawStep{openDirStep(path), exitStep()}
		assert.NilError(t, runForked(steps))
		return kit.Errno(steps[0].err)
	}
	confined(t, func() {
		kit.WantErrno(t, "fork of a confined thread", try(), unix.EACCES)
	}, fsLayer(fsReadDir, nil))
	kit.WantErrno(t, "fork of an unconfined thread", try(), 0)
}

// TestCredTransfer: a process that gets new credentials because its child
// replaced its session keyring stays in its domain (CVE-2024-42318). The
// kernel refuses that to a process of several threads, as all of Go's are.
func TestCredTransfer(t *testing.T) {
	kit.NeedKconfig(t, "KEYS=y")
	path, err := unix.BytePtrFromString("/tmp")
	assert.NilError(t, err)
	rs := fsLayer(fsReadDir, nil).ruleset(t)
	keyctl := func(op int, arg uintptr) rawStep { return rawStep{nr: unix.SYS_KEYCTL, a: uintptr(op), b: arg} }
	const session = ^uintptr(2) // KEY_SPEC_SESSION_KEYRING, -3
	steps := []rawStep{
		0: openDirStep(path),
		1: {nr: unix.SYS_LANDLOCK_RESTRICT_SELF, a: uintptr(rs)},
		2: openDirStep(path),
		// The keyrings' owners have to be the same.
		3: keyctl(unix.KEYCTL_JOIN_SESSION_KEYRING, 0),
		4: forkStep(9),
		5: waitStep(),
		// The parent gets its credentials on its way back from that call.
		6: keyctl(unix.KEYCTL_GET_KEYRING_ID, session),
		7: openDirStep(path),
		8: exitStep(),
		// The child.
		9:  keyctl(unix.KEYCTL_JOIN_SESSION_KEYRING, 0),
		10: keyctl(unix.KEYCTL_SESSION_TO_PARENT, 0),
		11: exitStep(),
	}
	assert.NilError(t, runForked(steps))
	want := map[int]unix.Errno{2: unix.EACCES, 7: unix.EACCES}
	for i, s := range steps {
		kit.WantErrno(t, fmt.Sprintf("step %d", i), kit.Errno(s.err), want[i])
	}
	assert.Check(t, cmp.Equal(steps[6].ret, steps[9].ret), "the parent has not got its child's keyring")
	kit.Want(t, steps[3].ret != steps[6].ret, "the parent has kept its own keyring")
}
