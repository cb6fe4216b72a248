// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// allFS is every file system right of the running ABI.
func allFS(t testing.TB) uint64 {
	t.Helper()
	switch v := abi(t); {
	case v >= 5:
		return 1<<16 - 1
	case v >= 3:
		return 1<<15 - 1
	case v == 2:
		return 1<<14 - 1
	}
	return 1<<13 - 1
}

// fileRights are the rights that a rule on something other than a directory
// may have (ACCESS_FILE, security/landlock/fs.c).
const fileRights = fsExecute | fsWriteFile | fsReadFile | fsTruncate | fsIoctlDev

// fsLayer handles the rights and allows by path.
func fsLayer(handled uint64, allow map[string]uint64) layer {
	return layer{attr: attr{FS: handled}, paths: allow}
}

// tree makes what fsOps works on, in a fresh file system.
func tree(t testing.TB) string {
	t.Helper()
	dir := fs.Tmpfs(t, 0)
	for _, d := range []string{"a", "b", "a/sub", "a/empty"} {
		assert.NilError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"a/file", "a/other", "b/file", "a/sub/file"} {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, f), []byte("not a program"), 0o755))
	}
	return dir
}

func mknod(path string, mode, major, minor uint32) error {
	return unix.Mknod(path, mode|0o644, int(unix.Mkdev(major, minor)))
}

// fsOps has one operation for each right, which needs just that one.
var fsOps = []struct {
	right uint64
	name  string
	abi   int
	op    func(dir string) error
	// Errno with the right, where the operation fails for another reason.
	allowed unix.Errno
	// Errno without the right, if not EACCES.
	denied unix.Errno
}{
	// A file that is no program gets as far as the search for its format.
	{fsExecute, "EXECUTE", 1, func(d string) error { return unix.Exec(d+"/a/file", []string{"x"}, nil) }, unix.ENOEXEC, 0},
	{fsWriteFile, "WRITE_FILE", 1, func(d string) error { return open(d+"/a/file", unix.O_WRONLY) }, 0, 0},
	{fsReadFile, "READ_FILE", 1, func(d string) error { return open(d+"/a/file", unix.O_RDONLY) }, 0, 0},
	{fsReadDir, "READ_DIR", 1, func(d string) error { return openDir(d + "/a") }, 0, 0},
	{fsRemoveDir, "REMOVE_DIR", 1, func(d string) error { return unix.Rmdir(d + "/a/empty") }, 0, 0},
	{fsRemoveFile, "REMOVE_FILE", 1, func(d string) error { return unix.Unlink(d + "/a/file") }, 0, 0},
	{fsMakeChar, "MAKE_CHAR", 1, func(d string) error { return mknod(d+"/a/null", unix.S_IFCHR, 1, 3) }, 0, 0},
	{fsMakeDir, "MAKE_DIR", 1, func(d string) error { return unix.Mkdir(d+"/a/new", 0o755) }, 0, 0},
	{fsMakeReg, "MAKE_REG", 1, func(d string) error { return mknod(d+"/a/new", unix.S_IFREG, 0, 0) }, 0, 0},
	{fsMakeSock, "MAKE_SOCK", 1, bindPath, 0, 0},
	{fsMakeFifo, "MAKE_FIFO", 1, func(d string) error { return unix.Mkfifo(d+"/a/new", 0o644) }, 0, 0},
	{fsMakeBlock, "MAKE_BLOCK", 1, func(d string) error { return mknod(d+"/a/ram", unix.S_IFBLK, 1, 0) }, 0, 0},
	{fsMakeSym, "MAKE_SYM", 1, func(d string) error { return unix.Symlink("x", d+"/a/new") }, 0, 0},
	{fsRefer, "REFER", 2, func(d string) error { return unix.Rename(d+"/a/file", d+"/b/moved") }, 0, unix.EXDEV},
	{fsTruncate, "TRUNCATE", 3, func(d string) error { return unix.Truncate(d+"/a/file", 3) }, 0, 0},
}

func bindPath(d string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Bind(fd, &unix.SockaddrUnix{Name: d + "/a/sock"})
}

// TestFSRights does each operation with all rights handled and all but its
// own allowed, then with its own allowed and, as the counter-check of the
// first, unconfined.
func TestFSRights(t *testing.T) {
	for _, c := range fsOps {
		t.Run(c.name, func(t *testing.T) {
			needABI(t, c.abi)
			denied := c.denied
			if denied == 0 {
				denied = unix.EACCES
			}
			all := allFS(t)
			try := func(what string, want unix.Errno, layers func(dir string) []layer) {
				t.Helper()
				dir := tree(t)
				confined(t, func() { kit.WantErrno(t, what, c.op(dir), want) }, layers(dir)...)
			}
			try("unconfined", c.allowed, func(string) []layer { return nil })
			try("all rights allowed", c.allowed, func(d string) []layer {
				return []layer{fsLayer(all, map[string]uint64{d: all})}
			})
			try("all other rights allowed", denied, func(d string) []layer {
				return []layer{fsLayer(all, map[string]uint64{d: all &^ c.right})}
			})
			try("only this right handled", denied, func(string) []layer {
				return []layer{fsLayer(c.right, nil)}
			})
			try("not handled", c.allowed, func(string) []layer {
				other := uint64(fsMakeBlock)
				if c.right == fsMakeBlock {
					other = fsMakeSym
				}
				if c.right == fsRefer {
					// The one right that is denied even if it is not handled.
					return nil
				}
				return []layer{fsLayer(other, nil)}
			})
		})
	}
}

// TestFSRightsOnFile: rights that make sense only for directories are refused
// in a rule on a file, the others work on that file alone.
func TestFSRightsOnFile(t *testing.T) {
	dir := tree(t)
	all := allFS(t)
	rs := fsLayer(all, nil).ruleset(t)
	fd, err := unix.Open(dir+"/a/file", unix.O_PATH|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(fd) }()
	for bit := range uint(16) {
		right := uint64(1) << bit
		if right&all == 0 {
			continue
		}
		want := unix.EINVAL
		if right&fileRights != 0 {
			want = 0
		}
		kit.WantErrno(t, fmt.Sprintf("rule with right %#x on a file", right), addPath(rs, fd, right), want)
	}
	confined(t, func() {
		kit.WantErrno(t, "the file", open(dir+"/a/file", unix.O_RDONLY), 0)
		kit.WantErrno(t, "its neighbour", open(dir+"/a/other", unix.O_RDONLY), unix.EACCES)
		kit.WantErrno(t, "the file, other right", open(dir+"/a/file", unix.O_WRONLY), unix.EACCES)
	}, fsLayer(fsReadFile|fsWriteFile, map[string]uint64{dir + "/a/file": fsReadFile}))
}

// TestFSHierarchy: a rule covers what is beneath, and the rights that rules of
// one layer give along the path add up.
func TestFSHierarchy(t *testing.T) {
	dir := tree(t)
	rw := uint64(fsReadFile | fsWriteFile)
	confined(t, func() {
		kit.WantErrno(t, "beneath the first rule", open(dir+"/a/file", unix.O_RDONLY), 0)
		kit.WantErrno(t, "beneath the first rule, other right", open(dir+"/a/file", unix.O_WRONLY), unix.EACCES)
		kit.WantErrno(t, "beneath both rules", open(dir+"/a/sub/file", unix.O_RDWR), 0)
		kit.WantErrno(t, "beside the rules", open(dir+"/b/file", unix.O_RDONLY), unix.EACCES)
		kit.WantErrno(t, "by ..", open(dir+"/a/../b/file", unix.O_RDONLY), unix.EACCES)
		kit.WantErrno(t, "by .. and back", open(dir+"/b/../a/file", unix.O_RDONLY), 0)
	}, fsLayer(rw, map[string]uint64{dir + "/a": fsReadFile, dir + "/a/sub": fsWriteFile}))
}

// TestFSLayers: between layers, every one must allow.
func TestFSLayers(t *testing.T) {
	dir := tree(t)
	rw := uint64(fsReadFile | fsWriteFile)
	on := func(path string, access uint64) layer {
		return fsLayer(rw, map[string]uint64{dir + path: access})
	}
	for _, c := range []struct {
		name        string
		layers      []layer
		read, write unix.Errno
	}{
		{"both on the directory", []layer{on("/a", rw), on("/a", rw)}, 0, 0},
		{"on the root, on the file", []layer{on("", rw), on("/a/file", rw)}, 0, 0},
		{"write lost in the second", []layer{on("", rw), on("/a", fsReadFile)}, 0, unix.EACCES},
		{"one right in each", []layer{on("/a", fsReadFile), on("/a", fsWriteFile)}, unix.EACCES, unix.EACCES},
		{"the second on another directory", []layer{on("/a", rw), on("/b", rw)}, unix.EACCES, unix.EACCES},
		{"the second handles write only", []layer{on("/a", rw), fsLayer(fsWriteFile, nil)}, 0, unix.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			confined(t, func() {
				kit.WantErrno(t, "read", open(dir+"/a/file", unix.O_RDONLY), c.read)
				kit.WantErrno(t, "write", open(dir+"/a/file", unix.O_WRONLY), c.write)
			}, c.layers...)
		})
	}
}

// TestRefer: links and renames to another directory are denied by any domain
// with file system rights, EXDEV unless something else is denied as well.
func TestRefer(t *testing.T) {
	needABI(t, 2)
	link := func(d string) error { return unix.Link(d+"/a/file", d+"/b/moved") }
	rename := func(d string) error { return unix.Rename(d+"/a/file", d+"/b/moved") }
	within := func(d string) error { return unix.Rename(d+"/a/file", d+"/a/moved") }
	swap := func(d string) error {
		return unix.Renameat2(unix.AT_FDCWD, d+"/a/file", unix.AT_FDCWD, d+"/b/file", unix.RENAME_EXCHANGE)
	}
	for _, c := range []struct {
		name    string
		handled uint64
		a, b    uint64 // rights on the two directories
		op      func(string) error
		want    unix.Errno
	}{
		{"rename, REFER not handled", fsExecute, fsExecute, fsExecute, rename, unix.EXDEV},
		{"link, REFER not handled", fsExecute, fsExecute, fsExecute, link, unix.EXDEV},
		{"rename, REFER on both", fsRefer, fsRefer, fsRefer, rename, 0},
		{"link, REFER on both", fsRefer, fsRefer, fsRefer, link, 0},
		{"exchange, REFER on both", fsRefer, fsRefer, fsRefer, swap, 0},
		{"rename, REFER on the source", fsRefer, fsRefer, 0, rename, unix.EXDEV},
		{"rename, REFER on the target", fsRefer, 0, fsRefer, rename, unix.EXDEV},
		{"rename, no right to make", fsRefer | fsMakeReg, fsRefer | fsMakeReg, fsRefer, rename, unix.EACCES},
		{"rename, no right to remove", fsRefer | fsRemoveFile, fsRefer, fsRefer | fsRemoveFile, rename, unix.EACCES},
		{"rename, no REFER and no right to make", fsRefer | fsMakeReg, 0, 0, rename, unix.EACCES},
		{"link needs no right to remove", fsRefer | fsRemoveFile, fsRefer, fsRefer, link, 0},
		// The file would gain a right by moving.
		{"rename to where more is allowed", fsRefer | fsExecute, fsRefer, fsRefer | fsExecute, rename, unix.EXDEV},
		{"rename to where less is allowed", fsRefer | fsExecute, fsRefer | fsExecute, fsRefer, rename, 0},
		{"exchange with where less is allowed", fsRefer | fsExecute, fsRefer | fsExecute, fsRefer, swap, unix.EXDEV},
		{"rename within a directory", fsExecute | fsReadFile, 0, 0, within, 0},
		{"rename within, no right to make", fsMakeReg, 0, 0, within, unix.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t)
			allow := map[string]uint64{}
			if c.a != 0 {
				allow[dir+"/a"] = c.a
			}
			if c.b != 0 {
				allow[dir+"/b"] = c.b
			}
			confined(t, func() { kit.WantErrno(t, "operation", c.op(dir), c.want) }, fsLayer(c.handled, allow))
		})
	}
}

// TestTruncate: every way to truncate needs the right, but a descriptor keeps
// what was decided when it was opened.
func TestTruncate(t *testing.T) {
	needABI(t, 3)
	dir := tree(t)
	before, err := unix.Open(dir+"/a/file", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(before) }()
	ftruncate := func(path string) error {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		assert.NilError(t, err)
		defer func() { _ = unix.Close(fd) }()
		return unix.Ftruncate(fd, 1)
	}
	creat := func(path string) error { return open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC) }
	confined(t, func() {
		for name, want := range map[string]unix.Errno{"/a/file": unix.EACCES, "/b/file": 0} {
			path := dir + name
			kit.WantErrno(t, "truncate "+name, unix.Truncate(path, 2), want)
			kit.WantErrno(t, "ftruncate "+name, ftruncate(path), want)
			kit.WantErrno(t, "O_TRUNC "+name, open(path, unix.O_RDONLY|unix.O_TRUNC), want)
			kit.WantErrno(t, "creat "+name, creat(path), want)
			kit.WantErrno(t, "open without truncating "+name, open(path, unix.O_WRONLY), 0)
		}
		kit.WantErrno(t, "creat of a new file", creat(dir+"/a/new"), 0)
		kit.WantErrno(t, "ftruncate of a descriptor from before", unix.Ftruncate(before, 1), 0)
		fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
		assert.NilError(t, err)
		defer func() { _ = unix.Close(fd) }()
		kit.WantErrno(t, "ftruncate of a memfd", unix.Ftruncate(fd, 1), 0)
	}, fsLayer(fsTruncate, map[string]uint64{dir + "/b": fsTruncate}))
}

// TestTruncateByDescriptor: the right travels with the descriptor to an
// unconfined thread.
func TestTruncateByDescriptor(t *testing.T) {
	needABI(t, 3)
	dir := tree(t)
	var fd int
	confined(t, func() {
		var err error
		fd, err = unix.Open(dir+"/a/file", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		assert.NilError(t, err)
	}, fsLayer(fsTruncate, nil))
	defer func() { _ = unix.Close(fd) }()
	kit.WantErrno(t, "unconfined ftruncate of a confined descriptor", unix.Ftruncate(fd, 1), unix.EACCES)
	kit.WantErrno(t, "unconfined truncate", unix.Truncate(dir+"/a/file", 1), 0)
}

// TestIoctlDev: device ioctls need the right, but for those that mean the
// descriptor or the file system (is_masked_device_ioctl, fs.c).
func TestIoctlDev(t *testing.T) {
	needABI(t, 5)
	dir := fs.Tmpfs(t, 0)
	assert.NilError(t, mknod(dir+"/zero", unix.S_IFCHR, 1, 5))
	assert.NilError(t, os.WriteFile(dir+"/file", nil, 0o644))
	before, err := unix.Open(dir+"/zero", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(before) }()
	ioctl := func(fd int, req uint) error {
		var buf [64]uint64
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(&buf)))
		return kit.Errno(e)
	}
	try := func(confinedBy layer, deniedErrno unix.Errno) {
		confined(t, func() {
			fd, err := unix.Open(dir+"/zero", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			assert.NilError(t, err)
			defer func() { _ = unix.Close(fd) }()
			for name, req := range map[string]uint{"TCGETS": unix.TCGETS, "an unknown one": 0xabcd1234, "FIONREAD": fionread} {
				kit.WantErrno(t, name, ioctl(fd, req), deniedErrno)
				kit.WantErrno(t, name+", descriptor from before", ioctl(before, req), unix.ENOTTY)
			}
			for name, req := range map[string]uint{"FIOCLEX": fioclex, "FIONBIO": fionbio, "FIGETBSZ": figetbsz} {
				kit.WantErrno(t, name, ioctl(fd, req), 0)
			}
			kit.WantErrno(t, "FIOQSIZE", ioctl(fd, fioqsize), unix.ENOTTY)
			file, err := unix.Open(dir+"/file", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			assert.NilError(t, err)
			defer func() { _ = unix.Close(file) }()
			kit.WantErrno(t, "FIONREAD of a regular file", ioctl(file, fionread), 0)
		}, confinedBy)
	}
	try(fsLayer(fsIoctlDev, nil), unix.EACCES)
	try(fsLayer(fsIoctlDev, map[string]uint64{dir: fsIoctlDev}), unix.ENOTTY)
}

// Of include/uapi/asm-generic/ioctls.h and include/uapi/linux/fs.h.
const (
	fioclex  = 0x5451
	fionbio  = 0x5421
	figetbsz = 2 // _IO(0, 2)
	fionread = 0x541B
	fioqsize = 0x5460
)

// TestAlwaysReachable: what has no path in a mounted file system, and O_PATH,
// is not subject to rules.
func TestAlwaysReachable(t *testing.T) {
	all := allFS(t)
	dir := tree(t)
	confined(t, func() {
		kit.WantErrno(t, "open", open(dir+"/a/file", unix.O_RDONLY), unix.EACCES)
		kit.WantErrno(t, "open with O_PATH", open(dir+"/a/file", unix.O_PATH), 0)
		kit.WantErrno(t, "stat", unix.Stat(dir+"/a/file", &unix.Stat_t{}), 0)
		kit.WantErrno(t, "chdir", unix.Access(dir+"/a", unix.X_OK), 0)
		var p [2]int
		assert.NilError(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
		defer func() { _ = unix.Close(p[0]); _ = unix.Close(p[1]) }()
		fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
		assert.NilError(t, err)
		defer func() { _ = unix.Close(fd) }()
		for name, n := range map[string]int{"pipe": p[0], "memfd": fd} {
			kit.WantErrno(t, name+" by /proc/self/fd", open(fmt.Sprintf("/proc/self/fd/%d", n), unix.O_RDONLY|unix.O_NONBLOCK), 0)
		}
	}, fsLayer(all, nil))
}

// TestUnmountAfterRule: a rule does not keep a file system busy.
func TestUnmountAfterRule(t *testing.T) {
	dir := fs.Tmpfs(t, 0)
	inner := dir + "/inner"
	assert.NilError(t, os.Mkdir(inner, 0o755))
	assert.NilError(t, unix.Mount("kvmrun-test", inner, "tmpfs", 0, ""))
	rs := fsLayer(fsReadDir, map[string]uint64{inner: fsReadDir}).ruleset(t)
	release := make(chan struct{})
	ready := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		kit.OnThread(t, func() {
			defer close(ready)
			if !kit.WantErrno(t, "enforce", restrict(rs, 0), 0) {
				return
			}
			kit.WantErrno(t, "read directory", openDir(inner), 0)
			ready <- struct{}{}
			<-release
			kit.WantErrno(t, "read what was below the mount", openDir(inner), unix.EACCES)
		})
	}()
	<-ready
	kit.WantErrno(t, "unmount", unix.Unmount(inner, 0), 0)
	close(release)
	<-done
}

// TestBindMount: a bind mount is reached by its own path; rules on the source
// follow the inode.
func TestBindMount(t *testing.T) {
	dir := tree(t)
	fs.Bind(t, dir+"/a", dir+"/b")
	confined(t, func() {
		kit.WantErrno(t, "rule on the source", open(dir+"/b/sub/file", unix.O_RDONLY), 0)
		kit.WantErrno(t, "beside the rule", open(dir+"/b/file", unix.O_RDONLY), unix.EACCES)
	}, fsLayer(fsReadFile, map[string]uint64{dir + "/a/sub": fsReadFile}))
}

// TestWhiteout: a whiteout is made with MAKE_REG, not MAKE_CHAR (erratum 4).
func TestWhiteout(t *testing.T) {
	needErratum(t, 4)
	both := uint64(fsMakeReg | fsMakeChar)
	for _, c := range []struct {
		name             string
		access           uint64
		whiteout, device unix.Errno
	}{{"MAKE_REG", fsMakeReg, 0, unix.EACCES}, {"MAKE_CHAR", fsMakeChar, unix.EACCES, 0}} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t)
			confined(t, func() {
				kit.WantErrno(t, "mknod of a whiteout", mknod(dir+"/a/wh", unix.S_IFCHR, 0, 0), c.whiteout)
				kit.WantErrno(t, "mknod of a device", mknod(dir+"/a/null", unix.S_IFCHR, 1, 3), c.device)
			}, fsLayer(both, map[string]uint64{dir: c.access}))
		})
	}
}

// TestDisconnectedDirectory: a directory that was moved out of a bind mount
// keeps the rights of where it is now, too (erratum 3).
func TestDisconnectedDirectory(t *testing.T) {
	needErratum(t, 3)
	dir := tree(t)
	// b shows a; sub, opened through b, is then moved beside a.
	fs.Bind(t, dir+"/a", dir+"/b")
	sub, err := unix.Open(dir+"/b/sub", unix.O_PATH|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(sub) }()
	read := func() error {
		fd, err := unix.Openat(sub, "file", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	assert.NilError(t, os.Mkdir(dir+"/c", 0o755))
	onC := fsLayer(fsReadFile, map[string]uint64{dir + "/c": fsReadFile})
	confined(t, func() { kit.WantErrno(t, "connected", read(), unix.EACCES) }, onC)
	assert.NilError(t, os.Rename(dir+"/a/sub", dir+"/c/sub"))
	confined(t, func() { kit.WantErrno(t, "rule on the new parent", read(), 0) }, onC)
	confined(t, func() { kit.WantErrno(t, "no rule above", read(), unix.EACCES) }, fsLayer(fsReadFile, nil))
	confined(t, func() {
		kit.WantErrno(t, "rule on the directory itself", read(), 0)
	}, fsLayer(fsReadFile, map[string]uint64{dir + "/c/sub": fsReadFile}))
}

// TestDescriptorFromBefore: rights count at open; reading through an old
// descriptor is free.
func TestDescriptorFromBefore(t *testing.T) {
	dir := tree(t)
	fd, err := unix.Open(dir+"/a/file", unix.O_RDWR|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(fd) }()
	confined(t, func() {
		b := make([]byte, 3)
		n, err := unix.Pread(fd, b, 0)
		assert.NilError(t, err)
		assert.Check(t, cmp.Equal(string(b[:n]), "not"))
		_, err = unix.Pwrite(fd, []byte("NOT"), 0)
		kit.WantErrno(t, "write", err, 0)
		kit.WantErrno(t, "open anew", open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY), unix.EACCES)
	}, fsLayer(fsReadFile|fsWriteFile, nil))
}
