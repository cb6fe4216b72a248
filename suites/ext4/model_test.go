// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// TestRandomOperations is fsx: a long random sequence of everything one can do
// to a file, each step compared with a model.
func TestRandomOperations(t *testing.T) {
	seed := newSeed(t)
	eachGeom(t, geoms, func(t *testing.T, d *dir, g geom) {
		if g.opts == "data=journal" {
			// On Debian's 6.1 a collapse loses what was written through a
			// mapping before it; 6.4 reworked how such data is written back.
			kit.NeedLinux(t, "6.4", "data=journal that does not lose mapped writes")
		}
		rng := rand.New(rand.NewPCG(seed, uint64(g.bs)))
		w := d.create("f")
		direct, err := os.OpenFile(w.f.Name(), os.O_RDWR|unix.O_DIRECT, 0)
		assert.NilError(t, err)
		defer func() { _ = direct.Close() }()
		const limit = 192 << 10
		buf := aligned(t, limit)
		var history []string
		defer func() {
			if t.Failed() {
				t.Logf("the last operations (seed %d):", seed)
				for _, h := range history[max(0, len(history)-30):] {
					t.Log(h)
				}
			}
		}()
		did := func(format string, a ...any) { history = append(history, fmt.Sprintf(format, a...)) }
		for step := range 100 * *iterations {
			size := int64(len(w.want))
			off := rng.Int64N(limit)
			n := 1 + rng.Int64N(min(limit-off, 40<<10))
			if rng.IntN(3) == 0 {
				off, n = off/g.bs*g.bs, (n+g.bs-1)/g.bs*g.bs
			}
			cOff, cN := off/g.cluster*g.cluster, (n+g.cluster-1)/g.cluster*g.cluster
			switch rng.IntN(14) {
			case 0, 1, 2:
				did("write %d %d", off, n)
				w.write(off, n, byte(step)|1)
			case 3:
				o, k := off/4096*4096, (n+4095)/4096*4096
				if o+k > limit {
					k = limit - o
				}
				did("direct write %d %d", o, k)
				copy(buf, pattern(o, k, byte(step)|1))
				_, err := direct.WriteAt(buf[:k], o)
				assert.NilError(t, err)
				w.grow(o + k)
				copy(w.want[o:], buf[:k])
			case 4:
				if off+n <= size {
					did("mapped write %d %d", off, n)
					m, err := unix.Mmap(w.fd(), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
					assert.NilError(t, err)
					copy(m[off:], pattern(off, n, byte(step)|1))
					copy(w.want[off:], m[off:off+n])
					assert.NilError(t, unix.Munmap(m))
				}
			case 5:
				did("truncate %d", off)
				w.truncate(off)
			case 6:
				did("allocate %d %d", off, n)
				w.fallocate(rng.IntN(2)*keepSize, off, n)
			case 7, 8:
				did("zero %d %d", off, n)
				w.fallocate(zero|rng.IntN(2)*keepSize, off, n)
			case 9, 10:
				did("punch %d %d", off, n)
				w.fallocate(punch, off, n)
			case 11:
				if cOff+cN < size {
					did("collapse %d %d", cOff, cN)
					w.fallocate(collapse, cOff, cN)
				}
			case 12:
				if cOff < size && size+cN <= limit {
					did("insert %d %d", cOff, cN)
					w.fallocate(insert, cOff, cN)
				}
			case 13:
				switch rng.IntN(4) {
				case 0:
					did("fsync")
					w.sync()
				case 1:
					did("fsync, drop pages")
					w.sync()
					fs.DropPages(t)
				case 2:
					did("drop extents")
					w.clearES()
				case 3:
					did("verify")
					w.verify()
				}
			}
			if msg := differ(w.content(), w.want); msg != "" {
				t.Fatalf("step %d: %s", step, msg)
			}
		}
		w.verify()
		w.checkMapped("at the end")
		assert.NilError(t, w.f.Close())
		assert.NilError(t, direct.Close())
		d.remount()
		w.reopen()
		w.check("after a remount")
	})
}

// TestConcurrentAllocation has writers of all sorts own their parts of a file,
// while others allocate over all of it and punch parts of their own: nobody's
// data may suffer.
func TestConcurrentAllocation(t *testing.T) {
	eachGeom(t, []geom{g4k, g1k, gBigalloc}, func(t *testing.T, d *dir, g geom) {
		const part = 64 << 10
		w := d.create("f")
		w.truncate(5 * part)
		var wg sync.WaitGroup
		var stop atomic.Bool
		rounds := 12 * *iterations
		errs := make(chan error, 16)
		run := func(f func() error) {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := f(); err != nil {
					errs <- err
				}
			}()
		}
		compare := func(what string, off int64, want []byte) error {
			got := make([]byte, len(want))
			if _, err := w.f.ReadAt(got, off); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if msg := differ(got, want); msg != "" {
				return fmt.Errorf("%s: %s", what, msg)
			}
			return nil
		}
		// Part 0: buffered writes.
		run(func() error {
			for i := range rounds {
				b := pattern(0, part, byte(i)|1)
				if _, err := w.f.WriteAt(b, 0); err != nil {
					return err
				}
				if err := compare("buffered part", 0, b); err != nil {
					return err
				}
				copy(w.want[:part], b)
			}
			return nil
		})
		// Part 1: direct writes.
		direct, err := os.OpenFile(w.f.Name(), os.O_RDWR|unix.O_DIRECT, 0)
		assert.NilError(t, err)
		defer func() { _ = direct.Close() }()
		dbuf := aligned(t, part)
		run(func() error {
			for i := range rounds {
				copy(dbuf, pattern(part, part, byte(i)|1))
				if _, err := direct.WriteAt(dbuf, part); err != nil {
					return err
				}
				if err := compare("direct part", part, dbuf); err != nil {
					return err
				}
				copy(w.want[part:2*part], dbuf)
			}
			return nil
		})
		// Part 2: writes through a mapping.
		m, err := unix.Mmap(w.fd(), 2*part, part, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		assert.NilError(t, err)
		run(func() error {
			for i := range rounds {
				copy(m, pattern(2*part, part, byte(i)|1))
				if err := compare("mapped part", 2*part, m); err != nil {
					return err
				}
				copy(w.want[2*part:3*part], m)
			}
			return nil
		})
		// Part 3: written and punched or zeroed by one.
		run(func() error {
			modes := []int{punch, zeroKeep}
			for i := range rounds {
				off := int64(3 * part)
				b := pattern(off, part, byte(i)|1)
				if _, err := w.f.WriteAt(b, off); err != nil {
					return err
				}
				if err := fallocate(w.fd(), modes[i%2], off+100, part/2); err != nil {
					return err
				}
				clear(b[100 : 100+part/2])
				if err := compare("punched part", off, b); err != nil {
					return err
				}
				copy(w.want[off:], b)
			}
			return nil
		})
		// Part 4 is only allocated and punched; it reads as zeros for ever.
		var others sync.WaitGroup
		others.Add(1)
		go func() {
			defer others.Done()
			b := make([]byte, part)
			for i := 0; !stop.Load(); i++ {
				err := fallocate(w.fd(), keepSize, 0, 6*part)
				if err == nil && i%3 == 0 {
					err = fallocate(w.fd(), punch, 4*part, part)
				}
				if err == nil {
					_, err = w.f.ReadAt(b, 4*part)
				}
				if err == nil && !bytes.Equal(b, make([]byte, part)) {
					err = fmt.Errorf("allocated part shows data")
				}
				if err == nil && i%5 == 0 {
					err = w.f.Sync()
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
		wg.Wait()
		stop.Store(true)
		others.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
		assert.NilError(t, unix.Munmap(m))
		w.verify()
	})
}

// TestConcurrentShifts collapses and inserts while others read: a reader sees
// the file in one of the two states, block by block.
func TestConcurrentShifts(t *testing.T) {
	d := mount(t, g4k)
	const bs, blocks = 4096, 32
	w := d.create("f")
	for i := range int64(blocks) {
		b := bytes.Repeat([]byte{byte(i + 1)}, bs)
		_, err := w.f.WriteAt(b, i*bs)
		assert.NilError(t, err)
		w.want = append(w.want, b...)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			b := make([]byte, bs)
			for i := int64(0); !stop.Load(); i++ {
				n, err := w.f.ReadAt(b, i%blocks*bs)
				if n == 0 || err != nil {
					continue // the file is shorter at the moment
				}
				// Blocks from 8 on are shifted by up to 4 either way; what is
				// inserted is zero until it is written, byte by byte.
				want := int(i%blocks + 1)
				for _, c := range b[:n] {
					got := int(c)
					if got == want || want > 8 && (got == 0 || got >= want-4 && got <= want+4) {
						continue
					}
					errs <- fmt.Errorf("block %d shows %#x", i%blocks, c)
					return
				}
			}
		}()
	}
	for i := range 25 * *iterations {
		n := int64(1+i%4) * bs
		w.fallocate(collapse, 8*bs, n)
		w.fallocate(insert, 8*bs, n)
		copy(w.want[8*bs:], bytes.Repeat([]byte{0}, int(n)))
		var b []byte
		for k := int64(0); k < n/bs; k++ {
			b = append(b, bytes.Repeat([]byte{byte(8 + k + 1)}, bs)...)
		}
		_, err := w.f.WriteAt(b, 8*bs)
		assert.NilError(t, err)
		copy(w.want[8*bs:], b)
	}
	stop.Store(true)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	w.verify()
}
