// SPDX-License-Identifier: Apache-2.0

package kit_test

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// Errnos by the names that manual pages use, whatever wraps them.
func ExampleErrnoName() {
	_, err := os.Open("/no/such/file")
	fmt.Println(kit.ErrnoName(err), kit.ErrnoName(kit.Errno(0)), kit.ErrnoName(unix.EPERM))
	// Output: ENOENT success EPERM
}

// What a raw system call answered, as an error that is nil for success.
func ExampleErrno() {
	_, _, e := unix.RawSyscall(unix.SYS_CLOSE, ^uintptr(0), 0, 0)
	fmt.Println(kit.Errno(e), kit.Errno(0) == nil)
	// Output: bad file descriptor true
}

// A test of a suite: what belongs to a thread or a process ends with it, and the
// needs are checked by the host. It runs in a VM; examples/module has it in a suite.
func Example() {
	helpers := kit.Helpers{ // for testmain.Run
		"whoami": func(json.RawMessage) (any, error) { return os.Getuid(), nil },
	}
	test := func(t *testing.T) {
		kit.NeedKconfig(t, "MULTIUSER")
		dir := fs.Tmpfs(t, 0)
		kit.OnThread(t, func() {
			if err := kit.SetUID(65534); err != nil {
				t.Fatal(err)
			}
			kit.WantErrno(t, "make a directory as nobody", unix.Mkdir(dir+"/dir", 0o755), unix.EACCES)
		})
		kit.Want(t, kit.Call[int](t, "whoami", nil) == 0, "the helper is not root's")
	}
	_, _ = helpers, test
}
