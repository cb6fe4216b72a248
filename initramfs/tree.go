// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/u-root/mkuimage/cpio"
	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// merged are the top-level directories that are links into /usr.
var merged = []string{"/bin", "/sbin", "/lib", "/lib64"}

// node is one entry of the archive.
type node struct {
	mode     uint32 // S_IF* and permissions, as cpio stores them
	target   string // of a symbolic link
	data     []byte // of a file that is not read from the host
	host     string // host path of a file
	hash     string // SHA-256 of the file at host
	state    state  // of the file at host when it was hashed
	maj, min uint64 // of a device

	origin string // for error messages: where it comes from
	given  bool   // asked for by the caller: two of these must not collide
}

// state is what changes when a file is written to.
type state struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// tree is the table of contents of an archive, by clean absolute guest path.
type tree struct {
	cache *cache.Cache
	nodes map[string]*node
	errs  []error // of the methods without an error result
}

func newTree(c *cache.Cache) *tree {
	return &tree{cache: c, nodes: map[string]*node{}}
}

func (t *tree) err() error { return errors.Join(t.errs...) }

// clean resolves p through the merged directories.
func clean(p string) (string, error) {
	if !path.IsAbs(p) {
		return "", fmt.Errorf("guest path %q: want an absolute path", p)
	}
	if strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("guest path %q: contains a NUL byte", p)
	}
	p = path.Clean(p)
	if len(p) >= unix.PathMax { // init/initramfs.c: do_header
		return "", fmt.Errorf("guest path %.40q...: is too long (limit %d bytes)", p, unix.PathMax-1)
	}
	if p == "/" {
		return "", fmt.Errorf("guest path %q: is the root directory", p)
	}
	for _, m := range merged {
		if strings.HasPrefix(p, m+"/") {
			return "/usr" + p, nil
		}
	}
	return p, nil
}

// put adds a node. A node that was given replaces one that was not; one that
// was not never replaces anything.
func (t *tree) put(guest string, n *node) error {
	p, err := clean(guest)
	if err != nil {
		return err
	}
	old := t.nodes[p]
	switch {
	case old != nil && old.isDir() && n.isDir():
		// The mode of a directory that every guest has (/tmp, /root) stays.
		if !n.given {
			t.nodes[p] = n
		}
	case old == nil, n.given && !old.given:
		t.nodes[p] = n
	case !n.given:
	case !old.same(n):
		return fmt.Errorf("two different things for the guest's %s: %s and %s", p, old.origin, n.origin)
	}
	return nil
}

func (n *node) isDir() bool { return n.mode&unix.S_IFMT == unix.S_IFDIR }

func (n *node) same(m *node) bool {
	return n.mode == m.mode && n.target == m.target && n.maj == m.maj && n.min == m.min &&
		n.host == m.host && n.hash == m.hash && bytes.Equal(n.data, m.data)
}

// own is put for what was not asked for.
func (t *tree) own(guest string, n *node) {
	if err := t.put(guest, n); err != nil {
		t.errs = append(t.errs, err)
	}
}

func (t *tree) ownDir(guest string, mode fs.FileMode) {
	t.own(guest, &node{mode: unix.S_IFDIR | unixMode(mode)})
}

func (t *tree) ownSymlink(guest, target string) {
	t.own(guest, &node{mode: unix.S_IFLNK | 0o777, target: target})
}

func (t *tree) ownData(guest, data string) {
	t.own(guest, &node{mode: unix.S_IFREG | 0o644, data: []byte(data)})
}

func (t *tree) device(guest string, mode uint32, maj, min uint64) {
	t.own(guest, &node{mode: unix.S_IFCHR | mode, maj: maj, min: min})
}

func (t *tree) dir(guest string, mode fs.FileMode) error {
	return t.put(guest, &node{mode: unix.S_IFDIR | unixMode(mode), origin: "directory", given: true})
}

func (t *tree) symlink(guest, target, origin string) error {
	if target == "" || len(target) >= unix.PathMax || strings.ContainsRune(target, 0) {
		return fmt.Errorf("symlink %s: target %q is not usable", guest, target)
	}
	return t.put(guest, &node{mode: unix.S_IFLNK | 0o777, target: target, origin: origin, given: true})
}

func (t *tree) data(guest string, data []byte, mode fs.FileMode, origin string) error {
	return t.put(guest, &node{mode: unix.S_IFREG | unixMode(mode), data: data, origin: origin, given: true})
}

// hostFile adds the regular file at host. Mode 0 keeps the file's own.
func (t *tree) hostFile(guest, host string, mode fs.FileMode) error {
	n, err := t.hostNode(host, mode)
	if err != nil {
		return err
	}
	n.given = true
	return t.put(guest, n)
}

func (t *tree) hostNode(host string, mode fs.FileMode) (*node, error) {
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		return nil, fmt.Errorf("guest file: %w", &fs.PathError{Op: "stat", Path: host, Err: err})
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return nil, fmt.Errorf("guest file %s: is a directory (list the files in it)", host)
	default:
		return nil, fmt.Errorf("guest file %s: is not a regular file", host)
	}
	if st.Size > maxFileSize {
		return nil, fmt.Errorf("guest file %s: %d bytes do not fit into an initramfs (limit %d; use a disk)", host, st.Size, int64(maxFileSize))
	}
	hash, err := t.cache.HashFile(host)
	if err != nil {
		return nil, fmt.Errorf("guest file: %w", err)
	}
	perm := st.Mode & 0o7777
	if mode != 0 {
		perm = unixMode(mode)
	}
	return &node{mode: unix.S_IFREG | perm, host: host, hash: hash, state: stateOf(&st), origin: host}, nil
}

// maxFileSize is what the 8 hexadecimal digits of a newc header can say, less
// what the kernel could not address anyway (init/initramfs.c keeps the
// body's length in an unsigned long).
const maxFileSize = 1<<32 - 1

func stateOf(st *unix.Stat_t) state {
	return state{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim} //nolint:unconvert // 32 bits wide on some architectures
}

// unixMode converts the permission bits.
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		u |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		u |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		u |= unix.S_ISVTX
	}
	return u
}

// paths returns all paths, parents first, after adding parents that are
// missing.
func (t *tree) paths() []string {
	for p := range t.nodes {
		for d := path.Dir(p); d != "/"; d = path.Dir(d) {
			if t.nodes[d] != nil {
				break
			}
			t.nodes[d] = &node{mode: unix.S_IFDIR | 0o755}
		}
	}
	paths := make([]string, 0, len(t.nodes))
	for p := range t.nodes {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// check reports files that lie below something that is no directory.
func (t *tree) check(paths []string) error {
	var errs []error
	for _, p := range paths {
		d := path.Dir(p)
		if n := t.nodes[d]; n != nil && !n.isDir() {
			errs = append(errs, fmt.Errorf("guest path %s: %s is no directory (%s)", p, d, n.origin))
		}
	}
	return errors.Join(errs...)
}

// contents describes the archive completely; its hash is the archive's key.
func (t *tree) contents() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, formatVersion)
	for _, p := range t.paths() {
		n := t.nodes[p]
		fmt.Fprintf(&b, "%o %q", n.mode, p)
		switch {
		case n.mode&unix.S_IFMT == unix.S_IFLNK:
			fmt.Fprintf(&b, " -> %q", n.target)
		case n.mode&unix.S_IFMT == unix.S_IFCHR:
			fmt.Fprintf(&b, " %d:%d", n.maj, n.min)
		case n.host != "":
			fmt.Fprintf(&b, " %s", n.hash)
		case n.mode&unix.S_IFMT == unix.S_IFREG:
			fmt.Fprintf(&b, " %x", sha256.Sum256(n.data))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// hash is that of the contents.
func (t *tree) hash() string {
	sum := sha256.Sum256(t.contents())
	return hex.EncodeToString(sum[:])
}

// writeFile writes the archive.
func (t *tree) writeFile(ctx context.Context, name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) // for QEMU, which runs as another user
	if err != nil {
		return err
	}
	_, err = t.write(ctx, f, t.paths())
	return errors.Join(err, f.Close())
}

// counter counts what is written to it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// write writes an archive of the nodes at these paths, and returns its size.
func (t *tree) write(ctx context.Context, w io.Writer, paths []string) (int64, error) {
	c := &counter{w: w}
	bw := bufio.NewWriterSize(c, 1<<20)
	err := t.writeTo(ctx, bw, paths)
	return c.n, errors.Join(err, bw.Flush())
}

func (t *tree) writeTo(ctx context.Context, bw *bufio.Writer, paths []string) error {
	rw := cpio.Newc.Writer(bw)
	for i, p := range paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := t.nodes[p]
		rec := cpio.Record{Info: cpio.Info{
			Ino:    uint64(i + 1),
			Mode:   uint64(n.mode),
			NLink:  1,
			Rmajor: n.maj,
			Rminor: n.min,
			Name:   p[1:],
		}}
		switch {
		case n.isDir():
			rec.NLink = 2
		case n.mode&unix.S_IFMT == unix.S_IFLNK:
			rec.FileSize = uint64(len(n.target))
			rec.ReaderAt = strings.NewReader(n.target)
		case n.host != "":
			f, err := n.open()
			if err != nil {
				return err
			}
			rec.FileSize = uint64(n.state.size)
			rec.ReaderAt = f // closed by WriteRecord, unless it fails
			if err := rw.WriteRecord(rec); err != nil {
				return errors.Join(fmt.Errorf("add %s: %w", n.host, err), closeOnce(f))
			}
			// Also after reading: the archive must hold what was hashed.
			if err := n.unchanged(); err != nil {
				return err
			}
			continue
		case n.mode&unix.S_IFMT == unix.S_IFREG:
			rec.FileSize = uint64(len(n.data))
			rec.ReaderAt = bytes.NewReader(n.data)
		}
		if err := rw.WriteRecord(rec); err != nil {
			return fmt.Errorf("add %s: %w", p, err)
		}
	}
	return cpio.WriteTrailer(rw)
}

func closeOnce(f *os.File) error {
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

func (n *node) open() (*os.File, error) {
	f, err := os.Open(n.host)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (n *node) unchanged() error {
	var st unix.Stat_t
	if err := unix.Stat(n.host, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: n.host, Err: err}
	}
	if stateOf(&st) != n.state {
		return fmt.Errorf("guest file %s: changed while it was read (try again)", n.host)
	}
	return nil
}

// maxSmall bounds the text files that are read whole: the largest, Debian's
// modules.alias, has about 1.5 MB.
const maxSmall = 64 << 20

func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	b, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	if err == nil && len(b) > maxSmall {
		err = fmt.Errorf("read %s: larger than %d bytes", name, maxSmall)
	}
	return b, err
}
