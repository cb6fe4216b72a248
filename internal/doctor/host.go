// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/shipped"
)

// Host is everything the checks ask about a machine. All functions are
// required but Accel.
type Host struct {
	// QEMU is the program to look for, "" for qemu-system-x86_64.
	QEMU string
	// CacheDir is where kvmrun keeps its cache; it need not exist.
	CacheDir string

	// LookPath finds a program as exec.LookPath does; administrators'
	// directories (sbin) are tried as well.
	LookPath func(name string) (string, error)
	// Output runs a program and returns what it prints on stdout.
	Output func(ctx context.Context, name string, args ...string) (string, error)
	// ReadFile reads a file.
	ReadFile func(path string) ([]byte, error)
	// Glob returns the files that match.
	Glob func(pattern string) []string
	// OpenRW opens a device for reading and writing, and closes it.
	OpenRW func(path string) error
	// Writable says whether this process may create files in a directory.
	Writable func(dir string) error
	// Space returns the size and the free bytes of the file system at path.
	Space func(path string) (size, free uint64, err error)

	// Compiled says that the suites' C programs were installed with kvmrun, which
	// otherwise compiles them here.
	Compiled bool

	// Accel boots something to find out which accelerator works, "kvm" or
	// "tcg", and why not KVM. Nil when nobody can tell; then only the
	// preconditions of KVM are looked at.
	Accel func(ctx context.Context) (accel, reason string, err error)
	// Confine starts QEMU to find out what keeps it apart from the host. Nil when
	// nobody can tell; then nothing is said about it.
	Confine func(ctx context.Context) (Confinement, error)
}

// Confinement is how a running QEMU was found.
type Confinement struct {
	Sandbox bool   // its system calls are filtered
	UID     int    // the user it runs as
	Limited bool   // its memory is limited
	Why     string // why it is less than it could be, "" when all is well
}

// LocalHost is the machine this runs on.
func LocalHost(cacheDir string, accel func(ctx context.Context) (accel, reason string, err error)) Host {
	beside, _ := shipped.Dir()
	return Host{
		CacheDir: cacheDir,
		Compiled: beside != "",
		LookPath: lookPath,
		Output: func(ctx context.Context, name string, args ...string) (string, error) {
			out, err := exec.CommandContext(ctx, name, args...).Output()
			return string(out), err
		},
		ReadFile: os.ReadFile,
		Glob: func(pattern string) []string {
			found, _ := filepath.Glob(pattern) // only fails for bad patterns
			return found
		},
		OpenRW: func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			return f.Close()
		},
		Writable: func(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) },
		Space: func(path string) (size, free uint64, err error) {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil {
				return 0, 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
			}
			return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
		},
		Accel: accel,
	}
}

// lookPath also looks where Debian has mkfs and fsck, which is not in the PATH
// of ordinary users.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || filepath.Base(name) != name || !errors.Is(err, exec.ErrNotFound) {
		return path, err
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, sbinErr := exec.LookPath(filepath.Join(dir, name)); sbinErr == nil {
			return path, nil
		}
	}
	return "", err
}
