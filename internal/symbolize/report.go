// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/internal/oops"
)

const (
	// maxText bounds what is added to a report's text; further lines stay raw.
	maxText = 1 << 20
	// maxFrames bounds the frames inserted into a report's stacks.
	maxFrames = 1 << 14
	// maxProblems bounds the distinct reasons returned for raw frames.
	maxProblems = 8
)

var (
	// symRe is what %pS, %pB and their relatives print (lib/vsprintf.c,
	// kernel/kallsyms.c): func+0x1/0x2 [module build-id].
	symRe = lazy(`([A-Za-z_$<][\w.$<>:@]*)\+0x([0-9a-f]{1,16})/0x([0-9a-f]{1,16})(?:\s+\[([\w\-]+)(?:[ (]([^\]]*))?\])?`)
	// addrRe is a line with a bare address instead: no symbol covers it, or the
	// kernel has no CONFIG_KALLSYMS.
	addrRe = lazy(`0x([0-9a-f]{16})\s*$`)
	// stackRe is what stands before the symbol on a line of a stack: nothing, or
	// the end of a log prefix, then perhaps an address and a question mark.
	stackRe = lazy(`(?:^|[^>]\]|\bkernel:|<\d>)\s*(?:\(?\[<?[0-9a-f]{8,16}>?\]\)?\s*)*(\? )?\(?$`)
	// pcRe is what stands before the program counter of a register dump.
	pcRe = lazy(`(?:RIP: 00[01][0-9a-f]:|RIP: e0[0-9a-f]{2}:|\bpc : |\bepc : |\bera : |\bPC is at )(?:\[?<?[0-9a-f]{8,16}>?\]?\s*)?$`)
	// printedRe is an address printed beside its symbol.
	printedRe = lazy(`\[<?([0-9a-f]{8,16})>?\]\)?\s*(?:\? )?\(?$`)
	// positionRe is a position that is there already.
	positionRe = lazy(`^\)?\s*\S+\.[A-Za-z]+:\d+`)
	// sourceRe says where arm64 found the address; P is the program counter of an
	// exception (arch/arm64/kernel/stacktrace.c).
	sourceRe = lazy(`^ \([A-Z]*P[A-Z]*\)`)
	// tagRe are lines between frames that belong to the same stack.
	tagRe   = lazy(`</?(?:TASK|IRQ|NMI|SOFTIRQ|EOI|<EOE>|[#A-Z]+)>\s*$`)
	traceRe = lazy(`(?i)\bcall trace:`)
	// entryRe are the functions below which the interrupted code is, whose address
	// is exact (arch/x86/entry/entry_64.S, arch/arm64/kernel/entry.S).
	entryRe = lazy(`^(?:asm_(?:exc|sysvec|common_interrupt|spurious)\w*|el1[ht]?_(?:64_)?(?:sync|irq|fiq|error|dbg)|__el1_irq|apic_timer_interrupt|reschedule_interrupt|call_function(?:_single)?_interrupt|common_interrupt|ret_from_intr|page_fault|general_protection|divide_error|invalid_op|double_fault)$`)

	offsetRe = lazy(`Kernel Offset: (disabled|0x([0-9a-f]{1,16}))`)
	// cpuRe is the line of dump_stack_print_info (lib/dump_stack.c) with the
	// vmlinux's build-id, which CONFIG_STACKTRACE_BUILD_ID adds.
	cpuRe = lazy(`\bCPU: \d+ .*\bComm: .* ([0-9a-f]{40})\s*$`)
	hexRe = lazy(`^[0-9a-f]{8,64}$`)
)

// lineKind is what a symbol's line is part of.
type lineKind int

const (
	inText  lineKind = iota // in the middle of other text
	inStack                 // a stack
	inPC                    // the program counter of a register dump
)

// match is a symbol, or a bare address, found on a line.
type match struct {
	frame      oops.Frame
	modID      string
	start, end int // of the symbol in the line, module included
	kind       lineKind
	done       bool // a position follows
	pc         bool // arm64 says that it is a program counter
}

// key identifies the place a match means.
func (m *match) key() string {
	return fmt.Sprintf("%s+%x/%x", m.frame.Func, m.frame.Offset, m.frame.Size)
}

// parse finds the first symbol of a line, or the bare address.
func parse(text string) (match, bool) {
	if !strings.Contains(text, "0x") {
		return match{}, false
	}
	text = mask(text)
	i := symRe().FindStringSubmatchIndex(text)
	if i == nil {
		i = addrRe().FindStringSubmatchIndex(text)
		if i == nil {
			return match{}, false
		}
		m := match{start: i[0], end: i[3]}
		m.frame.Addr = hexNum(text[i[2]:i[3]])
		m.classify(text[:m.start])
		return m, m.kind != inText
	}
	m := match{start: i[0], end: i[1]}
	m.frame.Func, m.frame.Offset, m.frame.Size = text[i[2]:i[3]], hexNum(text[i[4]:i[5]]), hexNum(text[i[6]:i[7]])
	if i[8] >= 0 {
		m.frame.Module = text[i[8]:i[9]]
		if i[10] >= 0 {
			for _, w := range strings.Fields(text[i[10]:i[11]]) {
				if hexRe().MatchString(w) {
					m.modID = w
				}
			}
		}
	}
	before, after := text[:m.start], text[m.end:]
	m.classify(before)
	if p := printedRe().FindStringSubmatch(before); p != nil {
		m.frame.Addr = hexNum(p[1])
	}
	m.pc = sourceRe().MatchString(after)
	m.done = positionRe().MatchString(after)
	if strings.HasPrefix(after, ")") {
		m.end++
	}
	return m, true
}

// escapeRe are the terminal's colours, and other control characters.
var escapeRe = lazy(`\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0a-\x1f\x7f]`)

// mask blanks out what is not text, so that offsets stay what they are.
func mask(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return text
	}
	return escapeRe().ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat(" ", len(s)) })
}

// stray reports whether the unwinder stumbled over a pointer to what follows
// the function named, which is then not concerned.
func (m *match) stray() bool {
	return m.frame.Unreliable && m.frame.Offset == m.frame.Size && m.frame.Size > 0 && !strings.HasPrefix(m.frame.Func, "__pfx_")
}

func (m *match) classify(before string) {
	if pcRe().MatchString(before) {
		m.kind = inPC
	} else if p := stackRe().FindStringSubmatch(before); p != nil {
		m.kind, m.frame.Unreliable = inStack, p[1] != ""
	}
}

// hexNum reads a number of at most 16 digits.
func hexNum(s string) uint64 {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0
	}
	return n
}

// moduleID is the module's build-id in a frame's text, "" if there is none.
func moduleID(raw, module string) string {
	if module == "" {
		return ""
	}
	if m, ok := parse(raw); ok && m.frame.Module == module {
		return m.modID
	}
	return ""
}

// context is what is known of the lines before one.
type context struct {
	pcs   map[string]bool // keys of all program counters in the report
	prev  string          // the function of the frame before, "" if none
	first bool            // the next frame is the first of a trace
}

// isReturn reports whether m's address is a return address, and notes m.
//
// What a stack holds are return addresses, with these exceptions: the program
// counter of a register dump; the frame below an exception's or interrupt's
// entry, which was interrupted and called nobody; the first frame of a trace
// that starts at the program counter (arm64); pointers to functions that the
// unwinder stumbled over, which it prints relative to the padding before the
// function (__pfx_func+0x10/0x10).
func (c *context) isReturn(m *match) bool {
	exact := m.kind == inPC || m.pc ||
		entryRe().MatchString(c.prev) && m.kind == inStack ||
		(c.first || m.frame.Unreliable) && c.pcs[m.key()] ||
		strings.HasPrefix(m.frame.Func, "__pfx_") || strings.HasPrefix(m.frame.Func, "__cfi_")
	c.prev, c.first = m.frame.Func, false
	if m.kind == inPC {
		c.prev = ""
	}
	return !exact
}

// skip notes a line without a symbol.
func (c *context) skip(text string) {
	switch {
	case traceRe().MatchString(text):
		c.prev, c.first = "", true
	case !tagRe().MatchString(text):
		c.prev = ""
	}
}

// task is the work on one report.
type task struct {
	s        *Symbolizer
	offset   *uint64
	pcs      map[string]bool
	problems []error
	added    int
}

// Check returns an [*Error] of kind [ErrOtherBuild] if r says that it is of
// another kernel than the one opened: by the build-id, which it carries when the
// kernel has CONFIG_STACKTRACE_BUILD_ID, else by the release.
func (s *Symbolizer) Check(r *oops.Report) error {
	for line := range lines(r.Raw) {
		if m := cpuRe().FindStringSubmatch(strings.TrimRight(string(line), "\r\n")); m != nil {
			// The kernel prints 20 bytes, whatever the length.
			if n := len(s.BuildID()); n > 0 && n < len(m[1]) && strings.Trim(m[1][n:], "0") == "" {
				m[1] = m[1][:n]
			}
			return s.CheckBuildID(m[1])
		}
	}
	have := ""
	if f := strings.Fields(s.Banner()); len(f) > 2 {
		have = f[2]
	}
	if have != "" && r.Kernel != "" && r.Kernel != have {
		return &Error{Path: s.kernel.path, Kind: ErrOtherBuild,
			Detail: fmt.Sprintf("is of another build: it is release %s (build-id %s), the kernel that ran was %s", have, orNone(s.BuildID()), clip(r.Kernel)),
			Cure:   "give the vmlinux of the kernel that ran"}
	}
	return nil
}

// Report fills in File and Line of r's stacks (Stack, and KASAN's allocation,
// free and last work), inserts the functions inlined there (Inline is set, Raw
// is empty), and names the function of bare addresses. Frames that are not found
// stay as they are, and so do those that have a position already.
//
// It returns r's text with " file:line" behind the symbols of stacks and program
// counters, and a line "func file:line [inline]" before them for each function
// inlined: the form the kernel's public dashboards use, which package oops reads
// back. Where the text mentions a symbol elsewhere only the position is added. A
// function that several places could mean is marked as ambiguous. The text keeps
// the log's control characters.
//
// The error is of kind [ErrOtherBuild] if [Symbolizer.Check] refuses r, which is
// then unchanged and its text raw. Other errors join the distinct reasons why
// frames stayed raw; r and the text hold all that was found.
func (s *Symbolizer) Report(r *oops.Report) (text []byte, err error) {
	if err := s.Check(r); err != nil {
		return r.Raw, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &task{s: s, offset: s.offset, pcs: map[string]bool{}}
	t.survey(r)
	text = t.text(r.Raw)
	r.Stack = t.stack(r.Stack)
	if k := r.KASAN; k != nil {
		k.Alloc, k.Free, k.LastWork = t.stack(k.Alloc), t.stack(k.Free), t.stack(k.LastWork)
	}
	return text, errors.Join(t.problems...)
}

// lines yields the lines of b with their ends.
func lines(b []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := bytes.IndexByte(b, '\n') + 1
			if n == 0 {
				n = len(b)
			}
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// survey finds the program counters and the KASLR offset.
func (t *task) survey(r *oops.Report) {
	var derived *uint64
	for line := range lines(r.Raw) {
		text := string(line)
		if m := offsetRe().FindStringSubmatch(text); m != nil {
			n := hexNum(m[2]) // 0 for "disabled"
			t.offset = &n
		}
		m, ok := parse(text)
		if !ok || m.frame.Func == "" {
			continue
		}
		if m.kind == inPC {
			t.pcs[m.key()] = true
		}
		if derived == nil && m.frame.Addr != 0 && m.frame.Module == "" {
			if fits, err := t.s.kernel.find(m.frame.Func, m.frame.Offset, m.frame.Size); err == nil && len(fits) == 1 {
				// KASLR moves by whole pages; another difference means a lie.
				if n := m.frame.Addr - fits[0].addr - m.frame.Offset; n&0xfff == 0 {
					derived = &n
				}
			}
		}
	}
	if t.offset == nil {
		t.offset = derived
	}
}

// resolve finds the positions of m. For a bare address it also fills in the
// function.
func (t *task) resolve(m *match, ret bool) ([]Position, error) {
	if m.frame.Func != "" {
		return t.s.frame(m.frame, m.modID, t.offset, ret)
	}
	if t.offset == nil {
		return nil, fmt.Errorf("bare addresses: %w", ErrNoOffset)
	}
	loc, err := t.s.addr(m.frame.Addr-*t.offset, ret)
	if loc != nil {
		m.frame.Func, m.frame.Offset, m.frame.Size = loc.Func, loc.Offset, loc.Size
		return loc.Positions, err
	}
	return nil, err
}

// problem keeps the reasons that the user can do something about.
func (t *task) problem(err error) {
	if len(t.problems) >= maxProblems || errors.Is(err, ErrAmbiguous) {
		return
	}
	if slices.ContainsFunc(t.problems, func(p error) bool { return p.Error() == err.Error() }) {
		return
	}
	var e *Error
	if errors.As(err, &e) || errors.Is(err, ErrNoModule) || errors.Is(err, ErrNoOffset) || errors.Is(err, ErrUnknown) {
		t.problems = append(t.problems, err)
	}
}

// stack returns frames with positions and inlined functions.
func (t *task) stack(frames []oops.Frame) []oops.Frame {
	if len(frames) == 0 || slices.ContainsFunc(frames, func(f oops.Frame) bool { return f.Inline }) {
		return frames // symbolized by somebody else
	}
	out := make([]oops.Frame, 0, len(frames))
	c := context{pcs: t.pcs, first: true}
	for _, f := range frames {
		m, ok := parse(f.Raw)
		if !ok {
			m = match{kind: inStack}
		}
		// The report's fields count; the text says what kind of line it was.
		addr := m.frame.Addr
		m.frame = f
		m.frame.Addr = max(f.Addr, addr)
		ret := c.isReturn(&m)
		if f.File != "" || f.Func == "" && f.Addr == 0 || m.stray() || t.added > maxFrames {
			out = append(out, f)
			continue
		}
		pos, err := t.resolve(&m, ret)
		f.Func, f.Offset, f.Size = m.frame.Func, m.frame.Offset, m.frame.Size
		if err != nil || len(pos) == 0 {
			out = append(out, f)
			continue
		}
		for _, p := range pos[:len(pos)-1] {
			t.added++
			out = append(out, oops.Frame{Func: p.Func, Module: f.Module, Inline: true, Unreliable: f.Unreliable, File: p.File, Line: p.Line})
		}
		last := pos[len(pos)-1]
		f.File, f.Line = last.File, last.Line
		out = append(out, f)
	}
	return out
}

// text returns a report's text with positions.
func (t *task) text(raw []byte) []byte {
	var out bytes.Buffer
	c := context{pcs: t.pcs}
	for line := range lines(raw) {
		body := string(bytes.TrimRight(line, "\r\n"))
		m, ok := parse(body)
		if !ok {
			c.skip(body)
			out.Write(line)
			continue
		}
		ret := c.isReturn(&m)
		if m.done || m.stray() || out.Len() > len(raw)+maxText {
			out.Write(line)
			continue
		}
		bare := m.frame.Func == ""
		pos, err := t.resolve(&m, ret)
		note := ""
		switch {
		case errors.Is(err, ErrAmbiguous):
			note = " (" + err.Error() + ")"
		case err != nil:
			t.problem(err)
		case len(pos) > 0:
			last := pos[len(pos)-1]
			note = fmt.Sprintf(" %s:%d", last.File, last.Line)
		}
		if bare && m.frame.Func != "" {
			note = fmt.Sprintf(" %s+%#x/%#x%s", m.frame.Func, m.frame.Offset, m.frame.Size, note)
		}
		if m.kind != inText && err == nil {
			for i := 0; i+1 < len(pos); i++ {
				fmt.Fprintf(&out, "%s%s %s:%d [inline]%s", body[:m.start], pos[i].Func, pos[i].File, pos[i].Line, line[len(body):])
			}
		}
		out.WriteString(body[:m.end])
		out.WriteString(note)
		out.WriteString(body[m.end:])
		out.Write(line[len(body):])
	}
	return out.Bytes()
}

// lazy compiles an expression at its first use: every test binary that runs in
// an emulated guest links this package, and starts before it needs any.
func lazy(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
