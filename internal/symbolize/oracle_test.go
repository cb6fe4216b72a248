// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// addr2line asks binutils, in its order: innermost function first.
func addr2line(t testing.TB, vmlinux string, addrs []uint64) [][]string {
	t.Helper()
	tools(t, "addr2line")
	var in strings.Builder
	for _, a := range addrs {
		fmt.Fprintf(&in, "%x\n", a)
	}
	c := exec.Command("addr2line", "-afi", "-e", vmlinux)
	c.Stdin = strings.NewReader(in.String())
	out, err := c.Output()
	assert.NilError(t, err)
	var all [][]string
	fn := ""
	for _, l := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		switch {
		case strings.HasPrefix(l, "0x"):
			all, fn = append(all, nil), ""
		case fn == "":
			fn = l
		default:
			l, _, _ = strings.Cut(l, " (discriminator")
			i := strings.LastIndexByte(l, ':')
			all[len(all)-1] = append(all[len(all)-1], fmt.Sprintf("%s %s%s", fn, path.Clean(l[:i]), l[i:]))
			fn = ""
		}
	}
	assert.Equal(t, len(all), len(addrs))
	return all
}

// compare counts the addresses at which we and addr2line differ, and those at
// which only the innermost file does.
func compare(t testing.TB, s *Symbolizer, vmlinux string, addrs []uint64) (differ, files, both int) {
	t.Helper()
	d, err := s.debug.debugInfo()
	assert.NilError(t, err)
	for i, want := range addr2line(t, vmlinux, addrs) {
		pos, err := d.lookup(addrs[i])
		none := len(want) == 0 || strings.Contains(want[len(want)-1], " ??:") || strings.HasSuffix(want[len(want)-1], ":?")
		if err != nil && none {
			continue
		}
		// GCC leaves the constructors that KASAN adds, and the padding before
		// functions, out of its units' ranges.
		if err != nil && len(want) == 1 && (strings.HasPrefix(want[0], "_sub_") || strings.HasPrefix(want[0], "__pfx_")) {
			continue
		}
		for i, w := range want {
			// A build that hides its path (-ffile-prefix-map) has a relative one,
			// which addr2line puts before paths that are relative to the tree.
			fn, pos, _ := strings.Cut(w, " ")
			if !path.IsAbs(d.compDir) {
				pos = relative(pos, d.compDir)
			}
			want[i] = fn + " " + pos
		}
		both++
		var got []string
		sym, _ := s.kernel.at(addrs[i])
		for _, p := range pos {
			if p.fn == "" {
				p.fn = sym.name
			}
			got = append(got, fmt.Sprintf("%s %s:%d", p.fn, path.Clean(p.file), p.line))
		}
		if strings.Join(got, "|") == strings.Join(want, "|") {
			continue
		}
		if len(got) > 0 && len(got) == len(want) && strings.Join(got[1:], "|") == strings.Join(want[1:], "|") {
			g, w := strings.Fields(got[0]), strings.Fields(want[0])
			// Where the DWARF names no function, addr2line has one of the symbols.
			if g[1] == w[1] && len(got) == 1 {
				continue
			}
			// Its line, in another file.
			if g[1][strings.IndexByte(g[1], ':'):] == w[1][strings.IndexByte(w[1], ':'):] {
				files++
				t.Logf("%#x: file differs: got %q, want %q", addrs[i], got[0], want[0])
				continue
			}
		}
		if differ++; differ <= 20 {
			t.Logf("%#x: %v\n got %q\nwant %q", addrs[i], err, got, want)
		}
	}
	return differ, files, both
}

func TestAddr2line(t *testing.T) {
	for _, flags := range [][]string{{"-gdwarf-5"}, {"-gdwarf-4"}, {"-gdwarf-4", "-O1"}, {"-gdwarf-5", "-O0"}, {"-gdwarf-5", "-gz"}, {"-gdwarf-5", "-Os", "-ffunction-sections"}} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			vmlinux := build(t, flags...)
			s := open(t, vmlinux)
			var addrs []uint64
			for _, c := range s.kernel.code {
				for a := c.start; a < c.end; a++ {
					addrs = append(addrs, a)
				}
			}
			differ, files, both := compare(t, s, vmlinux, addrs)
			assert.Assert(t, both > 100)
			assert.Equal(t, differ+files, 0)
		})
	}
}

// realKernel returns the vmlinux that the user wants tests to read.
func realKernel(t testing.TB) string {
	p := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if p == "" {
		t.Skip("KVMRUN_DEBUG_KERNEL is not set: set it to a vmlinux with debug information")
	}
	return p
}

// sample returns n addresses in functions, spread over the kernel.
func sample(s *Symbolizer, n int) []uint64 {
	var out []uint64
	rnd := uint64(88172645463325252)
	for len(out) < n {
		rnd ^= rnd << 13
		rnd ^= rnd >> 7
		rnd ^= rnd << 17
		y := s.kernel.byAddr[rnd%uint64(len(s.kernel.byAddr))]
		if y.length > 0 && s.kernel.inCode(y.addr) {
			out = append(out, y.addr+(rnd>>32)%y.length)
		}
	}
	return out
}

func TestRealKernel(t *testing.T) {
	vmlinux := realKernel(t)
	s := open(t, vmlinux)
	assert.Assert(t, s.BuildID() != "" && strings.HasPrefix(s.Banner(), "Linux version "))
	differ, files, both := compare(t, s, vmlinux, sample(s, 2000))
	t.Logf("%d of %d differ from addr2line, %d in the file only", differ, both, files)
	// Binutils 2.40 gives functions from headers the unit's file and the header's
	// line: include/trace/events/sched.h:798 becomes kernel/sched/core.c:798.
	assert.Assert(t, both > 1000 && differ*200 <= both && files*20 <= both, "%d and %d of %d differ", differ, files, both)

	// Sizes are those of the kernel's own table: every name with its size is
	// found, and paths are relative to the tree.
	for _, a := range sample(s, 200) {
		y, ok := s.kernel.at(a)
		assert.Assert(t, ok)
		fits, err := s.kernel.find(y.name, a-y.addr, y.size)
		assert.NilError(t, err)
		assert.Assert(t, len(fits) > 0)
	}
	pos, err := s.Frame(s.sym(t, "start_kernel", "").frame(1), true)
	assert.NilError(t, err)
	assert.Equal(t, pos[len(pos)-1].File, "init/main.c")
}

// BenchmarkCold opens the kernel and looks 20 frames of different places up.
func BenchmarkCold(b *testing.B) {
	vmlinux := realKernel(b)
	addrs := sample(open(b, vmlinux), 20)
	b.ReportAllocs()
	for b.Loop() {
		s := open(b, vmlinux)
		s.SetOffset(0)
		for _, a := range addrs {
			_, _ = s.Addr(a, true)
		}
	}
}

// BenchmarkWarm looks up 20 frames that were not asked for before, in units that
// were.
func BenchmarkWarm(b *testing.B) {
	s := open(b, realKernel(b))
	s.SetOffset(0)
	addrs := sample(s, 20)
	for _, a := range addrs {
		_, _ = s.Addr(a, true)
	}
	for b.Loop() {
		clear(s.answers)
		for _, a := range addrs {
			_, _ = s.Addr(a, true)
		}
	}
}

// BenchmarkOther looks up 20 frames in units that were not read before, in a
// kernel that was.
func BenchmarkOther(b *testing.B) {
	s := open(b, realKernel(b))
	s.SetOffset(0)
	addrs := sample(s, 21)
	_, _ = s.Addr(addrs[20], true)
	for b.Loop() {
		clear(s.answers)
		clear(s.debug.dwarf.units)
		clear(s.debug.dwarf.names)
		for _, a := range addrs[:20] {
			_, _ = s.Addr(a, true)
		}
	}
}

// BenchmarkAddr2line is what the same costs with binutils, for the figures in
// doc.go.
func BenchmarkAddr2line(b *testing.B) {
	vmlinux := realKernel(b)
	addrs := sample(open(b, vmlinux), 20)
	for b.Loop() {
		addr2line(b, vmlinux, addrs)
	}
}
