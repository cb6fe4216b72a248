// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

func TestAllocate(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		w := d.create("f")
		n := 16 * g.bs
		w.fallocate(0, 0, n)
		w.wantSize(n)
		assert.Equal(t, w.allocated(), n)
		w.wantLayout(strings.Repeat("u", 16), "allocated")
		w.verify()

		w.fallocate(0, n+100, 3*g.bs) // unaligned, beyond the end: extends
		w.wantSize(n + 100 + 3*g.bs)
		w.verify()

		k := d.create("keep")
		k.fallocate(keepSize, 0, n)
		k.wantSize(0)
		assert.Equal(t, k.allocated(), n)
		k.write(0, 10, 1)
		k.fallocate(keepSize, 0, n)
		k.wantSize(10)
		k.truncate(5 * g.bs)
		k.verify()
		assert.Assert(t, k.allocated() <= n, "truncate made it larger")
	})
}

// TestAllocateOverData: what is written stays as it is, what is not becomes
// allocated and reads as zeros.
func TestAllocateOverData(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		for _, flush := range []bool{true, false} {
			w := d.create(fmt.Sprintf("f-%v", flush))
			w.write(2*g.cluster, g.cluster, 1)
			w.write(5*g.cluster+7, 100, 2)
			w.truncate(8 * g.cluster)
			if flush {
				w.sync()
			}
			w.fallocate(0, 0, 8*g.cluster)
			// Five extents need a node beyond the four of the inode itself.
			a := w.allocated()
			assert.Assert(t, a >= 8*g.cluster && a <= 9*g.cluster, "%d bytes allocated", a)
			w.verify()
			w.wantSize(8 * g.cluster)
		}
	})
}

// TestNoStaleData is about security: allocated space must not show what the
// disk held before.
func TestNoStaleData(t *testing.T) {
	d := mount(t, gSmall)
	// Fill all of the disk with a pattern and give it back.
	junk := d.create("junk")
	buf := bytes.Repeat([]byte{0xE7}, 256<<10)
	for {
		if _, err := junk.f.Write(buf); errors.Is(err, unix.ENOSPC) {
			break
		} else {
			assert.NilError(t, err)
		}
	}
	assert.NilError(t, junk.f.Sync())
	assert.NilError(t, junk.f.Close())
	assert.NilError(t, os.Remove(junk.f.Name()))
	d.remount()

	for _, c := range []struct {
		name string
		do   func(w *file)
	}{
		{"allocate", func(w *file) { w.fallocate(0, 0, 1<<20) }},
		{"keep size, then extend", func(w *file) { w.fallocate(keepSize, 0, 1<<20); w.truncate(1 << 20) }},
		{"zero a hole", func(w *file) { w.fallocate(zero, 0, 1<<20) }},
		{"unaligned zero of a hole", func(w *file) { w.fallocate(zero, 15, 1<<20-40) }},
		{"insert", func(w *file) { w.write(0, 8192, 1); w.fallocate(insert, 4096, 1<<20) }},
		{"partial write", func(w *file) { w.fallocate(0, 0, 1<<20); w.write(500000, 10, 2) }},
		{"sparse write", func(w *file) { w.write(1<<20, 10, 3) }},
	} {
		w := d.create(c.name)
		c.do(w)
		w.check(c.name)
		w.sync()
		assert.NilError(t, w.f.Close())
		d.remount()
		w.reopen()
		if got := w.content(); bytes.Contains(got, []byte{0xE7, 0xE7, 0xE7, 0xE7}) {
			t.Fatalf("%s: the file shows what the disk held before it", c.name)
		}
		w.check(c.name + ", after a remount")
		assert.NilError(t, w.f.Close())
		assert.NilError(t, os.Remove(w.f.Name()))
	}
}

func TestNoSpace(t *testing.T) {
	d := mount(t, gSmall)
	w := d.create("f")
	w.write(0, 10000, 1)
	var st unix.Statfs_t
	assert.NilError(t, unix.Statfs(d.path, &st))
	free := int64(st.Bavail) * st.Bsize

	err := fallocate(w.fd(), 0, 0, free+1<<20)
	assert.ErrorIs(t, err, unix.ENOSPC)
	// What was allocated on the way may stay, and may count for the size.
	size := w.stat().Size
	assert.Assert(t, size >= 10000 && size <= free+1<<20, "size %d", size)
	assert.Equal(t, size-10000, int64(len(bytes.TrimLeft(w.content()[10000:], "\x00"))+int(size-10000)), "zeros beyond the data")
	w.grow(size)
	w.check("after ENOSPC")

	w.truncate(10000)
	w.fallocate(keepSize, 0, free/2)
	w.wantSize(10000)
	err = fallocate(w.fd(), keepSize, 0, free+1<<20)
	assert.ErrorIs(t, err, unix.ENOSPC)
	w.wantSize(10000)
	w.truncate(10000)
	w.verify()
	// Punching always works, even on a full disk.
	fill := d.create("fill")
	for step := int64(1 << 20); step >= 4096; step /= 2 {
		for off := fill.stat().Size; fallocate(fill.fd(), 0, off, step) == nil; off += step {
			fill.grow(off + step)
		}
		fill.grow(fill.stat().Size)
	}
	_, err = w.f.WriteAt(make([]byte, 1<<20), 1<<20)
	assert.ErrorIs(t, err, unix.ENOSPC)
	w.grow(w.stat().Size)
	w.truncate(10000)
	w.fallocate(punch, 0, 4096)
	w.verify()
	fill.fallocate(punch, 0, 1<<20)
	w.fallocate(0, 0, 512<<10) // room again
	w.verify()
}

// TestUnwrittenExtents: a write turns exactly the blocks it touches into
// written ones, whatever extents that splits or joins.
func TestUnwrittenExtents(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		w := d.create("f")
		w.fallocate(0, 0, 16*g.bs)
		want := []byte(strings.Repeat("u", 16))
		for i, c := range []struct{ off, n int64 }{
			{4 * g.bs, g.bs},        // splits into three
			{6*g.bs + 10, 20},       // part of a block
			{5 * g.bs, g.bs},        // joins the two
			{0, g.bs},               // at the start
			{15 * g.bs, g.bs},       // at the end
			{9*g.bs - 5, g.bs + 10}, // touches three blocks
		} {
			w.write(c.off, c.n, byte(i+1))
			for b := c.off / g.bs; b <= (c.off+c.n-1)/g.bs; b++ {
				want[b] = 'w'
			}
			w.wantLayout(string(want), fmt.Sprintf("write %d", i))
		}
		w.verify()
		w.truncate(7 * g.bs)
		w.wantLayout(string(want[:(7*g.bs+g.cluster-1)/g.cluster*g.cluster/g.bs][:7]), "truncated")
		w.truncate(16 * g.bs)
		w.verify()
	})
}

// TestDirectWriteIntoUnwritten converts when the transfer is done.
func TestDirectWriteIntoUnwritten(t *testing.T) {
	eachGeom(t, []geom{g4k, g1k, gBigalloc}, func(t *testing.T, d *dir, g geom) {
		w := d.create("f")
		w.fallocate(0, 0, 8*g.cluster)
		f, err := os.OpenFile(w.f.Name(), os.O_RDWR|unix.O_DIRECT, 0)
		assert.NilError(t, err)
		defer func() { _ = f.Close() }()
		buf := aligned(t, int(g.cluster))
		copy(buf, pattern(3*g.cluster, g.cluster, 5))
		_, err = f.WriteAt(buf, 3*g.cluster)
		assert.NilError(t, err)
		copy(w.want[3*g.cluster:], buf)
		w.verify()
		per := int(g.cluster / g.bs)
		w.wantLayout(strings.Repeat("u", 3*per)+strings.Repeat("w", per)+strings.Repeat("u", 4*per), "direct write")
	})
}

// TestAllocateMoreThanOneExtent: an unwritten extent has at most 32767 blocks
// (EXT_UNWRITTEN_MAX_LEN in fs/ext4/ext4_extents.h).
func TestAllocateMoreThanOneExtent(t *testing.T) {
	d := mount(t, g1k)
	w := d.create("f")
	const blocks = 34000
	w.fallocate(0, 0, blocks*1024)
	xs := w.extents(0)
	assert.Assert(t, len(xs) > 1, "one extent of %d blocks", blocks)
	var n uint64
	for _, x := range xs {
		assert.Equal(t, x.Logical, n, "a gap")
		assert.Assert(t, x.Flags&fs.ExtentUnwritten != 0)
		assert.Assert(t, x.Length <= 32767*1024, "extent of %d blocks", x.Length/1024)
		n += x.Length
	}
	assert.Equal(t, n, uint64(blocks*1024))
	w.write(32767*1024-512, 1024, 1) // over the border
	w.want = w.want[:blocks*1024]
	var b [2048]byte
	_, err := w.f.ReadAt(b[:], 32766*1024)
	assert.NilError(t, err)
	assert.Assert(t, bytes.Equal(b[:], w.want[32766*1024:32768*1024]))
}

// prepared makes a file with blocks in every state: per unit of the cluster
// size a hole, written, unwritten, dirty over a hole (delayed) and dirty over
// unwritten.
func prepared(d *dir, name string, units int64) *file {
	w := d.create(name)
	c := d.g.cluster
	w.fallocate(0, 2*c, c)
	for i := int64(0); i < units; i++ {
		switch i % 5 {
		case 1:
			w.write(i*c, c, byte(i))
		case 2, 4:
			w.fallocate(0, i*c, c)
		}
	}
	w.truncate(units * c)
	w.sync()
	for i := int64(0); i < units; i++ {
		if i%5 == 3 || i%5 == 4 {
			w.write(i*c, c, byte(i))
		}
	}
	return w
}

// TestEveryRange runs each mode over ranges that begin and end in every state
// a block can be in, aligned and not.
func TestEveryRange(t *testing.T) {
	ranges := func(c int64) (out [][2]int64) {
		for first := int64(0); first < 5; first++ {
			out = append(out,
				[2]int64{first * c, c},
				[2]int64{first * c, 4 * c},
				[2]int64{first*c + 15, 2 * c},
				[2]int64{first*c + c/2, 3*c + 100},
				[2]int64{first*c + 1, 20})
		}
		return append(out, [2]int64{0, 10 * c}, [2]int64{9*c + 100, 3 * c})
	}
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		for name, mode := range map[string]int{"allocate": 0, "zero": zero, "zero-keep": zeroKeep, "punch": punch} {
			for i, r := range ranges(g.cluster) {
				if g.name != "4k" && i%3 != mode%3 {
					continue // a sample, another for each mode
				}
				w := prepared(d, name, 10)
				w.fallocate(mode, r[0], r[1])
				w.check(fmt.Sprintf("%s at %d, %d bytes", name, r[0], r[1]))
				w.wantSize(int64(len(w.want)))
				if i%6 == mode%6 {
					w.verify()
				}
				assert.NilError(t, w.f.Close())
			}
		}
	})
}

// TestZeroRangeOfTheReport is the very call of the report that this suite
// began with: fallocate(fd, FALLOC_FL_ZERO_RANGE, 15, 0x8000).
func TestZeroRangeOfTheReport(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		for _, base := range []int64{0, 64 << 10} {
			w := d.create(fmt.Sprint(base))
			w.write(0, 256<<10, 0x5A)
			w.fallocate(zero, base+15, 0x8000)
			got := w.content()
			assert.Assert(t, got[base+14] != 0 && got[base+15] == 0, "the first byte")
			assert.Assert(t, got[base+15+0x8000-1] == 0 && got[base+15+0x8000] != 0, "the last byte")
			w.fallocate(zero, base+15, 0x8000) // the same once more
			w.verify()
			w.fallocate(zero, base+15, 0x8000) // and from the disk
			w.verify()
		}
	})
}

func TestZeroRangeLayout(t *testing.T) {
	eachGeom(t, []geom{g4k, g1k}, func(t *testing.T, d *dir, g geom) {
		w := d.create("f")
		w.write(0, 4*g.bs, 1)
		w.fallocate(0, 4*g.bs, 4*g.bs)
		w.truncate(12 * g.bs)
		w.wantLayout("wwwwuuuu", "prepared")
		w.fallocate(zero, 2*g.bs, 8*g.bs)
		w.wantLayout("wwuuuuuuuu", "written, unwritten and a hole became unwritten")
		w.fallocate(zero, 2*g.bs, 8*g.bs)
		w.wantLayout("wwuuuuuuuu", "zeroed again")
		w.fallocate(zero, 10, g.bs)
		w.wantLayout("wwuuuuuuuu", "less than a block")
		w.verify()
		w.fallocate(zeroKeep, 12*g.bs, 4*g.bs)
		w.wantSize(12 * g.bs)
		w.wantLayout("wwuuuuuuuu--uuuu", "beyond the end")
		w.fallocate(zero, 11*g.bs, 6*g.bs)
		w.wantSize(17 * g.bs)
		w.wantLayout("wwuuuuuuuu-uuuuuu", "extended")
		w.verify()
	})
}

// TestZeroRangeUnderMapping: pages that somebody has mapped and dirtied show
// the zeros, and are not written back over them.
func TestZeroRangeUnderMapping(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		for name, mode := range map[string]int{"zero": zero, "punch": punch} {
			w := d.create(name)
			const n = 16 * 4096
			w.write(0, n, 1)
			m, err := unix.Mmap(w.fd(), 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			assert.NilError(t, err)
			copy(m, pattern(0, n, 9))
			copy(w.want, m)
			w.fallocate(mode, 4096+100, 8*4096)
			if msg := differ(m, w.want); msg != "" {
				t.Fatalf("%s: through the mapping: %s", name, msg)
			}
			w.verify()
			if msg := differ(m, w.want); msg != "" {
				t.Fatalf("%s: through the mapping, later: %s", name, msg)
			}
			m[3*4096] = 0x77
			w.want[3*4096] = 0x77
			w.verify()
			assert.NilError(t, unix.Munmap(m))
		}
	})
}

func TestPunch(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		c := g.cluster
		w := d.create("f")
		w.write(0, 12*c, 1)
		w.sync()
		w.fallocate(punch, 2*c, 3*c)
		w.verify()
		assert.Equal(t, w.allocated(), 9*c)
		w.fallocate(punch, 6*c+10, c) // less than a cluster on either side
		w.verify()
		assert.Equal(t, w.allocated(), 9*c)
		w.fallocate(punch, 6*c-1, 2*c+2) // the clusters in between, now that both ends are outside
		w.verify()
		assert.Equal(t, w.allocated(), 7*c)

		w.fallocate(punch, 12*c, c) // beyond the end: nothing
		w.fallocate(punch, 100*c, 1<<30)
		w.wantSize(12 * c)
		assert.Equal(t, w.allocated(), 7*c)
		w.fallocate(punch, 11*c, 5*c) // over the end
		w.wantSize(12 * c)
		w.verify()
		assert.Equal(t, w.allocated(), 6*c)
		w.fallocate(punch, 0, 12*c)
		w.verify()
		assert.Equal(t, w.allocated(), int64(0))
		assert.Equal(t, len(w.extents(0)), 0)
		w.write(5*c, c, 3)
		w.verify()
	})
}

// TestPunchDelayed punches what has no blocks yet.
func TestPunchDelayed(t *testing.T) {
	eachGeom(t, []geom{g4k, g1k, gBigalloc}, func(t *testing.T, d *dir, g geom) {
		c := g.cluster
		w := d.create("f")
		w.write(0, 8*c, 1)
		w.fallocate(punch, 2*c, 3*c)
		w.check("before it is written out")
		w.verify()
		assert.Equal(t, w.allocated(), 5*c)
		w.write(8*c, 4*c, 2)
		w.fallocate(punch, 8*c+1, 3*c)
		w.fallocate(punch, 0, 20*c)
		w.verify()
		assert.Equal(t, w.allocated(), int64(0))
	})
}

func TestPunchPreallocated(t *testing.T) {
	d := mount(t, g4k)
	w := d.create("f")
	w.write(0, 4096, 1)
	w.fallocate(keepSize, 4096, 15*4096)
	w.wantLayout("wuuuuuuuuuuuuuuu", "preallocated")
	w.fallocate(punch, 0, 2048)
	w.wantSize(4096)
	w.verify()
	w.truncate(4096)
	w.wantLayout("w", "truncate to the size gives the preallocation back")
}

func TestSeekHoleAndData(t *testing.T) {
	eachGeom(t, []geom{g4k, g1k, gBigalloc}, func(t *testing.T, d *dir, g geom) {
		c := g.cluster
		w := d.create("f")
		w.write(0, 2*c, 1)
		w.write(6*c, 2*c, 1)
		w.fallocate(0, 10*c, 2*c)
		w.write(10*c, c, 1)
		w.sync()
		w.fallocate(punch, 7*c, c)
		seek := func(off int64, whence int, want int64) {
			t.Helper()
			got, err := unix.Seek(w.fd(), off, whence)
			if want < 0 {
				assert.ErrorIs(t, err, unix.ENXIO)
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, got, want, "whence %d from %d", whence, off)
		}
		const data, hole = unix.SEEK_DATA, unix.SEEK_HOLE
		for range 2 {
			seek(0, data, 0)
			seek(0, hole, 2*c)
			seek(2*c, data, 6*c)
			seek(6*c, hole, 7*c)
			seek(7*c, data, 10*c)
			seek(7*c+1, hole, 7*c+1)
			seek(10*c, hole, 11*c) // clean unwritten blocks are a hole
			seek(11*c, data, -1)
			seek(11*c, hole, 11*c)
			seek(12*c, hole, -1)
			w.clearES()
		}
		w.verify()
	})
}

func TestCollapse(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		c := g.cluster
		for _, r := range [][2]int64{{0, 1}, {1, 1}, {2, 5}, {0, 9}, {4, 4}, {8, 1}} {
			w := prepared(d, "f", 10)
			w.fallocate(collapse, r[0]*c, r[1]*c)
			w.wantSize((10 - r[1]) * c)
			w.check(fmt.Sprintf("collapse %v", r))
			w.verify()
			assert.NilError(t, w.f.Close())
		}
		w := d.create("odd") // the size need not be aligned
		w.write(0, 4*c+123, 1)
		w.fallocate(collapse, c, 2*c)
		w.wantSize(2*c + 123)
		w.verify()
		w.wantErrno(unix.EINVAL, collapse, c, c+c)
		w.fallocate(collapse, c, c)
		w.wantSize(c + 123)
		w.verify()
	})
}

func TestInsert(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		c := g.cluster
		for _, r := range [][2]int64{{0, 1}, {1, 1}, {2, 5}, {3, 20}, {4, 4}, {9, 1}} {
			w := prepared(d, "f", 10)
			w.fallocate(insert, r[0]*c, r[1]*c)
			w.wantSize((10 + r[1]) * c)
			w.check(fmt.Sprintf("insert %v", r))
			hole, err := unix.Seek(w.fd(), r[0]*c, unix.SEEK_HOLE)
			assert.NilError(t, err)
			assert.Equal(t, hole, r[0]*c, "what was inserted is a hole")
			w.verify()
			assert.NilError(t, w.f.Close())
		}
	})
}

// TestInsertAndCollapse undoes one with the other: also the mapping must be
// what it was.
func TestInsertAndCollapse(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		c := g.cluster
		w := prepared(d, "f", 10)
		w.sync()
		before := w.extents(0)
		for i := range int64(9) {
			w.fallocate(insert, i*c, (i+1)*c)
			w.check("inserted")
			w.fallocate(collapse, i*c, (i+1)*c)
			w.check("collapsed")
		}
		w.sync()
		if msg := sameMapping(before, w.extents(0)); msg != "" {
			t.Fatalf("the mapping has changed: %s", msg)
		}
		w.verify()
	})
}

// fragmented makes a file whose every block is an extent of its own, by
// leaving the disk nothing but single free blocks. It returns the filler, too.
func fragmented(t *testing.T, d *dir, blocks int64) *file {
	t.Helper()
	filler, err := os.Create(filepath.Join(d.path, "filler"))
	assert.NilError(t, err)
	t.Cleanup(func() { _ = filler.Close() })
	bs := d.g.bs
	var size int64
	for step := int64(1 << 20); step >= bs; {
		if fallocate(int(filler.Fd()), 0, size, step) == nil {
			size += step
		} else if st, err := filler.Stat(); err == nil && st.Size() > size {
			size = st.Size() // a part of it was had
		} else {
			step /= 2
		}
	}
	// Some more than the file needs: both files' trees take blocks, too.
	for i := int64(0); i < 2*blocks+40; i += 2 {
		assert.NilError(t, fallocate(int(filler.Fd()), punch, size/2/bs*bs+i*bs, bs), "punch block %d", i)
	}
	assert.NilError(t, filler.Sync())
	w := d.create("fragmented")
	w.write(0, blocks*bs, 0x11)
	w.sync()
	if xs := w.extents(0); int64(len(xs)) < blocks*3/4 {
		t.Fatalf("%d extents for %d blocks: not fragmented", len(xs), blocks)
	}
	return w
}

// TestFragmented: blocks that follow each other in the file but not on the
// disk must never be joined in the caches; and a deep tree takes every
// operation, too.
func TestFragmented(t *testing.T) {
	d := mount(t, gSmall)
	const blocks = 400 // more than the 340 of one node of 4096 bytes
	w := fragmented(t, d, blocks)
	bs := d.g.bs
	w.verify()
	w.clearES()
	fs.DropPages(t)
	for i := blocks - 1; i >= 0; i -= 7 { // fill the caches in another order
		var b [16]byte
		_, err := w.f.ReadAt(b[:], int64(i)*bs+64)
		assert.NilError(t, err)
		assert.Assert(t, bytes.Equal(b[:], w.want[int64(i)*bs+64:][:16]), "block %d", i)
	}
	w.verify()
	for _, c := range []struct {
		mode   int
		off, n int64
	}{
		{zero, 100*bs + 15, 0x8000},
		{punch, 50*bs - 10, 5 * bs},
		{collapse, 10 * bs, 20 * bs},
		{zero, 200 * bs, 3 * bs},
		{insert, 30 * bs, 7 * bs},
		{punch, 0, bs},
		{zeroKeep, 390 * bs, 40 * bs},
	} {
		w.fallocate(c.mode, c.off, c.n)
		w.verify()
	}
	w.write(100*bs, 3*bs, 0x22)
	w.write(33*bs, 10, 0x23)
	w.verify()
	w.truncate(123*bs + 45)
	w.verify()
}

// TestCrash stops the file system without warning: what was synced must be
// there afterwards, after the journal's replay, and fsck must find order.
func TestCrash(t *testing.T) {
	eachGeom(t, []geom{g4k, g1k, gBigalloc}, func(t *testing.T, d *dir, g geom) {
		c := g.cluster
		var files []*file
		for name, do := range map[string]func(w *file){
			"allocate": func(w *file) { w.fallocate(0, 0, 20*c) },
			"zero":     func(w *file) { w.fallocate(zero, 2*c+15, 5*c) },
			"punch":    func(w *file) { w.fallocate(punch, 3*c, 2*c) },
			"collapse": func(w *file) { w.fallocate(collapse, 2*c, 3*c) },
			"insert":   func(w *file) { w.fallocate(insert, 2*c, 3*c) },
			"write":    func(w *file) { w.fallocate(0, 10*c, 4*c); w.write(11*c, c, 7) },
		} {
			w := prepared(d, name, 10)
			do(w)
			w.sync()
			// This comes too late to be kept for sure; what is there then
			// must be either of the two.
			late := append([]byte{}, w.want...)
			w.fallocate(zero, c, 100)
			w.want = late
			files = append(files, w)
		}
		d.shutdown()
		_, err := files[0].f.WriteAt([]byte{1}, 0)
		assert.Assert(t, err != nil, "a write to a file system that was shut down")
		for _, w := range files {
			_ = w.f.Close()
		}
		d.remount()
		for _, w := range files {
			w.reopen()
			got := w.content()
			late := modelFallocate(w.want, zero, c, 100)
			if differ(got, late) == "" {
				w.want = late
			}
			w.check(filepath.Base(w.f.Name()) + " after the crash")
			w.verify()
		}
	})
}

// TestRemount compares everything after the file system was taken down and
// mounted again, with nothing left in memory.
func TestRemount(t *testing.T) {
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		c := g.cluster
		w := prepared(d, "f", 20)
		w.fallocate(zero, 2*c+15, 3*c)
		w.fallocate(collapse, 7*c, 2*c)
		w.fallocate(insert, 3*c, 4*c)
		w.fallocate(punch, 12*c+1, 3*c)
		assert.NilError(t, w.f.Close()) // no sync
		d.remount()
		w.reopen()
		w.check("after the remount")
		w.checkMapped("after the remount")
		w.verify()
		r, err := os.Open(w.f.Name())
		assert.NilError(t, err)
		b, err := io.ReadAll(r)
		assert.NilError(t, err)
		assert.NilError(t, r.Close())
		assert.Equal(t, differ(b, w.want), "")
	})
}
