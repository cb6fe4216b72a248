// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Errno returns what a raw system call answered as an error: nil for 0, the
// errno otherwise. A unix.Errno of 0 in an error variable is not nil.
func Errno(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// DropCaps clears capabilities (unix.CAP_*) from the effective set of the
// calling thread, whose permitted set keeps them: RaiseCaps brings them back. To
// be called in [OnThread] or a helper process, because Go moves goroutines
// between threads. It fails the test where the kernel refuses.
func DropCaps(t testing.TB, caps ...uint) {
	t.Helper()
	editCaps(t, func(word *uint32, bit uint32) { *word &^= bit }, caps)
}

// RaiseCaps adds capabilities to the effective set of the calling thread, which
// must have them in its permitted set. See [DropCaps].
func RaiseCaps(t testing.TB, caps ...uint) {
	t.Helper()
	editCaps(t, func(word *uint32, bit uint32) { *word |= bit }, caps)
}

func editCaps(t testing.TB, edit func(word *uint32, bit uint32), caps []uint) {
	t.Helper()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData // of 32 bits each (capget(2))
	if err := unix.Capget(&h, &d[0]); err != nil {
		t.Fatalf("read the thread's capabilities: %v", err)
	}
	for _, c := range caps {
		edit(&d[c/32].Effective, 1<<(c%32))
	}
	if err := unix.Capset(&h, &d[0]); err != nil {
		t.Fatalf("change the thread's effective capabilities: %v", err)
	}
}

// SetUID makes a user the real, effective and saved one of the calling thread
// alone, setresuid(2), where package syscall would change all threads. To be
// called in [OnThread] or a helper process. The thread loses its capabilities
// unless its securebits say otherwise (capabilities(7)).
func SetUID(uid uint32) error { return setIDs(unix.SYS_SETRESUID, uid) }

// SetGID is [SetUID] for the group, setresgid(2).
func SetGID(gid uint32) error { return setIDs(unix.SYS_SETRESGID, gid) }

func setIDs(nr uintptr, id uint32) error {
	_, _, e := unix.RawSyscall(nr, uintptr(id), uintptr(id), uintptr(id))
	return Errno(e)
}
