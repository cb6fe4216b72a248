// SPDX-License-Identifier: Apache-2.0

package ipe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// target is what an access is tried on.
type target struct {
	path string
	fd   int // open for reading
}

// newTarget is a file outside the initramfs, with a content that is nothing:
// neither a program nor a module nor a kernel.
func newTarget(t testing.TB) target {
	t.Helper()
	return targetAt(t, filepath.Join(fs.Tmpfs(t, 0), "target"))
}

// bootTarget is such a file in the initramfs. Files that are made there later
// count as verified too: the mark is the file system's.
func bootTarget(t testing.TB) target {
	t.Helper()
	dir, err := os.MkdirTemp("/", "kvmrun-ipe-")
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, os.RemoveAll(dir)) })
	return targetAt(t, filepath.Join(dir, "target"))
}

func targetAt(t testing.TB, path string) target {
	t.Helper()
	assert.NilError(t, os.WriteFile(path, []byte(strings.Repeat("nothing in particular\n", 400)), 0o755))
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return target{path: path, fd: fd}
}

// access is something that IPE has a hook for.
type access struct {
	name     string
	op, hook string
	do       func(testing.TB, target) error
	// Errno where IPE allows it: it fails for another reason, as there is
	// nothing in particular in the file.
	allowed unix.Errno
	// Whether the record has the file.
	file bool
	need []string
}

// lacking tells whether the kernel lacks what the access needs.
func (a access) lacking() bool { return len(kit.Config().Missing(a.need)) > 0 }

var accesses = []access{
	{"execve", "EXECUTE", "BPRM_CHECK", execFile, unix.ENOEXEC, true, nil},
	{"mmap", "EXECUTE", "MMAP", mmapExec, 0, true, nil},
	{"mprotect", "EXECUTE", "MPROTECT", mprotectExec, 0, true, nil},
	{"anonymous mmap", "EXECUTE", "MMAP", anonExec, 0, false, nil},
	{"finit_module", "KMODULE", "KERNEL_READ", finitModule, unix.ENOEXEC, true, []string{"MODULES=y"}},
	{"init_module", "KMODULE", "KERNEL_LOAD", initModule, unix.ENOEXEC, false, []string{"MODULES=y"}},
	{"kexec_load", "KEXEC_IMAGE", "KERNEL_LOAD", kexecLoad, 0, false, []string{"KEXEC=y"}},
	{"kexec_file_load", "KEXEC_IMAGE", "KERNEL_READ", kexecFileLoad, unix.ENOEXEC, true, []string{"KEXEC_FILE=y"}},
}

func accessNamed(name string) access {
	for _, a := range accesses {
		if a.name == name {
			return a
		}
	}
	panic("no access " + name)
}

// execFile tries to become the file, which comes back with an error in any case.
func execFile(_ testing.TB, f target) error { return unix.Exec(f.path, []string{f.path}, nil) }

// mapped is mmap(2) of a page of the file, or of nothing where fd is negative.
func mapped(fd, prot int) (uintptr, error) {
	flags := unix.MAP_PRIVATE
	if fd < 0 {
		flags |= unix.MAP_ANONYMOUS
	}
	p, _, e := unix.Syscall6(unix.SYS_MMAP, 0, 4096, uintptr(prot), uintptr(flags), uintptr(fd), 0)
	if e != 0 {
		return 0, e
	}
	return p, nil
}

func unmap(t testing.TB, p uintptr) {
	t.Helper()
	_, _, e := unix.Syscall(unix.SYS_MUNMAP, p, 4096, 0)
	kit.WantErrno(t, "munmap", kit.Errno(e), 0)
}

func mprotect(p uintptr, prot int) error {
	_, _, e := unix.Syscall(unix.SYS_MPROTECT, p, 4096, uintptr(prot))
	return kit.Errno(e)
}

func mapOnly(t testing.TB, fd, prot int) error {
	p, err := mapped(fd, prot)
	if err == nil {
		unmap(t, p)
	}
	return err
}

func mmapExec(t testing.TB, f target) error { return mapOnly(t, f.fd, unix.PROT_READ|unix.PROT_EXEC) }
func anonExec(t testing.TB, _ target) error { return mapOnly(t, -1, unix.PROT_READ|unix.PROT_EXEC) }

func mprotectExec(t testing.TB, f target) error {
	p, err := mapped(f.fd, unix.PROT_READ)
	if err != nil {
		return err
	}
	defer unmap(t, p)
	return mprotect(p, unix.PROT_READ|unix.PROT_EXEC)
}

var empty = [1]byte{}

func finitModule(_ testing.TB, f target) error {
	_, _, e := unix.Syscall(unix.SYS_FINIT_MODULE, uintptr(f.fd), uintptr(unsafe.Pointer(&empty)), 0)
	return kit.Errno(e)
}

func initModule(_ testing.TB, _ target) error {
	b := make([]byte, 4096)
	_, _, e := unix.Syscall(unix.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&empty)))
	return kit.Errno(e)
}

// kexecLoad loads nothing, which unloads what is loaded: nothing.
func kexecLoad(testing.TB, target) error {
	_, _, e := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0)
	return kit.Errno(e)
}

func kexecFileLoad(_ testing.TB, f target) error {
	const noInitramfs = 4 // KEXEC_FILE_NO_INITRAMFS
	_, _, e := unix.Syscall6(unix.SYS_KEXEC_FILE_LOAD, uintptr(f.fd), ^uintptr(0), 1, uintptr(unsafe.Pointer(&empty)), noInitramfs, 0)
	return kit.Errno(e)
}
