// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/mkuimage/cpio"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// archive is one of these records.
func archive(t testing.TB, records ...cpio.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	for _, r := range records {
		assert.NilError(t, w.WriteRecord(r))
	}
	assert.NilError(t, cpio.WriteTrailer(w))
	return b.Bytes()
}

// onDisk reads an archive as from a disk, which ends at a whole block.
func onDisk(a []byte, chunk int) *blockReader {
	disk := make([]byte, (len(a)+filesBlock-1)&^(filesBlock-1))
	copy(disk, a)
	return &blockReader{read: bytes.NewReader(disk).ReadAt, buf: make([]byte, chunk), size: int64(len(a))}
}

// tree lists what is below a directory.
func tree(t testing.TB, root string) (list []string) {
	t.Helper()
	assert.NilError(t, filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s", fi.Mode(), strings.TrimPrefix(p, root))
		switch {
		case fi.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			line += " -> " + target
			list = append(list, line)
			return err
		case fi.Mode().IsRegular():
			text, err := os.ReadFile(p)
			if len(text) > 20 {
				text = fmt.Appendf(nil, "%d bytes of %c", len(text), text[len(text)-1])
			}
			list = append(list, line+" "+string(text))
			return err
		}
		list = append(list, line)
		return nil
	}))
	return list
}

func TestUnpack(t *testing.T) {
	big := strings.Repeat("x", 3*filesBlock+5)
	a := archive(t,
		cpio.Directory("etc", 0o755), cpio.StaticFile("etc/kept", "new", 0o640), cpio.StaticFile("etc/link", "no link", 0o644),
		cpio.Symlink("etc/file", "kept"), cpio.Directory("etc/dir", 0o700), cpio.StaticFile("etc/empty", "", 0o600),
		cpio.Directory("tmp", 0o777|unix.S_ISVTX), cpio.StaticFile("tmp/big", big, 0o755|unix.S_ISUID),
		cpio.Directory("dev", 0o755), cpio.StaticFile("dev/hidden", big, 0o644), cpio.StaticFile("last", "last", 0o644))
	for _, chunk := range []int{filesBlock, 2 * filesBlock, filesChunk} {
		root := t.TempDir()
		for _, d := range []string{"etc", "etc/dir", "tmp", "dev", "elsewhere"} {
			assert.NilError(t, os.Mkdir(filepath.Join(root, d), 0o755))
		}
		assert.NilError(t, os.WriteFile(filepath.Join(root, "etc/kept"), []byte("the old content"), 0o600))
		running, err := os.Open(filepath.Join(root, "etc/kept"))
		assert.NilError(t, err)
		assert.NilError(t, os.Symlink("../elsewhere/target", filepath.Join(root, "etc/link")))
		assert.NilError(t, os.WriteFile(filepath.Join(root, "etc/file"), nil, 0o600))
		f := newFake()
		f.fail["unmount /run"] = unix.EBUSY // nobody asks for it
		u := &unpacker{sys: f, disk: onDisk(a, chunk), root: root}
		assert.NilError(t, u.unpack())
		assert.DeepEqual(t, tree(t, root), []string{
			"drwxr-xr-x /dev", "drwxr-xr-x /elsewhere", "drwxr-xr-x /etc", "drwx------ /etc/dir", "-rw------- /etc/empty ",
			"Lrwxrwxrwx /etc/file -> kept", "-rw-r----- /etc/kept new", "-rw-r--r-- /etc/link no link", "-rw-r--r-- /last last",
			"dtrwxrwxrwx /tmp", fmt.Sprintf("urwxr-xr-x /tmp/big %d bytes of x", len(big)),
		})
		// Whoever had the old file open, as a process its program, goes on with it.
		old, err := io.ReadAll(running)
		assert.NilError(t, err)
		assert.Equal(t, string(old), "the old content")
		assert.NilError(t, running.Close())
		assert.DeepEqual(t, f.list(), []string{"unmount /tmp"})
		assert.Assert(t, u.unmounted && !u.modules)
	}
}

// TestUnpackDamaged: whatever is wrong with an archive is an error.
func TestUnpackDamaged(t *testing.T) {
	whole := archive(t, cpio.StaticFile("file", strings.Repeat("x", 100), 0o644))
	unpack := func(t *testing.T, a []byte, f *fake) error {
		t.Helper()
		return (&unpacker{sys: f, disk: onDisk(a, filesBlock), root: t.TempDir()}).unpack()
	}
	assert.NilError(t, unpack(t, whole, newFake()))
	end := bytes.Index(whole, []byte(newcEnd)) + len(newcEnd)
	for n := range end {
		assert.ErrorIs(t, unpack(t, whole[:n], newFake()), io.ErrUnexpectedEOF, "%d bytes", n)
	}
	for _, test := range []struct {
		name   string
		change func([]byte)
		want   string
	}{
		{"magic", func(b []byte) { b[5] = '2' }, "no entry of an archive"},
		{"number", func(b []byte) { b[6+8*newcSize] = 'x' }, "invalid syntax"},
		{"name's length", func(b []byte) { copy(b[6+8*newcNameSize:], "FFFFFFFF") }, "name has 4294967295 bytes"},
		{"no name", func(b []byte) { copy(b[6+8*newcNameSize:], "00000000") }, "name has 0 bytes"},
		{"content's length", func(b []byte) { copy(b[6+8*newcSize:], "00000FFF") }, "unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := bytes.Clone(whole)
			test.change(b)
			assert.Assert(t, cmp.ErrorContains(unpack(t, b, newFake()), test.want))
		})
	}
	f := newFake()
	f.fail["unmount /tmp"] = unix.EBUSY
	assert.ErrorIs(t, unpack(t, archive(t, cpio.StaticFile("tmp/x", "", 0o644)), f), unix.EBUSY)
}

// TestAgentTakesFiles looks at what an agent does with files that come after the
// boot: modules of which it has not loaded any yet, mounts that were there.
func TestAgentTakesFiles(t *testing.T) {
	// A name that nothing can be made at: /proc is hidden, and needs no root.
	f := newFake()
	f.disk = archive(t, cpio.StaticFile("proc/x", "hidden", 0o644))
	n := int64(len(f.disk))
	f.disk = append(f.disk, make([]byte, filesBlock)...)
	c := startAgent(t, f, nil)
	r := helperRun("exit", "3")
	r.Files = n
	assert.Equal(t, c.run(t, r).exited.Code, 3)

	f = newFake()
	f.fail["read files"] = unix.EIO
	c = startAgent(t, f, nil)
	assert.NilError(t, c.w.Send(wire.Message{Run: &r}))
	ends(t, c, f, "unpack the files that the host gave")

	assert.Equal(t, missingModules("/lib/m1.ko\n/lib/a-b.ko\n?/lib/m1.ko\n?/lib/new.ko\n", []string{"m1", "a_b"}), "?/lib/new.ko\n")
}
