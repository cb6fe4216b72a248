// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/oops"
)

const testBanner = "Linux version 6.99.0-test (me@here) (gcc) #1 SMP Mon Jan  1 00:00:00 UTC 2024"

// tools skips the test unless the programs are there.
func tools(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("%s is missing (Debian: apt-get install gcc binutils)", n)
		}
	}
}

func run(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir = dir
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	assert.NilError(t, c.Run(), "%s %q: %s", name, args, errs.String())
	return out.String()
}

// build compiles testdata/tree in another directory, as make O= does, and
// returns the path of the vmlinux.
func build(t testing.TB, cflags ...string) string {
	t.Helper()
	tools(t, "gcc", "ld", "objcopy", "strip")
	tree, err := filepath.Abs("testdata/tree")
	assert.NilError(t, err)
	obj := t.TempDir()
	args := append([]string{"-c", "-g", "-O2", "-fno-ipa-icf", "-fno-pic", "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
		"-ffreestanding", "-I" + filepath.Join(tree, "include"), fmt.Sprintf("-DBANNER=%q", testBanner+"\n")}, cflags...)
	text := "0xffff800080000000"
	if runtime.GOARCH == "amd64" {
		args = append(args, "-mcmodel=kernel", "-mno-red-zone")
		text = "0xffffffff81000000"
	} else {
		args = removeFlag(args, "-fcf-protection=none")
	}
	link := []string{"-static", "--build-id=sha1", "-Ttext=" + text, "-o", "vmlinux"}
	for _, src := range []string{"init/main.c", "fs/a.c", "fs/b.c"} {
		o := strings.ReplaceAll(src, "/", "_") + ".o"
		run(t, obj, "gcc", append(args, "-o", o, filepath.Join(tree, src))...)
		link = append(link, o)
	}
	run(t, obj, "ld", link...)
	// As scripts/Makefile.modfinal does.
	run(t, obj, "gcc", append(args, "-o", "m.o", filepath.Join(tree, "mod/m.c"))...)
	run(t, obj, "ld", "-r", "--build-id=sha1", "-o", "m.ko", "m.o")
	return filepath.Join(obj, "vmlinux")
}

func removeFlag(args []string, flag string) []string {
	var out []string
	for _, a := range args {
		if a != flag {
			out = append(out, a)
		}
	}
	return out
}

func open(t testing.TB, vmlinux string, dirs ...string) *Symbolizer {
	t.Helper()
	s, err := Open(vmlinux, dirs...)
	assert.NilError(t, err)
	return s
}

// source returns the number of the first line of a file of the tree that holds
// text, after the first that holds after.
func source(t testing.TB, file, after, text string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/tree", file))
	assert.NilError(t, err)
	seen := after == ""
	for i, l := range strings.Split(string(b), "\n") {
		if seen && strings.Contains(l, text) {
			return i + 1
		}
		seen = seen || strings.Contains(l, after)
	}
	t.Fatalf("%s: no %q after %q", file, text, after)
	return 0
}

// calls returns the return addresses of the calls of callee in the function sym,
// as offsets, from the disassembly.
func calls(t testing.TB, file string, sym symbol, callee string) []uint64 {
	t.Helper()
	var out []uint64
	next := false
	for _, l := range strings.Split(run(t, ".", "objdump", "-d", fmt.Sprintf("--start-address=%#x", sym.addr), fmt.Sprintf("--stop-address=%#x", sym.addr+sym.size), file), "\n") {
		at, _, ok := strings.Cut(strings.TrimSpace(l), ":\t")
		if !ok {
			continue
		}
		if next {
			out = append(out, hexNum(at)-sym.addr)
		}
		next = (strings.Contains(l, "call") || strings.Contains(l, "\tbl\t")) && strings.Contains(l, "<"+callee+">")
	}
	if next {
		out = append(out, sym.size)
	}
	assert.Assert(t, len(out) > 0, "no call of %s in %s", callee, sym.name)
	return out
}

// sym returns the only symbol of a name whose positions are in file.
func (s *Symbolizer) sym(t testing.TB, name, file string) symbol {
	t.Helper()
	for _, i := range s.kernel.byName[name] {
		y := s.kernel.byAddr[i]
		pos, err := s.positions(s.debug, name, y.addr)
		assert.NilError(t, err)
		if file == "" || pos[len(pos)-1].File == file {
			return y
		}
	}
	t.Fatalf("no %s in %s", name, file)
	return symbol{}
}

// frame is a symbol as the kernel prints it.
func (y symbol) frame(off uint64) oops.Frame {
	return oops.Frame{Func: y.name, Offset: off, Size: y.size, Raw: y.text(off)}
}

func (y symbol) text(off uint64) string { return fmt.Sprintf("%s+%#x/%#x", y.name, off, y.size) }

// chainText renders positions for comparison.
func chainText(pos []Position) string {
	var out []string
	for _, p := range pos {
		out = append(out, fmt.Sprintf("%s %s:%d", p.Func, p.File, p.Line))
	}
	return strings.Join(out, " | ")
}
