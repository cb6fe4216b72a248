// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/oops"
)

// logs makes a log of kernel messages as a console has them.
func logs(lines ...string) []byte {
	var b bytes.Buffer
	for i, l := range lines {
		fmt.Fprintf(&b, "[   12.%06d][   T42] %s\n", i, l)
	}
	return b.Bytes()
}

func TestReportKASAN(t *testing.T) {
	vmlinux := build(t)
	s := open(t, vmlinux)
	a, b, dup, start := s.sym(t, "a_entry", ""), s.sym(t, "b_entry", ""), s.sym(t, "dup", "fs/b.c"), s.sym(t, "_start", "")
	inA, inB := calls(t, vmlinux, a, "sink")[0], calls(t, vmlinux, b, "sink")[0]
	retA, retB := calls(t, vmlinux, start, "a_entry")[0], calls(t, vmlinux, start, "b_entry")[0]
	log := logs(
		"==================================================================",
		"BUG: KASAN: slab-use-after-free in "+a.text(inA),
		"Read of size 4 at addr ffff88801f8cc810 by task sh/42",
		"",
		"CPU: 0 UID: 0 PID: 42 Comm: sh Not tainted 6.99.0-test #1 ",
		"Call Trace:",
		" <TASK>",
		" "+a.text(inA),
		" ? "+b.text(inB),
		" ? "+b.text(b.size),
		" "+start.text(retA),
		" nobody+0x1/0x2",
		" </TASK>",
		"",
		"Allocated by task 42:",
		" "+b.text(inB),
		" "+start.text(retB),
		"",
		"Freed by task 42:",
		" "+dup.text(calls(t, vmlinux, dup, "sink")[1]),
		" "+start.text(retB),
		"",
		"The buggy address belongs to the object at ffff88801f8cc800",
		" which belongs to the cache kmalloc-1k of size 1024",
		"==================================================================",
	)
	r := oops.ParseFirst(log)
	assert.Assert(t, r != nil && r.KASAN != nil)
	text, err := s.Report(r)
	assert.ErrorIs(t, err, ErrUnknown) // nobody
	assert.ErrorContains(t, err, "nobody")

	inner, outer := source(t, "include/inl.h", "", `sink("inner")`), source(t, "include/inl.h", "", "inner(x * 3)")
	callA, callB := source(t, "fs/a.c", "a_entry", "outer(x);"), source(t, "fs/b.c", "b_entry", "outer(x + 1)")
	startA, startB := source(t, "init/main.c", "_start", "a_entry"), source(t, "init/main.c", "_start", "b_entry")
	want := string(log)
	stack := func(sym, pos string, inlined ...string) {
		t.Helper()
		for _, lead := range []string{"] ", "]  ", "]  ? "} {
			old := lead + sym + "\n"
			i := strings.Index(want, old)
			if i < 0 {
				continue
			}
			p := want[strings.LastIndexByte(want[:i], '\n')+1 : i+len(lead)]
			var in strings.Builder
			for n, l := range inlined {
				if n > 0 {
					in.WriteString(p)
				}
				in.WriteString(l + " [inline]\n")
			}
			if len(inlined) > 0 {
				in.WriteString(p)
			}
			want = want[:i+len(lead)] + in.String() + sym + " " + pos + want[i+len(lead)+len(sym):]
			return
		}
		t.Fatalf("no line with %s", sym)
	}
	chain := []string{fmt.Sprintf("inner include/inl.h:%d", inner), fmt.Sprintf("outer include/inl.h:%d", outer)}
	want = strings.Replace(want, "in "+a.text(inA), fmt.Sprintf("in %s fs/a.c:%d", a.text(inA), callA), 1)
	stack(a.text(inA), fmt.Sprintf("fs/a.c:%d", callA), chain...)
	stack(b.text(inB), fmt.Sprintf("fs/b.c:%d", callB), chain...) // "?"
	stack(b.text(inB), fmt.Sprintf("fs/b.c:%d", callB), chain...) // allocated
	stack(start.text(retA), fmt.Sprintf("init/main.c:%d", startA))
	stack(start.text(retB), fmt.Sprintf("init/main.c:%d", startB))
	stack(start.text(retB), fmt.Sprintf("init/main.c:%d", startB))
	stack(dup.text(calls(t, vmlinux, dup, "sink")[1]), fmt.Sprintf("fs/b.c:%d", source(t, "fs/b.c", "", "dup of b again")))
	lo := bytes.Index(log, r.Raw)
	assert.Assert(t, lo >= 0)
	end := len(log) - lo - len(r.Raw)
	assert.Equal(t, string(text), want[lo:len(want)-end])

	// The frames say the same.
	line := func(f oops.Frame) string {
		s := fmt.Sprintf("%s %s:%d", f.Func, f.File, f.Line)
		if f.Inline {
			s += " [inline]"
		}
		if f.Unreliable {
			s = "? " + s
		}
		return s
	}
	all := func(frames []oops.Frame) (out []string) {
		for _, f := range frames {
			out = append(out, line(f))
		}
		return out
	}
	assert.DeepEqual(t, all(r.Stack), []string{
		chain[0] + " [inline]", chain[1] + " [inline]", fmt.Sprintf("a_entry fs/a.c:%d", callA),
		"? " + chain[0] + " [inline]", "? " + chain[1] + " [inline]", fmt.Sprintf("? b_entry fs/b.c:%d", callB),
		"? b_entry :0", // a pointer to what follows b_entry
		fmt.Sprintf("_start init/main.c:%d", startA),
		"nobody :0",
	})
	assert.DeepEqual(t, all(r.KASAN.Alloc), []string{
		chain[0] + " [inline]", chain[1] + " [inline]", fmt.Sprintf("b_entry fs/b.c:%d", callB), fmt.Sprintf("_start init/main.c:%d", startB)})
	assert.DeepEqual(t, all(r.KASAN.Free), []string{
		fmt.Sprintf("dup fs/b.c:%d", source(t, "fs/b.c", "", "dup of b again")), fmt.Sprintf("_start init/main.c:%d", startB)})

	// Package oops reads the text back: the same bug, with positions.
	again := oops.ParseFirst(text)
	assert.Equal(t, again.Title, r.Title)
	assert.Equal(t, again.Fingerprint, r.Fingerprint)
	assert.DeepEqual(t, all(again.KASAN.Alloc), all(r.KASAN.Alloc))

	// What has positions is left alone.
	twice, _ := s.Report(again)
	assert.Equal(t, string(twice), string(again.Raw))
	before := all(r.Stack)
	_, _ = s.Report(r)
	assert.DeepEqual(t, all(r.Stack), before)
}

// TestExactAddresses: which addresses of a report are not return addresses.
func TestExactAddresses(t *testing.T) {
	vmlinux := build(t)
	s := open(t, vmlinux)
	a, b := s.sym(t, "dup", "fs/a.c"), s.sym(t, "dup", "fs/b.c")
	off, offB := calls(t, vmlinux, a, "sink")[0], calls(t, vmlinux, b, "sink")[0]
	at := func(y symbol, off uint64, ret bool) string {
		pos, err := s.Frame(y.frame(off), ret)
		assert.NilError(t, err)
		p := pos[len(pos)-1]
		return fmt.Sprintf("%s %s:%d", y.text(off), p.File, p.Line)
	}
	exact, ret := at(a, off, false), at(a, off, true)
	exactB, retB := at(b, offB, false), at(b, offB, true)
	assert.Assert(t, exact != ret && exactB != retB)
	sym, symB := a.text(off), b.text(offB)
	for _, row := range []struct {
		name string
		text string
		want []string // positions of the symbols, in order
	}{
		{"rip", "RIP: 0010:" + sym + "\nCall Trace:\n " + symB, []string{exact, retB}},
		{"rip with address", "RIP: 0010:[<ffffffff81000123>] " + sym, []string{exact}},
		{"arm64 pc", "pc : " + sym + "\nlr : " + symB, []string{exact, retB}},
		{"arm64 trace begins at pc", "pc : " + sym + "\nlr : " + symB + "\nCall trace:\n " + sym + "\n " + symB, []string{exact, retB, exact, retB}},
		{"recursion", "RIP: 0010:" + symB + "\nCall Trace:\n <TASK>\n " + sym + "\n " + symB, []string{exactB, ret, retB}},
		{"arm64 marks", "Call trace:\n " + sym + " (P)\n " + symB + " (L)\n " + sym, []string{exact, retB, ret}},
		{"interrupted", "Allocated by task 1:\n asm_exc_page_fault+0x26/0x30\n " + sym + "\n " + symB, []string{exact, retB}},
		{"interrupted, shown by registers", "Call Trace:\n <IRQ>\n asm_sysvec_apic_timer_interrupt+0x1a/0x20\n </IRQ>\n <TASK>\nRIP: 0010:" + sym + "\n " + symB, []string{exact, retB}},
		{"interrupted, no registers", "Call Trace:\n asm_exc_page_fault+0x26/0x30\n </IRQ>\n <TASK>\n " + sym + "\n " + symB, []string{exact, retB}},
		{"unreliable interrupted", "RIP: 0010:" + sym + "\nCall Trace:\n ? asm_exc_page_fault+0x26/0x30\n ? " + sym + "\n " + symB, []string{exact, exact, retB}},
		{"new stack", "Freed by task 1:\n asm_exc_page_fault+0x26/0x30\nLast potentially related work creation:\n " + sym, []string{ret}},
		{"held lock", " #0: ffffffff82a0 (&l){+.+.}-{3:3}, at: " + sym, []string{ret}},
	} {
		t.Run(row.name, func(t *testing.T) {
			text, err := s.Report(&oops.Report{Raw: []byte(row.text + "\n")})
			if !errors.Is(err, ErrUnknown) {
				assert.NilError(t, err)
			}
			var got []string
			for _, l := range strings.Split(string(text), "\n") {
				for _, y := range []string{sym, symB} {
					if i := strings.Index(l, y+" "); i >= 0 {
						f := strings.Fields(l[i:])
						got = append(got, f[0]+" "+f[1])
					}
				}
			}
			assert.DeepEqual(t, got, row.want)
		})
	}
}

func TestBareAddresses(t *testing.T) {
	vmlinux := build(t)
	s := open(t, vmlinux)
	a := s.sym(t, "a_entry", "")
	off := calls(t, vmlinux, a, "sink")[0]
	pos, err := s.Frame(a.frame(off), true)
	assert.NilError(t, err)
	last := pos[len(pos)-1]
	want := fmt.Sprintf("0x%016x %s %s:%d\n", a.addr+off+0x5000, a.text(off), last.File, last.Line)
	raw := fmt.Sprintf("[    1.0][T1]  0x%016x\n", a.addr+off+0x5000)

	text, err := s.Report(&oops.Report{Raw: []byte("Call Trace:\n" + raw)})
	assert.ErrorIs(t, err, ErrNoOffset)
	assert.Equal(t, string(text), "Call Trace:\n"+raw)

	for _, line := range []string{
		"Kernel Offset: 0x5000 from 0xffffffff81000000 (relocation range: 0xffffffff80000000-0xffffffffbfffffff)",
		fmt.Sprintf(" [<%016x>] %s", a.addr+1+0x5000, a.text(1)), // a named frame gives it away
	} {
		r := &oops.Report{Raw: []byte("Call Trace:\n" + raw + line + "\n"), Stack: []oops.Frame{{Addr: a.addr + off + 0x5000, Raw: strings.TrimSpace(raw[14:])}}}
		text, err = s.Report(r)
		assert.NilError(t, err)
		assert.Assert(t, strings.Contains(string(text), want), "%s", text)
		assert.Equal(t, len(r.Stack), 3)
		assert.Equal(t, r.Stack[2].Func, "a_entry")
		assert.Equal(t, r.Stack[2].Offset, off)
	}
	// "disabled" is 0, and the log counts more than what was set.
	s.SetOffset(0x5000)
	text, err = s.Report(&oops.Report{Raw: []byte("Call Trace:\n" + raw + "Kernel Offset: disabled\n")})
	assert.ErrorIs(t, err, ErrUnknown)
	assert.Assert(t, !strings.Contains(string(text), "a_entry"))
	text, err = s.Report(&oops.Report{Raw: []byte("Call Trace:\n" + raw)})
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(text), want), "%s", text)
}

func TestAmbiguousText(t *testing.T) {
	s := open(t, build(t))
	y := s.sym(t, "twin", "fs/a.c")
	r := &oops.Report{Raw: []byte("Call Trace:\r\n \x1b[31m" + y.text(1) + "\x1b[0m\r\n"), Stack: []oops.Frame{y.frame(1)}}
	text, err := s.Report(r)
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(text), y.text(1)+" (twin is ambiguous: fs/a.c:"), "%s", text)
	assert.Assert(t, strings.Contains(string(text), " or fs/b.c:"))
	assert.Equal(t, r.Stack[0].File, "") // no guess
}

// TestMentions: outside of stacks a line stays one line.
func TestMentions(t *testing.T) {
	vmlinux := build(t)
	s := open(t, vmlinux)
	a := s.sym(t, "a_entry", "")
	sym := a.text(calls(t, vmlinux, a, "sink")[0])
	for lead, inlined := range map[string]int{
		"[    1.000000] ": 2, "[    1.000000][   T42]  ? ": 2, "Jan  2 03:04:05 host kernel:  ": 2, "<4> ": 2, " [<ffffffff81000123>] ": 2,
		"[    1.000000] RIP: 0010:": 2, "[    1.000000] BUG: KASAN: slab-out-of-bounds in ": 0,
		"[    1.000000] hardirqs last  enabled at (123): [<ffffffff81000123>] ": 0, "#0: (&l){+.+.}-{3:3}, at: ": 0, "Workqueue: events ": 0,
	} {
		text, err := s.Report(&oops.Report{Raw: []byte(lead + sym + "\n")})
		assert.NilError(t, err)
		assert.Equal(t, bytes.Count(text, []byte(" [inline]\n")), inlined, "%s", text)
		assert.Assert(t, bytes.Contains(text, []byte(sym+" fs/a.c:")), "%s", text)
	}
}

func TestLineEnds(t *testing.T) {
	s := open(t, build(t))
	a := s.sym(t, "a_entry", "")
	for _, row := range []struct{ raw, want string }{
		{" \x1b[31m" + a.text(0) + "\x1b[0m\r\n", "\x1b[0m\r\n"},
		{" " + a.text(0), ""},
		{"\r\r\n\n " + a.text(0) + "\r\r\n\x00\n", "\r\r\n\x00\n"},
		{" (" + a.text(0) + ")\n", "\n"},
	} {
		text, err := s.Report(&oops.Report{Raw: []byte(row.raw)})
		assert.NilError(t, err)
		i := bytes.Index(text, []byte(" fs/a.c:"))
		assert.Assert(t, i > 0, "%q", text)
		rest := strings.TrimLeft(string(text[i+len(" fs/a.c:"):]), "0123456789")
		assert.Equal(t, rest, row.want)
	}
}

// hostile are logs that want to break something.
func hostile(a symbol) []string {
	long := strings.Repeat("A", 4000)
	return []string{
		" a_entry+0xffffffffffffffff/0xffffffffffffffff\n",
		" a_entry+0xffffffffffffffff/0x0\n",
		" a_entry+0x0/0x0\n a_entry+0xffffffffffffff/0x0\n",
		fmt.Sprintf(" a_entry+0xffffffffffffffff/%#x\n", a.size),
		fmt.Sprintf(" [<ffffffffffffffff>] a_entry+%#x/%#x\n", a.size, a.size),
		" a_entry+0xfffffffffffffffffffffff/0x1\n",
		" --exe=/etc/passwd+0x1/0x2\n -e+0x1/0x2 [-j]\n $(reboot)+0x1/0x2\n",
		" f+0x1/0x2 [../../../../etc/passwd]\n f+0x1/0x2 [..]\n f+0x1/0x2 [/]\n",
		" f+0x1/0x2 [m aabbccdd]\n f+0x1/0x2 [m ../../../..]\n",
		" " + long + "+0x1/0x2\n",
		strings.Repeat("a_entry+0x1/0x2 ", 300) + "\n",
		"Kernel Offset: 0xffffffffffffffff from 0x0\n 0xffffffffffffffff\n 0x0000000000000000\n",
		fmt.Sprintf("Kernel Offset: disabled\n 0x%016x\n", a.addr),
		"CPU: 0 PID: 1 Comm: x Not tainted 6.99.0-test #1 " + strings.Repeat("f", 40) + "\n",
		strings.Repeat(" "+a.text(1)+"\n", 3000),
		"\xff\xfe\x00 a_entry+0x1/0x2 \xff\n",
		" ? __pfx_" + a.text(a.size) + "\n",
		"\n\n\r\n",
		"",
	}
}

func TestHostile(t *testing.T) {
	s := open(t, build(t), t.TempDir())
	a := s.sym(t, "a_entry", "")
	for _, raw := range hostile(a) {
		s.SetOffset(0)
		r := &oops.Report{Raw: []byte(raw), Stack: []oops.Frame{
			{Func: "a_entry", Offset: ^uint64(0)}, {Func: "a_entry", Offset: 1, Size: ^uint64(0)}, {Addr: ^uint64(0)}, {}, {Raw: raw, Func: "-x", Module: "../x"},
		}}
		text, err := s.Report(r)
		if err == nil {
			assert.Assert(t, len(text) >= len(raw))
		}
		assert.Assert(t, len(text) <= 2*len(raw)+maxText+4096, "%d bytes from %d", len(text), len(raw))
		for _, f := range r.Stack[:min(5, len(r.Stack))] {
			assert.Equal(t, f.File, "", "%+v", f)
		}
	}
}

func FuzzReport(f *testing.F) {
	s := open(f, build(f))
	var a symbol
	for _, i := range s.kernel.byName["a_entry"] {
		a = s.kernel.byAddr[i]
	}
	for _, h := range hostile(a) {
		if len(h) < 10000 {
			f.Add([]byte(h))
		}
	}
	f.Add([]byte("RIP: 0010:" + a.text(3) + "\nCall Trace:\n <TASK>\n ? " + a.text(9) + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		text, err := s.Report(&oops.Report{Raw: raw})
		if err != nil && errors.Is(err, ErrOtherBuild) {
			return
		}
		if len(text) < len(raw) || len(text) > 2*len(raw)+maxText+4096 {
			t.Fatalf("%d bytes from %d", len(text), len(raw))
		}
		// What was added can be taken out again.
		if bytes.Count(text, []byte("\n")) < bytes.Count(raw, []byte("\n")) {
			t.Fatal("lines got lost")
		}
		for _, r := range oops.Parse(raw) {
			_, _ = s.Report(r)
		}
	})
}
