// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// What needs a VM is tested by the suites that use it, ext4 above all: mounts,
// shutdown, swapping. Here is what a host can bear.

func TestSwapHeader(t *testing.T) {
	page := int64(os.Getpagesize())
	for _, size := range []int64{0, page, 2*page - 1, 2*page + 1, -page} {
		_, err := fs.SwapHeader(size)
		assert.ErrorContains(t, err, "want a multiple of")
	}
	b, err := fs.SwapHeader(10 * page)
	assert.NilError(t, err)
	assert.Equal(t, int64(len(b)), page)
	assert.Equal(t, binary.NativeEndian.Uint32(b[1024:]), uint32(1))
	assert.Equal(t, binary.NativeEndian.Uint32(b[1028:]), uint32(9), "the last page")
	assert.Equal(t, string(b[page-10:]), "SWAPSPACE2")
}

func TestSwapErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, call := range []func(string) error{fs.SwapOn, fs.SwapOff} {
		var pe *os.PathError
		err := call(missing)
		assert.Assert(t, errors.As(err, &pe) && pe.Path == missing, "%v", err)
		assert.Assert(t, errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM), "%v", err)
		assert.ErrorIs(t, call("a\x00b"), unix.EINVAL)
	}
}

// TestFiemap: in order and without overlap, whatever the host's file system is.
func TestFiemap(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	assert.NilError(t, err)
	defer f.Close()
	const block, n = 64 << 10, 300 // more extents than one call fetches, where holes are kept
	for i := range n {
		_, err := f.WriteAt(make([]byte, block), int64(2*i*block))
		assert.NilError(t, err)
	}
	got, err := fs.Fiemap(int(f.Fd()), fs.FiemapSync)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("needs a temporary directory (TMPDIR) on a file system with FIEMAP, such as ext4")
	}
	assert.NilError(t, err)
	end, mapped := uint64(0), uint64(0)
	for i, x := range got {
		assert.Assert(t, x.Logical >= end && x.Length > 0, "extent %d: %+v after %d", i, x, end)
		assert.Equal(t, x.Flags&fs.ExtentLast != 0, i == len(got)-1)
		end, mapped = x.Logical+x.Length, mapped+x.Length
	}
	assert.Assert(t, mapped >= block*n, "%d bytes are mapped of %d", mapped, block*n)

	r, w, err := os.Pipe()
	assert.NilError(t, err)
	defer r.Close()
	defer w.Close()
	_, err = fs.Fiemap(int(r.Fd()), 0)
	assert.Assert(t, err != nil, "the blocks of a pipe")
	assert.ErrorContains(t, err, "FS_IOC_FIEMAP")
}

func TestShutdownOfNothing(t *testing.T) {
	assert.ErrorIs(t, fs.Shutdown(filepath.Join(t.TempDir(), "missing"), fs.ShutdownNoLogFlush), os.ErrNotExist)
}

// Swap space is a file or disk that begins with its header.
func ExampleSwapHeader() {
	head, err := fs.SwapHeader(1 << 20)
	fmt.Println(err, string(head[len(head)-10:]))
	_, err = fs.SwapHeader(1000)
	fmt.Println(err != nil)
	// Output:
	// <nil> SWAPSPACE2
	// true
}
