package oops

import (
	"strings"
)

// sectionKind says which stack of a report a section is.
type sectionKind int

const (
	secHead   sectionKind = iota // frames right after the report's first line
	secTrace                     // "Call Trace:", "Backtrace:"
	secAlloc                     // where the object was allocated
	secFree                      // where it was freed
	secWork                      // where the last work on it was queued
	secOrigin                    // KMSAN: where the value came from
	secPage                      // page_owner: where the page came from
	secLock                      // lockdep: where a lock was taken earlier
	secRace                      // KCSAN: one side of the race
	secLeak                      // kmemleak: where the lost object was allocated
	secOther                     // between stacks
)

// section is one stack of a report.
type section struct {
	kind   sectionKind
	label  string
	line   int // index of the header's line
	frames []Frame
	at     []int // the frames' lines
	// irq is the number of frames that belong to the interrupt or exception which
	// printed the stack; 0 when none are known to.
	irq int
	// pc is where the CPU was, from the register dump before the stack.
	pc *Frame
	// nmi is set for stacks taken by an NMI on another CPU.
	nmi bool
}

// body is a report's text cut into stacks.
type body struct {
	lines    []string
	sections []section
	// opened says that "[ cut here ]" stood before the first line.
	opened bool
	// cut says that another report begins before the stack came to its end.
	cut bool
	// pc is the first program counter in the report.
	pc *Frame
}

// headers recognise the beginning of a stack; the first that fits wins.
var headers = []struct {
	re   *lazyRE
	kind sectionKind
}{
	{compile(`^[\s0-9a-f]*(?:Call [Tt]race:|Backtrace:)`), secTrace}, // behind words of the stack that ended no line
	{compile(`^\s*NMI backtrace for cpu`), secTrace},
	{compile(`^\s*stack backtrace:`), secOther},
	{compile(`^\s*backtrace(?: \(.*\))?:`), secLeak},
	{compile(`^\s*(?:kfence-#\d+ .*)?\b[Aa]llocated(?: by task .*| by .*|):?$|^\s*kfence-#\d+ .* allocated by`), secAlloc},
	{compile(`^\s*(?:Freed(?: by task .*|):?$|freed by task|kfence-#\d+ .* freed by)`), secFree},
	{compile(`^\s*(?:(?:Second to l|L)ast potentially related work creation:|Last call_rcu|Aux )`), secWork},
	{compile(`^\s*(?:Uninit was |Local variable |Memory was marked as uninit|origin:|chained origin|origin description)`), secOrigin},
	{compile(`^\s*page last (?:allocated|free)`), secPage},
	{compile(`^\s*-> #\d+ |^\s*\.\.\. which became |became (?:HARD|SOFT)IRQ|state was registered at:|^\s*\.\.\.\s*(?:acquired|key) +at:|^\s*hardirqs last|^\s*softirqs last`), secLock},
	{compile(`^\s*(?:race at unknown origin|(?:(?:assert no|read-write|read|write|marked|interrupt).*\bto 0x[0-9a-f]+ of \d+ bytes by))`), secRace},
}

var (
	eoiRe = compile(`^\s*(?:</IRQ>|<EOI>|</NMI>|<<EOE>>|</SOFTIRQ>)`)
	// irqEntry matches the functions through which an interrupt enters.
	irqEntry = compile(`apic_timer_interrupt|^(?:asm_)?(?:__)?(?:sysvec|common_interrupt)|^ret_from_intr|^el[01]_irq|^el[01][ht]?_64_irq$|^__irq_(?:svc|usr)|^do_IRQ$|^reschedule_interrupt|^call_function(?:_single)?_interrupt|^handle_riscv_irq|^do_irq$|^do_vint$|^handle_int$|^tl0_irq|^timer_interrupt|^ext_int_handler|^hardware_interrupt_common|^decrementer_common|^retint_|^xen_hvm_callback`)
)

// frameLook is a cheap test that rules out most lines.
func frameLook(s string) bool {
	return strings.Contains(s, "+0x") || strings.Contains(s, "[inline]") || strings.Contains(s, "] (") ||
		strings.HasPrefix(strings.TrimSpace(s), "0x") || strings.Contains(s, " from ") || inlinedLook(s)
}

// parseBody cuts a report into stacks. lines[0] is the report's first line.
func parseBody(lines []string) *body {
	b := &body{lines: lines, sections: []section{{kind: secHead}}}
	var pc *Frame // seen since the last stack
	nmi := false
	// After its end mark an oops repeats the registers of the first oops since
	// boot (oops_end in arch/x86/kernel/dumpstack.c), which may be another one:
	// that must not stand in for a program counter that was nowhere.
	nowhere, ended := false, false
	for i, text := range lines {
		if i == 0 {
			continue
		}
		cur := &b.sections[len(b.sections)-1]
		if kind, ok := headerOf(text); ok {
			b.open(kind, text, i)
			cur = &b.sections[len(b.sections)-1]
			if strings.Contains(text, "NMI backtrace") {
				nmi, pc = true, nil
			}
			if kind == secTrace {
				cur.pc, cur.nmi = pc, nmi
				if strings.Contains(text, "Call ") {
					nmi, pc = false, nil
				}
			}
			continue
		}
		if strings.HasPrefix(text, "---[ end") || strings.HasPrefix(text, "====================") {
			if i > 3 {
				b.open(secOther, "", i)
				ended = ended || strings.HasPrefix(text, "---[ end")
			}
			continue
		}
		if cur.kind == secTrace && cur.irq == 0 && strings.Contains(text, "<") && eoiRe.MatchString(text) {
			cur.irq = len(cur.frames)
		}
		if strings.Contains(text, "IP: 00") && userPCRe.MatchString(text) {
			b.open(secOther, "", i)
			continue
		}
		nowhere = nowhere || strings.Contains(text, "RIP: 0010:0x")
		if f, ok := parsePC(text); ok {
			if b.pc == nil && (!nowhere || !ended) {
				b.pc = &f
			}
			if cur.kind == secTrace && len(cur.frames) > 0 {
				if cur.irq == 0 {
					cur.irq = len(cur.frames)
				}
				cur.frames = append(cur.frames, f)
				cur.at = append(cur.at, i)
			} else {
				pc = &f
				if cur.kind == secTrace {
					cur.pc = &f
				}
			}
			continue
		}
		if !frameLook(text) {
			continue
		}
		frames, ok := parseFrame(text)
		if !ok {
			continue
		}
		if cur.kind == secHead && (pc != nil || len(frames) == 2) {
			// A stack without a heading: riscv's after the registers of a warning
			// (show_regs in arch/riscv/kernel/process.c), arm's of a log that lost it.
			b.open(secTrace, "", i-1)
			cur = &b.sections[len(b.sections)-1]
			cur.pc, pc = pc, nil
		}
		cur.add(frames, i)
	}
	return b
}

func headerOf(text string) (sectionKind, bool) {
	if strings.Contains(text, "+0x") && !strings.Contains(text, "last ") {
		return 0, false
	}
	if !headerLook(text) {
		return 0, false
	}
	for _, h := range headers {
		if h.re.MatchString(text) {
			return h.kind, true
		}
	}
	return 0, false
}

func (b *body) open(kind sectionKind, label string, at int) {
	b.sections = append(b.sections, section{kind: kind, label: strings.TrimSpace(label), line: at})
}

// add appends frames; of arm's callee and caller only what is new.
func (s *section) add(frames []Frame, at int) {
	if len(frames) == 2 {
		if n := len(s.frames); n > 0 && s.frames[n-1].Func == frames[0].Func {
			frames = frames[1:]
		}
	}
	for _, f := range frames {
		s.frames = append(s.frames, f)
		s.at = append(s.at, at)
		if s.kind == secTrace && s.irq == 0 && !f.Unreliable && irqEntry.MatchString(f.Func) {
			s.irq = len(s.frames)
		}
	}
}

// first returns the first section of a kind that holds frames.
func (b *body) first(kind sectionKind) *section {
	for i := range b.sections {
		if s := &b.sections[i]; s.kind == kind && len(s.frames) > 0 {
			return s
		}
	}
	return nil
}

// has reports whether there is a section of a kind, empty or not.
func (b *body) has(kind sectionKind) bool {
	for _, s := range b.sections {
		if s.kind == kind {
			return true
		}
	}
	return false
}

// trace returns the stack of the crash: the first there is. It is nil if that
// one is empty, for the next stack belongs to something else.
func (b *body) trace() *section {
	for i := range b.sections {
		s := &b.sections[i]
		if s.kind != secTrace || s.nmi && len(s.frames) == 0 {
			continue
		}
		if len(s.frames) == 0 {
			return nil
		}
		return s
	}
	return nil
}

// reliable returns the frames that may be blamed: certain, named, not inlined.
func reliable(frames []Frame) []Frame {
	var out []Frame
	for _, f := range frames {
		if f.Func != "" && !f.Unreliable && !f.Inline {
			out = append(out, f)
		}
	}
	return out
}
