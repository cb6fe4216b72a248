// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/kimage"
	"github.com/kvmrun/kvmrun/internal/oops"
)

func TestReturnAddress(t *testing.T) {
	vmlinux := build(t)
	s := open(t, vmlinux)
	a := s.sym(t, "a_entry", "fs/a.c")
	off := calls(t, vmlinux, a, "sink")[0]
	// The return address of the inlined call lies behind it, at the code of
	// whatever comes next; the call itself is in inner, which is in outer.
	want := fmt.Sprintf("inner include/inl.h:%d | outer include/inl.h:%d | a_entry fs/a.c:%d",
		source(t, "include/inl.h", "", `sink("inner")`), source(t, "include/inl.h", "", "inner(x * 3)"), source(t, "fs/a.c", "a_entry", "outer(x);"))
	pos, err := s.Frame(a.frame(off), true)
	assert.NilError(t, err)
	assert.Equal(t, chainText(pos), want)
	for i, p := range pos {
		assert.Equal(t, p.Inline, i < len(pos)-1)
	}
	exact, err := s.Frame(a.frame(off), false)
	assert.NilError(t, err)
	assert.Assert(t, chainText(exact) != want)

	// The last instruction of giveup is a call; without the correction its return
	// address would belong to the function that follows.
	g := s.sym(t, "giveup", "")
	ret := calls(t, vmlinux, g, "die")
	if len(ret) > 0 {
		pos, err := s.Frame(g.frame(ret[0]), true)
		assert.NilError(t, err)
		assert.Equal(t, chainText(pos), fmt.Sprintf("giveup init/main.c:%d", source(t, "init/main.c", `sink("giveup")`, "die();")))
	}

	// Offset 0 cannot be behind a call of the same function.
	pos, err = s.Frame(a.frame(0), true)
	assert.NilError(t, err)
	assert.Equal(t, pos[len(pos)-1].Func, "a_entry")
}

func TestAddr(t *testing.T) {
	vmlinux := build(t)
	s := open(t, vmlinux)
	a := s.sym(t, "a_entry", "fs/a.c")
	off := calls(t, vmlinux, a, "sink")[0]
	_, err := s.Addr(a.addr+off, true)
	assert.ErrorIs(t, err, ErrNoOffset)
	const kaslr = 0x1a000000
	s.SetOffset(kaslr)
	loc, err := s.Addr(a.addr+off+kaslr, true)
	assert.NilError(t, err)
	assert.Equal(t, loc.Func, "a_entry")
	assert.Equal(t, loc.Offset, off)
	assert.Equal(t, loc.Size, a.size)
	assert.Equal(t, len(loc.Positions), 3)
	for _, bad := range []uint64{0, 1, a.addr, ^uint64(0), kaslr, 1 << 63} {
		_, err := s.Addr(bad, true)
		assert.ErrorIs(t, err, ErrUnknown, "%#x", bad)
	}
}

func TestDuplicates(t *testing.T) {
	vmlinux := build(t)
	s := open(t, vmlinux)
	for _, file := range []string{"fs/a.c", "fs/b.c"} {
		y := s.sym(t, "dup", file)
		pos, err := s.Frame(y.frame(calls(t, vmlinux, y, "sink")[0]), true)
		assert.NilError(t, err)
		assert.Equal(t, chainText(pos), fmt.Sprintf("dup %s:%d", file, source(t, file, "", `sink("dup`)))
	}
	y := s.sym(t, "twin", "fs/a.c")
	off := calls(t, vmlinux, y, "sink")[0]
	f := y.frame(off)
	_, err := s.Frame(f, true)
	assert.ErrorIs(t, err, ErrAmbiguous)
	for _, file := range []string{"fs/a.c", "fs/b.c"} {
		assert.ErrorContains(t, err, fmt.Sprintf("%s:%d", file, source(t, file, "twin", "sink(")))
	}
	// An address tells them apart, once KASLR is known.
	r := &oops.Report{Raw: []byte(fmt.Sprintf("Call Trace:\n [<%016x>] %s\nKernel Offset: 0x2000 from 0xffffffff81000000\n", y.addr+off+0x2000, y.text(off)))}
	text, err := s.Report(r)
	assert.NilError(t, err)
	assert.Assert(t, bytes.Contains(text, []byte(" fs/a.c:")), "%s", text)

	// Of a function that the log gives another size, nothing is known.
	f.Size = 0x4321
	_, err = s.Frame(f, true)
	assert.ErrorIs(t, err, ErrUnknown)
	assert.ErrorContains(t, err, "0x4321")
}

// moduleSym returns a function of a module.
func moduleSym(t *testing.T, ko, name string) symbol {
	t.Helper()
	img, err := readImage(ko, openFile(ko))
	assert.NilError(t, err)
	assert.Equal(t, len(img.byName[name]), 1)
	return img.byAddr[img.byName[name][0]]
}

func TestModules(t *testing.T) {
	vmlinux := build(t)
	built := filepath.Join(filepath.Dir(vmlinux), "m.ko")
	data, err := os.ReadFile(built)
	assert.NilError(t, err)
	img, err := readImage(built, openFile(built))
	assert.NilError(t, err)
	id := img.buildID
	assert.Equal(t, len(id), 40)

	// m_work and m_init begin at address 0 of different sections.
	work, init, last := moduleSym(t, built, "m_work"), moduleSym(t, built, "m_init"), moduleSym(t, built, "m_last")
	last.size += 0xabc // the kernel counts the padding of the section in
	rows := []struct {
		sym  symbol
		off  uint64
		want string
	}{
		{work, 1, fmt.Sprintf("m_work mod/m.c:%d", source(t, "mod/m.c", "", "m_work(int x)")+1)},
		{init, 1, fmt.Sprintf("m_init mod/m.c:%d", source(t, "mod/m.c", "", "m_init(int x)")+1)},
		{last, 1, fmt.Sprintf("m_last mod/m.c:%d", source(t, "mod/m.c", "", "m_last(int x)")+1)},
	}
	check := func(t *testing.T, dir, id string) {
		t.Helper()
		s := open(t, vmlinux, dir)
		for _, row := range rows {
			f := row.sym.frame(row.off)
			f.Module = "my_mod"
			f.Raw = strings.TrimSpace(f.Raw + " [my_mod " + id + "]")
			pos, err := s.Frame(f, true)
			assert.NilError(t, err)
			last := pos[len(pos)-1]
			assert.Equal(t, fmt.Sprintf("%s %s", last.Func, last.File), row.want[:strings.IndexByte(row.want, ':')])
			assert.Assert(t, last.Line > 0)
		}
	}
	put := func(t *testing.T, name string, data []byte) string {
		t.Helper()
		dir := t.TempDir()
		assert.NilError(t, os.MkdirAll(filepath.Join(dir, "kernel", filepath.Dir(name)), 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "kernel", name), data, 0o600))
		return dir
	}
	// The file's name may have a dash where the module's has an underscore.
	t.Run("plain", func(t *testing.T) { check(t, put(t, "fs/my-mod.ko", data), id) })
	t.Run("no id", func(t *testing.T) { check(t, put(t, "my_mod.ko", data), "") })
	t.Run("gz", func(t *testing.T) {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		assert.NilError(t, err)
		assert.NilError(t, w.Close())
		check(t, put(t, "my-mod.ko.gz", b.Bytes()), id)
		// A cut one is an error, not a module without debug information.
		s := open(t, vmlinux, put(t, "my-mod.ko.gz", b.Bytes()[:b.Len()/2]))
		_, err = s.Frame(oops.Frame{Func: "m_work", Module: "my_mod"}, true)
		assert.ErrorIs(t, err, ErrDamaged)
	})
	t.Run("xz", func(t *testing.T) {
		var b bytes.Buffer
		w, err := xz.NewWriter(&b)
		assert.NilError(t, err)
		_, err = w.Write(data)
		assert.NilError(t, err)
		assert.NilError(t, w.Close())
		check(t, put(t, "my-mod.ko.xz", b.Bytes()), id)
	})
	t.Run("zst", func(t *testing.T) {
		e, err := zstd.NewWriter(nil)
		assert.NilError(t, err)
		check(t, put(t, "my-mod.ko.zst", e.EncodeAll(data, nil)), id)
	})
	t.Run("separate", func(t *testing.T) {
		dir := put(t, "my-mod.ko", data)
		ko := filepath.Join(dir, "kernel/my-mod.ko")
		dbg := filepath.Join(dir, ".build-id", id[:2], id[2:]+".debug")
		assert.NilError(t, os.MkdirAll(filepath.Dir(dbg), 0o755))
		run(t, dir, "strip", "-g", ko)
		s := open(t, vmlinux, dir)
		_, err := s.Frame(oops.Frame{Func: "m_work", Module: "my_mod"}, true)
		assert.ErrorIs(t, err, ErrNoDebugInfo)
		run(t, dir, "objcopy", "--only-keep-debug", built, dbg)
		check(t, dir, id)
		check(t, dir, "")
	})
	t.Run("other build", func(t *testing.T) {
		s := open(t, vmlinux, put(t, "my-mod.ko", data))
		other := strings.Repeat("ab", 20)
		f := work.frame(1)
		f.Module, f.Raw = "my_mod", f.Raw+" [my_mod "+other+"]"
		_, err := s.Frame(f, true)
		assert.ErrorIs(t, err, ErrOtherBuild)
		assert.ErrorContains(t, err, id)
		assert.ErrorContains(t, err, other)
	})
	t.Run("missing", func(t *testing.T) {
		_, err := open(t, vmlinux, t.TempDir()).Frame(oops.Frame{Func: "m_work", Module: "my_mod"}, true)
		assert.ErrorIs(t, err, ErrNoModule)
		_, err = open(t, vmlinux).Frame(oops.Frame{Func: "m_work", Module: "my_mod"}, true)
		assert.ErrorIs(t, err, ErrNoModule)
	})
}

func TestSeparateVmlinux(t *testing.T) {
	vmlinux := build(t)
	s := open(t, vmlinux)
	id := s.BuildID()
	dir := t.TempDir()
	dbg := filepath.Join(dir, ".build-id", id[:2], id[2:]+".debug")
	assert.NilError(t, os.MkdirAll(filepath.Dir(dbg), 0o755))
	run(t, dir, "objcopy", "--only-keep-debug", vmlinux, dbg)
	a := s.sym(t, "a_entry", "")
	want, err := s.Frame(a.frame(1), true)
	assert.NilError(t, err)
	for _, flag := range []string{"-g", "-s"} {
		stripped := filepath.Join(dir, "vmlinux"+flag)
		run(t, dir, "strip", flag, "-o", stripped, vmlinux)
		got, err := open(t, stripped, dir).Frame(a.frame(1), true)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, want)
	}
	// The debug file alone is enough too.
	got, err := open(t, dbg).Frame(a.frame(1), true)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, want)
}

func TestOpenErrors(t *testing.T) {
	vmlinux := build(t)
	dir := t.TempDir()
	data, err := os.ReadFile(vmlinux)
	assert.NilError(t, err)
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		assert.NilError(t, os.WriteFile(p, b, 0o600))
		return p
	}
	strip := func(flag string) string {
		p := filepath.Join(dir, "stripped"+flag)
		run(t, dir, "strip", flag, "-o", p, vmlinux)
		return p
	}
	for _, row := range []struct {
		name, path string
		kind       error
		words      []string
	}{
		{"missing", filepath.Join(dir, "nothing"), os.ErrNotExist, nil},
		{"stripped", strip("-s"), ErrNoDebugInfo, []string{"CONFIG_DEBUG_INFO", "debug package"}},
		{"no DWARF", strip("-g"), ErrNoDebugInfo, []string{"CONFIG_DEBUG_INFO", "debug package"}},
		{"text", file("text", []byte("hello, world, this is no kernel\n")), kimage.ErrNotKernel, []string{"text"}},
		{"empty", file("empty", nil), kimage.ErrNotKernel, nil},
		{"program", "/proc/self/exe", kimage.ErrNotKernel, []string{"program"}},
		{"truncated", file("truncated", data[:len(data)-len(data)/10]), kimage.ErrTruncated, []string{"truncated"}},
		{"directory", dir, kimage.ErrNotKernel, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := Open(row.path)
			assert.ErrorIs(t, err, row.kind)
			for _, w := range append(row.words, row.path) {
				assert.ErrorContains(t, err, w)
			}
		})
	}
	_, err = Open(vmlinux, filepath.Join(dir, "nothing"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = Open(vmlinux, vmlinux)
	assert.ErrorContains(t, err, "is a file")
}

func TestOtherBuild(t *testing.T) {
	s, other := open(t, build(t)), open(t, build(t, "-DOTHER", "-O1"))
	mine, theirs := s.BuildID(), other.BuildID()
	assert.Assert(t, mine != theirs)
	assert.NilError(t, s.CheckBuildID(mine))
	assert.NilError(t, s.CheckBuildID(strings.ToUpper(mine)))
	assert.NilError(t, s.CheckBuildID(""))
	err := s.CheckBuildID(theirs)
	assert.ErrorIs(t, err, ErrOtherBuild)
	assert.ErrorContains(t, err, mine)
	assert.ErrorContains(t, err, theirs)

	assert.Equal(t, s.Banner(), testBanner)
	assert.NilError(t, s.CheckBanner("[    0.000000] "+testBanner+"\r\n"))
	assert.ErrorIs(t, s.CheckBanner(strings.Replace(testBanner, "#1", "#2", 1)), ErrOtherBuild)

	// A log with CONFIG_STACKTRACE_BUILD_ID names the kernel itself.
	a := s.sym(t, "a_entry", "")
	log := func(release, id string) *oops.Report {
		return oops.ParseFirst([]byte(fmt.Sprintf(`[    1.000000] ------------[ cut here ]------------
[    1.000000] WARNING: CPU: 0 PID: 1 at fs/a.c:1 a_entry+0x1/%#x
[    1.000000] CPU: 0 UID: 0 PID: 1 Comm: init Not tainted %s #1 PREEMPT(full)  %s
[    1.000000] RIP: 0010:%s
[    1.000000] Call Trace:
[    1.000000]  <TASK>
[    1.000000]  %s
[    1.000000]  </TASK>
[    1.000000] ---[ end trace 0000000000000000 ]---
`, a.size, release, id, a.text(1), a.text(8))))
	}
	text, err := s.Report(log("6.99.0-test", mine))
	assert.NilError(t, err)
	assert.Assert(t, bytes.Contains(text, []byte("fs/a.c:")))
	r := log("6.99.0-test", theirs)
	text, err = s.Report(r)
	assert.ErrorIs(t, err, ErrOtherBuild)
	assert.ErrorContains(t, err, mine)
	assert.ErrorContains(t, err, theirs)
	assert.Equal(t, string(text), string(r.Raw))
	assert.Equal(t, r.Stack[0].File, "")
	// Without build-id the release is better than nothing.
	_, err = s.Report(log("6.98.0", ""))
	assert.ErrorIs(t, err, ErrOtherBuild)
	_, err = s.Report(log("6.99.0-test", ""))
	assert.NilError(t, err)
}

// TestDamagedDWARF cuts and garbles the debug sections. Anything may come out
// but a panic or an endless loop.
func TestDamagedDWARF(t *testing.T) {
	vmlinux := build(t)
	data, err := os.ReadFile(vmlinux)
	assert.NilError(t, err)
	good := open(t, vmlinux)
	var addrs []uint64
	for _, y := range good.kernel.byAddr {
		for o := uint64(0); o < y.size && good.kernel.inCode(y.addr+o); o += 7 {
			addrs = append(addrs, y.addr+o)
		}
	}
	p := filepath.Join(t.TempDir(), "vmlinux")
	rnd := uint64(1)
	next := func(n int) int { // xorshift: the same in every run
		rnd ^= rnd << 13
		rnd ^= rnd >> 7
		rnd ^= rnd << 17
		return int(rnd % uint64(n))
	}
	errs := 0
	for i := range 300 {
		b := bytes.Clone(data)
		start, end := debugBytes(t, vmlinux)
		switch i % 3 {
		case 0: // garbled bytes
			for range 1 + next(20) {
				b[start+next(end-start)] = byte(next(256))
			}
		case 1: // a hole, as an unfinished copy has
			from := start + next(end-start)
			clear(b[from:min(end, from+next(4096))])
		case 2: // everything from here on
			clear(b[start+next(end-start) : end])
		}
		assert.NilError(t, os.WriteFile(p, b, 0o600))
		s, err := Open(p)
		if err != nil {
			errs++
			continue
		}
		s.SetOffset(0)
		for _, a := range addrs {
			if _, err := s.Addr(a, false); err != nil {
				errs++
				if errors.Is(err, ErrDamaged) {
					assert.ErrorContains(t, err, p)
				}
			}
		}
	}
	assert.Assert(t, errs > 0)
}

// debugBytes returns where the debug sections are in a file.
func debugBytes(t *testing.T, vmlinux string) (start, end int) {
	t.Helper()
	for _, l := range strings.Split(run(t, ".", "readelf", "-SW", vmlinux), "\n") {
		_, rest, ok := strings.Cut(l, "] .debug_")
		f := strings.Fields(rest)
		if !ok || len(f) < 5 {
			continue
		}
		from := int(hexNum(f[3]))
		to := from + int(hexNum(f[4]))
		if start == 0 || from < start {
			start = from
		}
		end = max(end, to)
	}
	assert.Assert(t, start > 0 && end > start)
	return start, end
}

func TestConcurrent(t *testing.T) {
	s := open(t, build(t))
	a := s.sym(t, "a_entry", "")
	want, err := s.Frame(a.frame(1), true)
	assert.NilError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 50 {
				got, err := s.Frame(a.frame(1), true)
				if err != nil || chainText(got) != chainText(want) {
					t.Errorf("%v, %v", got, err)
				}
				s.SetOffset(0)
				_, _ = s.Addr(a.addr, false)
				_, _ = s.Report(&oops.Report{Raw: []byte("Call Trace:\n " + a.text(1) + "\n")})
			}
		}()
	}
	wg.Wait()
}
