// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// geom is a file system's geometry: a disk and how it is mounted.
type geom struct {
	name    string
	disk    string
	bs      int64 // block size
	cluster int64 // unit of collapse and insert
	opts    string
}

var (
	g4k       = geom{"4k", disk4k, 4096, 4096, ""}
	g1k       = geom{"1k", disk1k, 1024, 1024, ""}
	gBigalloc = geom{"bigalloc", diskBigalloc, 4096, 16384, ""}
	gSmall    = geom{"small", diskSmall, 4096, 4096, ""}

	geoms = []geom{
		g4k, g1k, gBigalloc,
		{"nodelalloc", disk4k, 4096, 4096, "nodelalloc"},
		{"data=journal", disk4k, 4096, 4096, "data=journal"},
		{"1k-dioread_lock", disk1k, 1024, 1024, "dioread_lock"},
	}
)

// eachGeom runs the test on each geometry.
func eachGeom(t *testing.T, gs []geom, f func(t *testing.T, d *dir, g geom)) {
	t.Helper()
	for _, g := range gs {
		t.Run(g.name, func(t *testing.T) { f(t, mount(t, g), g) })
	}
}

// dir is a mounted file system.
type dir struct {
	t    *testing.T
	g    geom
	path string
	dev  string
	disk *fs.Mount
	down bool // shut down on purpose: must be mounted again to be clean
}

// mount mounts the geometry's disk for the rest of the test. What the test
// leaves in it is removed, so that one disk serves all tests.
func mount(t *testing.T, g geom) *dir {
	t.Helper()
	opts := "errors=continue"
	if g.opts != "" {
		opts += "," + g.opts
	}
	d := &dir{t: t, g: g, dev: kit.Disk(t, g.disk)}
	d.disk = fs.New(t, d.dev, "ext4", 0, opts)
	d.path = d.disk.Path
	d.mount()
	t.Cleanup(func() {
		entries, err := os.ReadDir(d.path)
		assert.Check(t, err)
		for _, e := range entries {
			if e.Name() != "lost+found" {
				assert.Check(t, os.RemoveAll(filepath.Join(d.path, e.Name())))
			}
		}
		d.unmount()
	})
	return d
}

func (d *dir) mount() {
	d.t.Helper()
	d.disk.Mount()
	d.down = false
	// Writes into an unwritten extent may initialize all of it when it is
	// small (ext4_ext_convert_to_initialized); FIEMAP is exact without.
	assert.NilError(d.t, os.WriteFile(d.sys("extent_max_zeroout_kb"), []byte("0"), 0))
}

// sys is a file of the file system's directory in sysfs.
func (d *dir) sys(name string) string {
	return filepath.Join("/sys/fs/ext4", filepath.Base(d.dev), name)
}

func (d *dir) unmount() {
	t := d.t
	t.Helper()
	if b, err := os.ReadFile(d.sys("errors_count")); err != nil {
		t.Errorf("read the error count: %v", err)
	} else if n := strings.TrimSpace(string(b)); n != "0" && !d.down {
		t.Errorf("ext4 has recorded %s errors on %s", n, d.dev)
	}
	d.disk.Unmount()
}

// remount unmounts and mounts again; open files must be closed.
func (d *dir) remount() {
	d.t.Helper()
	d.unmount()
	d.mount()
}

// shutdown stops the file system as a crash would, without writing the journal
// out: what was not committed is lost.
func (d *dir) shutdown() {
	d.t.Helper()
	assert.NilError(d.t, fs.Shutdown(d.path, fs.ShutdownNoLogFlush))
	d.down = true
}

// file is a file with a model of its content.
type file struct {
	t    *testing.T
	d    *dir
	f    *os.File
	want []byte
}

// create makes an empty file.
func (d *dir) create(name string) *file {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	assert.NilError(d.t, err)
	w := &file{t: d.t, d: d, f: f}
	d.t.Cleanup(func() { _ = w.f.Close() })
	return w
}

// reopen opens the file again, after a remount.
func (w *file) reopen() {
	w.t.Helper()
	f, err := os.OpenFile(w.f.Name(), os.O_RDWR, 0)
	assert.NilError(w.t, err)
	w.f = f
}

func (w *file) fd() int { return int(w.f.Fd()) }

// pattern is n bytes that tell their position and the writer; never zero.
func pattern(off int64, n int64, tag byte) []byte {
	b := make([]byte, n)
	for i := range b {
		p := off + int64(i)
		b[i] = byte(p) ^ byte(p>>8)*7 ^ byte(p>>16)*13 ^ tag
		if b[i] == 0 {
			b[i] = tag | 1
		}
	}
	return b
}

// grow makes the model at least n bytes long.
func (w *file) grow(n int64) {
	if int64(len(w.want)) < n {
		w.want = append(w.want, make([]byte, n-int64(len(w.want)))...)
	}
}

// write writes a pattern.
func (w *file) write(off, n int64, tag byte) {
	w.t.Helper()
	b := pattern(off, n, tag)
	if _, err := w.f.WriteAt(b, off); err != nil {
		w.t.Fatalf("write %d bytes at %d: %v", n, off, err)
	}
	w.grow(off + n)
	copy(w.want[off:], b)
}

func (w *file) truncate(n int64) {
	w.t.Helper()
	assert.NilError(w.t, w.f.Truncate(n))
	w.grow(n)
	w.want = w.want[:n]
}

func (w *file) sync() {
	w.t.Helper()
	assert.NilError(w.t, w.f.Sync())
}

func fallocate(fd, mode int, off, n int64) error {
	for {
		err := unix.Fallocate(fd, uint32(mode), off, n)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// fallocate calls fallocate(2), which must succeed, and does to the model what
// the manual page says.
func (w *file) fallocate(mode int, off, n int64) {
	w.t.Helper()
	if err := fallocate(w.fd(), mode, off, n); err != nil {
		w.t.Fatalf("fallocate mode %#x at %d, %d bytes, of %d: %v", mode, off, n, len(w.want), err)
	}
	w.want = modelFallocate(w.want, mode, off, n)
}

// modelFallocate is fallocate(2) on a model of the content.
func modelFallocate(want []byte, mode int, off, n int64) []byte {
	size := int64(len(want))
	clip := func(p int64) int64 { return min(p, size) }
	switch mode &^ keepSize {
	case collapse:
		return append(append([]byte{}, want[:off]...), want[off+n:]...)
	case insert:
		return append(append(append([]byte{}, want[:off]...), make([]byte, n)...), want[off:]...)
	case zero, punch &^ keepSize:
		want = append([]byte{}, want...)
		clear(want[clip(off):clip(off+n)])
	}
	if mode&keepSize == 0 && off+n > size {
		want = append(append([]byte{}, want...), make([]byte, off+n-size)...)
	}
	return want
}

// differ says where got and want differ first, and how far.
func differ(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	if len(got) != len(want) {
		return fmt.Sprintf("size %d, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			j := i
			for j < len(got) && got[j] != want[j] {
				j++
			}
			return fmt.Sprintf("bytes %d to %d differ: %x, want %x", i, j-1, got[i:min(i+16, j)], want[i:min(i+16, j)])
		}
	}
	return ""
}

// content reads the file as it is now.
func (w *file) content() []byte {
	w.t.Helper()
	st, err := w.f.Stat()
	assert.NilError(w.t, err)
	b := make([]byte, st.Size())
	if len(b) > 0 {
		_, err = w.f.ReadAt(b, 0)
		assert.NilError(w.t, err)
	}
	return b
}

// check compares the content with the model.
func (w *file) check(when string) {
	w.t.Helper()
	if msg := differ(w.content(), w.want); msg != "" {
		w.t.Fatalf("%s: %s", when, msg)
	}
}

// checkMapped compares through a mapping.
func (w *file) checkMapped(when string) {
	w.t.Helper()
	if len(w.want) == 0 {
		return
	}
	m, err := unix.Mmap(w.fd(), 0, len(w.want), unix.PROT_READ, unix.MAP_SHARED)
	assert.NilError(w.t, err)
	if msg := differ(m, w.want); msg != "" {
		w.t.Errorf("%s: mapped: %s", when, msg)
	}
	assert.NilError(w.t, unix.Munmap(m))
}

// verify compares content and mapping with the model and with each other in
// all the states the kernel can hold them in.
func (w *file) verify() {
	w.t.Helper()
	w.check("in the page cache")
	w.sync()
	w.check("after fsync")
	cached := w.extents(0)
	fs.DropPages(w.t)
	w.check("read again by the cached extents")
	w.clearES()
	if msg := sameMapping(cached, w.extents(0)); msg != "" {
		w.t.Fatalf("the extent status tree disagrees with the extent tree: %s", msg)
	}
	fs.DropPages(w.t)
	w.check("read again by the extents on disk")
}

// clearES drops the file's extent status tree.
func (w *file) clearES() {
	w.t.Helper()
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(w.fd()), iocClearESCache, 0)
	assert.Equal(w.t, e, unix.Errno(0), "EXT4_IOC_CLEAR_ES_CACHE")
}

// extents returns the file's FIEMAP.
func (w *file) extents(flags uint32) []fs.Extent {
	w.t.Helper()
	out, err := fs.Fiemap(w.fd(), flags)
	assert.NilError(w.t, err)
	return out
}

// sameMapping compares two FIEMAPs block by block: how extents are joined is
// the kernel's own business.
func sameMapping(a, b []fs.Extent) string {
	type place struct {
		phys  uint64
		flags uint32
	}
	const about = fs.ExtentUnwritten | fs.ExtentInline | fs.ExtentDelalloc
	spread := func(xs []fs.Extent) map[uint64]place {
		m := map[uint64]place{}
		for _, x := range xs {
			for o := uint64(0); o < x.Length; o += 1024 {
				p := place{x.Physical + o, x.Flags & about}
				if x.Flags&fs.ExtentUnknown != 0 {
					p.phys = 0
				}
				m[x.Logical+o] = p
			}
		}
		return m
	}
	ma, mb := spread(a), spread(b)
	for o, p := range ma {
		if q, ok := mb[o]; !ok || p != q {
			return fmt.Sprintf("at %d: %+v in one, %+v (%v) in the other", o, p, q, ok)
		}
	}
	for o, q := range mb {
		if _, ok := ma[o]; !ok {
			return fmt.Sprintf("at %d: nothing in one, %+v in the other", o, q)
		}
	}
	return ""
}

// layout is the state of each block, after everything is written out: '-' for
// a hole, 'u' unwritten, 'w' written.
func (w *file) layout() string {
	w.t.Helper()
	w.sync()
	var b []byte
	for _, x := range w.extents(fs.FiemapSync) {
		c := byte('w')
		if x.Flags&fs.ExtentUnwritten != 0 {
			c = 'u'
		}
		for i := int64(x.Logical) / w.d.g.bs; i < int64(x.Logical+x.Length)/w.d.g.bs; i++ {
			for int64(len(b)) <= i {
				b = append(b, '-')
			}
			b[i] = c
		}
	}
	return string(b)
}

func (w *file) wantLayout(want, when string) {
	w.t.Helper()
	if got := w.layout(); got != want {
		w.t.Fatalf("%s: blocks are\n%s, want\n%s", when, got, want)
	}
	w.clearES()
	if got := w.layout(); got != want {
		w.t.Fatalf("%s: blocks on disk are\n%s, want\n%s", when, got, want)
	}
}

func (w *file) stat() *syscall.Stat_t {
	w.t.Helper()
	st, err := w.f.Stat()
	assert.NilError(w.t, err)
	return st.Sys().(*syscall.Stat_t)
}

func (w *file) wantSize(n int64) {
	w.t.Helper()
	assert.Equal(w.t, w.stat().Size, n, "size of the file")
}

// allocated is the space the file takes, in bytes.
func (w *file) allocated() int64 { return w.stat().Blocks * 512 }

// wantErrno checks the errno of a fallocate that has to fail and to change
// nothing.
func (w *file) wantErrno(want unix.Errno, mode int, off, n int64) {
	w.t.Helper()
	err := fallocate(w.fd(), mode, off, n)
	if !errors.Is(err, want) {
		w.t.Errorf("fallocate mode %#x at %d, %d bytes: got %s, want %s", mode, off, n, kit.ErrnoName(err), kit.ErrnoName(want))
	}
	if msg := differ(w.content(), w.want); msg != "" {
		w.t.Errorf("after the refused fallocate mode %#x: %s", mode, msg)
	}
}

// aligned is memory that O_DIRECT takes.
func aligned(t *testing.T, n int) []byte {
	t.Helper()
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	assert.NilError(t, err)
	t.Cleanup(func() { _ = unix.Munmap(m) })
	return m
}

// newSeed returns the seed of a random test, which the test must print.
func newSeed(t *testing.T) uint64 {
	t.Helper()
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (repeat with -seed)", s)
	return s
}
