// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Files that the host gives after the boot (wire.Run.Files) end up where they would
// be had they been part of the initial ramdisk.

const (
	// filesBlock is what O_DIRECT needs of offsets and lengths (open(2)): no less
	// than the logical block of any disk, which is 512 or 4096 bytes.
	filesBlock = 4096
	// filesChunk is read at once, in bytes: a request of virtio-blk that QEMU
	// answers in one go.
	filesChunk = 1 << 20
)

// takeFiles unpacks an archive of n bytes and loads the modules that are new. It
// returns warnings.
func (a *agent) takeFiles(n int64) (warnings []string) {
	buf, err := unix.Mmap(-1, 0, filesChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		a.fault("make room for the files that the host gave: %v", err)
		return nil
	}
	defer unix.Munmap(buf) //nolint:errcheck // cannot fail, and would cost no more than memory
	u := &unpacker{sys: a.sys, disk: &blockReader{read: a.sys.readFiles, buf: buf, size: n}}
	if err := u.unpack(); err != nil {
		a.fault("unpack the files that the host gave: %v", err)
		return nil
	}
	if u.unmounted {
		if a.bootMounts, err = a.sys.mounts(); err != nil {
			a.fault("read mounts: %v", err)
			return nil
		}
	}
	if !u.modules {
		return nil
	}
	list, err := a.sys.readFile(modulesFile)
	if err != nil {
		return []string{fmt.Sprintf("read list of modules: %v", err)}
	}
	b := &bootReport{}
	loadModules(a.sys, missingModules(list, a.modules), b)
	return b.warnings
}

// missingModules is the list without what is loaded.
func missingModules(list string, loaded []string) string {
	var b strings.Builder
	for line := range strings.Lines(list) {
		if !slices.Contains(loaded, moduleName(strings.TrimPrefix(strings.TrimSpace(line), "?"))) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// blockReader reads the first bytes of a disk in order.
type blockReader struct {
	read func(b []byte, at int64) (int, error)
	buf  []byte // page-aligned
	size int64  // bytes that count
	at   int64  // of the disk, where buf's next content begins
	have []byte // of buf, not yet returned
}

// next returns at most n bytes, and io.ErrUnexpectedEOF when there are no more. They
// are valid until the next call.
func (r *blockReader) next(n int) ([]byte, error) {
	if len(r.have) == 0 {
		left := r.size - r.at
		if left <= 0 {
			return nil, io.ErrUnexpectedEOF
		}
		want := min(int64(len(r.buf)), (left+filesBlock-1)&^(filesBlock-1))
		got, err := r.read(r.buf[:want], r.at)
		for errors.Is(err, unix.EINTR) {
			got, err = r.read(r.buf[:want], r.at)
		}
		if int64(got) < min(want, left) {
			return nil, fmt.Errorf("read %d bytes of the disk at %d: got %d: %w", want, r.at, got, errors.Join(err, io.ErrUnexpectedEOF))
		}
		r.have = r.buf[:min(int64(got), left)]
		r.at += int64(len(r.have))
	}
	n = min(n, len(r.have))
	b := r.have[:n]
	r.have = r.have[n:]
	return b, nil
}

// full fills b.
func (r *blockReader) full(b []byte) error {
	for len(b) > 0 {
		got, err := r.next(len(b))
		if err != nil {
			return err
		}
		b = b[copy(b, got):]
	}
	return nil
}

// unpacker unpacks an archive as the kernel does it with an initial ramdisk
// (init/initramfs.c), but that files are replaced, not written to: a program may run
// from one, this one for instance.
type unpacker struct {
	sys  system
	disk *blockReader
	root string // in front of all names, "" but in tests
	// unmounted says that a file system had to go, modules that there was a list of
	// modules.
	unmounted, modules bool
}

// newcHeader is one of the archive: a magic number of 6 digits, and 13 fields of 8
// hexadecimal ones.
const (
	newcHeader = 6 + 13*8
	newcMagic  = "070701"
	newcEnd    = "TRAILER!!!"
)

// Fields of the header, in their order.
const (
	newcMode     = 1
	newcSize     = 6
	newcMajor    = 9
	newcMinor    = 10
	newcNameSize = 11
)

// unpack reads the archive to its last entry.
func (u *unpacker) unpack() error {
	var head [newcHeader]byte
	for {
		if err := u.disk.full(head[:]); err != nil {
			return err
		}
		if string(head[:6]) != newcMagic {
			return fmt.Errorf("no entry of an archive where one should begin: %q", head[:6])
		}
		var field [13]uint64
		for i := range field {
			var err error
			if field[i], err = strconv.ParseUint(string(head[6+8*i:14+8*i]), 16, 32); err != nil {
				return err
			}
		}
		if n := field[newcNameSize]; n < 2 || n > unix.PathMax {
			return fmt.Errorf("an entry's name has %d bytes", n)
		}
		// Name and content both begin and end at multiples of 4.
		name := make([]byte, pad4(newcHeader+field[newcNameSize])-newcHeader)
		if err := u.disk.full(name); err != nil {
			return err
		}
		text := unix.ByteSliceToString(name)
		if text == newcEnd {
			return nil
		}
		if err := u.entry(path.Clean("/"+text), uint32(field[newcMode]), field[newcSize], unix.Mkdev(uint32(field[newcMajor]), uint32(field[newcMinor]))); err != nil {
			return fmt.Errorf("/%s: %w", text, err)
		}
	}
}

func pad4(n uint64) uint64 { return (n + 3) &^ 3 }

// entry makes one file of any kind. Its content is read to its end.
func (u *unpacker) entry(name string, mode uint32, size uint64, dev uint64) error {
	if hidden(name) {
		return u.content(size, func([]byte) error { return nil })
	}
	if err := u.uncover(name); err != nil {
		return err
	}
	u.modules = u.modules || name == modulesFile
	at := u.root + name
	kind, perm := mode&unix.S_IFMT, mode&0o7777
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err == nil && (kind != unix.S_IFDIR || st.Mode&unix.S_IFMT != unix.S_IFDIR) {
		if err := remove(at); err != nil {
			return err
		}
	}
	switch kind {
	case unix.S_IFDIR:
		if err := unix.Mkdir(at, perm); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return unix.Chmod(at, perm) // whatever the umask
	case unix.S_IFLNK:
		target := make([]byte, 0, min(size, unix.PathMax))
		if err := u.content(size, func(b []byte) error { target = append(target, b...); return nil }); err != nil {
			return err
		}
		return unix.Symlink(string(target), at)
	case unix.S_IFREG:
		fd, err := unix.Open(at, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, perm)
		if err != nil {
			return err
		}
		err = u.content(size, func(b []byte) error { _, err := (&port{fd: fd}).Write(b); return err })
		return errors.Join(err, unix.Fchmod(fd, perm), unix.Close(fd))
	}
	return errors.Join(unix.Mknod(at, mode, int(dev)), unix.Chmod(at, perm))
}

// content passes on the content of an entry.
func (u *unpacker) content(size uint64, to func([]byte) error) error {
	for left := size; left > 0; {
		b, err := u.disk.next(int(min(left, filesChunk)))
		if err != nil {
			return err
		}
		if err := to(b); err != nil {
			return err
		}
		left -= uint64(len(b))
	}
	return u.disk.full(make([]byte, pad4(size)-size))
}

// remove removes a file, or a directory that is empty.
func remove(name string) error {
	err := unix.Unlink(name)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Rmdir(name)
	}
	return err
}

// hidden says whether a file of the initial ramdisk would not be seen, because
// setUp mounts something over it whatever there is.
func hidden(name string) bool {
	for _, dir := range []string{"/dev/", "/proc/", "/sys/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	return false
}

// uncover unmounts the tmpfs that would not be there had the file been part of the
// initial ramdisk (mountOne). Nothing runs yet that could have anything in it.
func (u *unpacker) uncover(name string) error {
	for _, m := range otherMounts {
		if m.fstype != "tmpfs" || !strings.HasPrefix(name, m.target+"/") {
			continue
		}
		err := u.sys.unmount(m.target, unix.UMOUNT_NOFOLLOW)
		if err == nil {
			u.unmounted = true
		} else if !errors.Is(err, unix.EINVAL) { // umount2(2): it is no mount point (any more)
			return fmt.Errorf("unmount %s: %w", m.target, err)
		}
	}
	return nil
}
