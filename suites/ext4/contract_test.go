// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

func TestFallocateRejects(t *testing.T) {
	d := mount(t, g4k)
	w := d.create("f")
	w.write(0, 64<<10, 1)
	const (
		hole    = unix.FALLOC_FL_PUNCH_HOLE
		unshare = unix.FALLOC_FL_UNSHARE_RANGE
	)
	for _, c := range []struct {
		name   string
		want   unix.Errno
		mode   int
		off, n int64
	}{
		{"negative offset", unix.EINVAL, 0, -1, 4096},
		{"length 0", unix.EINVAL, 0, 0, 0},
		{"negative length", unix.EINVAL, 0, 0, -4096},
		{"bad range before bad mode", unix.EINVAL, 1 << 30, 0, 0},
		{"unknown mode", unix.EOPNOTSUPP, 1 << 30, 0, 4096},
		{"mode 4, never defined in Linux", unix.EOPNOTSUPP, 4, 0, 4096},
		{"punch without keep-size", unix.EOPNOTSUPP, hole, 0, 4096},
		{"collapse with keep-size", unix.EOPNOTSUPP, collapse | keepSize, 0, 4096},
		{"insert with keep-size", unix.EOPNOTSUPP, insert | keepSize, 0, 4096},
		{"punch and zero", unix.EOPNOTSUPP, punch | zero, 0, 4096},
		{"punch and collapse", unix.EOPNOTSUPP, hole | collapse, 0, 4096},
		{"collapse and insert", unix.EOPNOTSUPP, collapse | insert, 0, 4096},
		{"zero and collapse", unix.EOPNOTSUPP, zero | collapse, 0, 4096},
		{"unshare", unix.EOPNOTSUPP, unshare, 0, 4096},
		{"end overflows", unix.EFBIG, 0, math.MaxInt64 - 4095, 8192},
		{"end beyond the largest file", unix.EFBIG, 0, 1 << 60, 4096},
		{"zero beyond the largest file", unix.EFBIG, zero, 1 << 60, 4096},
		{"punch beyond the largest file", unix.EFBIG, punch, 1 << 60, 4096},
		{"collapse at an unaligned offset", unix.EINVAL, collapse, 512, 4096},
		{"collapse of an unaligned length", unix.EINVAL, collapse, 4096, 512},
		{"collapse up to the end", unix.EINVAL, collapse, 60 << 10, 4096},
		{"collapse beyond the end", unix.EINVAL, collapse, 0, 128 << 10},
		{"insert at an unaligned offset", unix.EINVAL, insert, 512, 4096},
		{"insert of an unaligned length", unix.EINVAL, insert, 4096, 512},
		{"insert at the end", unix.EINVAL, insert, 64 << 10, 4096},
		{"insert beyond the end", unix.EINVAL, insert, 128 << 10, 4096},
		{"insert of more than a file may have", unix.EFBIG, insert, 4096, 16<<40 - 64<<10},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := *w
			x.t = t
			want := c.want
			shifts := collapse | insert
			if want == unix.EOPNOTSUPP && c.mode&shifts != 0 && c.mode&hole == 0 && suites.CompareRelease(kit.Release(), "6.12") < 0 {
				want = unix.EINVAL // until vfs_fallocate treated all combinations alike
			}
			x.wantErrno(want, c.mode, c.off, c.n)
		})
	}
	w.verify()
	w.wantLayout("wwwwwwwwwwwwwwww", "after all the refusals")
}

func TestFallocateNeedsWritableFile(t *testing.T) {
	d := mount(t, g4k)
	w := d.create("f")
	w.write(0, 8192, 1)
	ro, err := os.Open(w.f.Name())
	assert.NilError(t, err)
	defer func() { _ = ro.Close() }()
	for _, mode := range []int{0, keepSize, punch, zero, collapse, insert} {
		assert.ErrorIs(t, fallocate(int(ro.Fd()), mode, 0, 4096), unix.EBADF, "mode %#x", mode)
	}
	assert.ErrorIs(t, fallocate(int(ro.Fd()), punch|zero, 0, 4096), unix.EOPNOTSUPP, "the mode is looked at first")
	assert.ErrorIs(t, fallocate(-1, 0, 0, 4096), unix.EBADF)
	w.verify()
}

func (w *file) setFlags(flags int) {
	w.t.Helper()
	assert.NilError(w.t, unix.IoctlSetPointerInt(w.fd(), unix.FS_IOC_SETFLAGS, flags))
}

// Inode flags of FS_IOC_SETFLAGS (include/uapi/linux/fs.h).
const (
	flagImmutable = 0x10
	flagAppend    = 0x20
	flagExtents   = 0x80000
)

func TestAppendOnlyFile(t *testing.T) {
	d := mount(t, g4k)
	w := d.create("f")
	w.write(0, 16<<10, 1)
	w.setFlags(flagExtents | flagAppend)
	defer w.setFlags(flagExtents)
	for _, mode := range []int{punch, zero, zeroKeep, collapse, insert} {
		w.wantErrno(unix.EPERM, mode, 0, 4096)
	}
	w.fallocate(keepSize, 16<<10, 4096)
	w.fallocate(0, 16<<10, 8192)
	w.verify()
}

func TestImmutableFile(t *testing.T) {
	d := mount(t, g4k)
	w := d.create("f")
	w.write(0, 16<<10, 1)
	w.setFlags(flagExtents | flagImmutable)
	defer w.setFlags(flagExtents)
	for _, mode := range []int{0, keepSize, punch, zero, zeroKeep, collapse, insert} {
		w.wantErrno(unix.EPERM, mode, 0, 4096)
	}
	w.verify()
}

func TestActiveSwapFile(t *testing.T) {
	kit.NeedKconfig(t, "SWAP")
	d := mount(t, g4k)
	w := d.create("swap")
	w.write(0, 256<<10, 1)
	head, err := fs.SwapHeader(256 << 10)
	assert.NilError(t, err)
	_, err = w.f.WriteAt(head, 0)
	assert.NilError(t, err)
	copy(w.want, head)
	w.sync()
	assert.NilError(t, fs.SwapOn(w.f.Name()))
	for _, mode := range []int{0, keepSize, punch, zero, collapse, insert} {
		assert.Check(t, errors.Is(fallocate(w.fd(), mode, 0, 4096), unix.ETXTBSY), "mode %#x", mode)
	}
	assert.NilError(t, fs.SwapOff(w.f.Name()))
	w.fallocate(punch, 0, 4096)
	w.verify()
}

func TestFallocateOfOtherFiles(t *testing.T) {
	d := mount(t, g4k)
	fifo := filepath.Join(d.path, "fifo")
	assert.NilError(t, unix.Mkfifo(fifo, 0o600))
	for _, c := range []struct {
		name, path string
		flags      int
		want       unix.Errno
	}{
		{"fifo", fifo, unix.O_RDWR, unix.ESPIPE},
		{"directory", d.path, unix.O_RDONLY, unix.EBADF},
		{"character device", "/dev/null", unix.O_RDWR, unix.ENODEV},
		{"path descriptor", d.path, unix.O_PATH, unix.EBADF},
	} {
		fd, err := unix.Open(c.path, c.flags|unix.O_CLOEXEC, 0)
		assert.NilError(t, err)
		assert.Check(t, errors.Is(fallocate(fd, 0, 0, 4096), c.want), "%s: want %v", c.name, c.want)
		assert.NilError(t, unix.Close(fd))
	}
	var p [2]int
	assert.NilError(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	assert.ErrorIs(t, fallocate(p[1], 0, 0, 4096), unix.ESPIPE)
	_, _ = unix.Close(p[0]), unix.Close(p[1])
}

// TestIndirectFile: files without extents cannot be preallocated, but punched.
func TestIndirectFile(t *testing.T) {
	g := geom{"indirect", diskIndirect, 4096, 4096, ""}
	d := mount(t, g)
	w := d.create("f")
	w.write(0, 80<<10, 1) // 20 blocks: beyond the 12 direct ones
	w.sync()
	for _, mode := range []int{0, keepSize, zero, zeroKeep, collapse, insert} {
		w.wantErrno(unix.EOPNOTSUPP, mode, 4096, 8192)
	}
	before := w.allocated()
	w.fallocate(punch, 8192+100, 50<<10) // crosses into the indirect block
	w.verify()
	assert.Assert(t, w.allocated() <= before-11*4096, "space given back: %d of %d left", w.allocated(), before)
	w.fallocate(punch, 0, 80<<10)
	w.verify()
	// The indirect block may stay: it maps more than was punched.
	assert.Assert(t, w.allocated() <= 4096, "%d bytes left", w.allocated())
	w.write(4096, 70<<10, 2)
	w.fallocate(punch, 13*4096, 3*4096)
	w.verify()
}

// fallocateBeyondLimit is a helper: it lowers its own RLIMIT_FSIZE and calls
// fallocate on descriptor 4.
func fallocateBeyondLimit(in json.RawMessage) (any, error) {
	var a struct {
		Limit  uint64
		Mode   int
		Off, N int64
	}
	if err := json.Unmarshal(in, &a); err != nil {
		return nil, err
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: a.Limit, Max: a.Limit}); err != nil {
		return nil, err
	}
	err := fallocate(4, a.Mode, a.Off, a.N)
	var e unix.Errno
	errors.As(err, &e)
	sig := false
	if errors.Is(err, unix.EFBIG) {
		<-c // the signal is sent before the call returns
		sig = true
	}
	return limitReply{int(e), sig}, nil
}

type limitReply struct {
	Errno  int
	Signal bool
}

func TestFileSizeLimit(t *testing.T) {
	d := mount(t, g4k)
	w := d.create("f")
	w.write(0, 16<<10, 1)
	try := func(mode int, off, n int64) limitReply {
		h := kit.NewHelper(t, "fallocateBeyondLimit", map[string]any{"Limit": 64 << 10, "Mode": mode, "Off": off, "N": n})
		h.Cmd.ExtraFiles = append(h.Cmd.ExtraFiles, w.f)
		var r limitReply
		assert.NilError(t, h.Run(t, &r))
		return r
	}
	tooBig := limitReply{int(unix.EFBIG), true}
	assert.Equal(t, try(0, 60<<10, 8<<10), tooBig, "allocate beyond the limit")
	assert.Equal(t, try(zero, 60<<10, 8<<10), tooBig, "zero beyond the limit")
	assert.Equal(t, try(keepSize, 60<<10, 8<<10), limitReply{}, "keep-size does not count")
	w.check("after the refusals")
	assert.Equal(t, try(0, 56<<10, 8<<10), limitReply{}, "up to the limit")
	w.want = modelFallocate(w.want, 0, 56<<10, 8<<10)
	w.verify()
}

// TestTimesAndModes: an unprivileged writer's fallocate takes setuid and
// setgid away like a write does, and every mode sets the times.
func TestTimesAndModes(t *testing.T) {
	d := mount(t, g4k)
	for _, c := range []struct {
		name string
		mode int
	}{{"allocate", 0}, {"zero", zero}, {"punch", punch}, {"collapse", collapse}, {"insert", insert}} {
		t.Run(c.name, func(t *testing.T) {
			w := d.create("f-" + c.name)
			w.t = t
			w.write(0, 64<<10, 1)
			w.sync()
			assert.NilError(t, w.f.Chmod(0o777|os.ModeSetuid|os.ModeSetgid))
			old := unix.Timespec{Sec: 1000000000}
			assert.NilError(t, unix.UtimesNanoAt(unix.AT_FDCWD, w.f.Name(), []unix.Timespec{old, old}, 0))
			before := w.stat()
			kit.OnThread(t, func() {
				// Only this thread becomes somebody else.
				assert.NilError(t, kit.SetUID(65534))
				assert.NilError(t, fallocate(w.fd(), c.mode, 4096, 4096))
			})
			after := w.stat()
			assert.Assert(t, after.Mtim.Sec > old.Sec, "mtime is not set")
			assert.Assert(t, after.Ctim.Nano() >= before.Ctim.Nano(), "ctime went back")
			assert.Equal(t, after.Mode&(unix.S_ISUID|unix.S_ISGID), uint32(0), "setuid and setgid are kept")
			w.want = modelFallocate(w.want, c.mode, 4096, 4096)
			w.verify()
		})
	}
}

// TestInlineData: files that live in their inode are moved out of it first.
//
// Linux 6.12 has a defect here, which the tests of featInline report as a
// missing feature. The conversion writes the data as if it were metadata, to
// the journal (ext4_convert_inline_data_nolock), and the zeroing of a part that
// follows writes it in place, as data; the journal's checkpoint then puts the
// old content back, and the zeroed bytes return with the next mount. For the
// same reason the page cache must not be dropped before the checkpoint.
func TestInlineData(t *testing.T) {
	g := geom{"inline", diskInline, 4096, 4096, ""}
	for _, c := range []struct {
		name   string
		mode   int
		off, n int64
		part   bool // zeroes a part of a block
	}{
		{"allocate", 0, 0, 10000, false},
		{"keep-size", keepSize, 8192, 4096, false},
		{"punch all", punch, 0, 4096, false},
		{"zero all", zero, 0, 4096, false},
		{"zero a part", zero, 10, 20, true},
		{"zero beyond the end", zero, 50, 9000, true},
		{"punch a part", punch, 10, 20, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := mount(t, g)
			w := d.create("f")
			w.write(0, 60, 1)
			w.sync()
			xs := w.extents(0)
			assert.Assert(t, len(xs) == 1 && xs[0].Flags&fs.ExtentInline != 0, "not inline: %+v", xs)
			w.fallocate(c.mode, c.off, c.n)
			w.check("converted")
			w.sync()
			w.check("after fsync")
			for _, x := range w.extents(0) {
				assert.Assert(t, x.Flags&fs.ExtentInline == 0, "still inline")
			}
			assert.NilError(t, w.f.Close())
			d.remount()
			w.reopen()
			if msg := differ(w.content(), w.want); msg != "" && c.part {
				kit.NeedFeature(t, featInline, errors.New("after a remount "+msg))
			}
			w.verify()
		})
	}
	t.Run("refused", func(t *testing.T) {
		d := mount(t, g)
		w := d.create("f")
		w.write(0, 60, 1)
		w.wantErrno(unix.EINVAL, collapse, 0, 4096)
		w.wantErrno(unix.EINVAL, insert, 4096, 4096)
		w.sync()
		assert.NilError(t, w.f.Close())
		d.remount()
		w.reopen()
		w.verify()
	})
}
