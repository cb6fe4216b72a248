package oops

import (
	"bytes"
	"slices"
	"strings"
)

const (
	// MaxRaw is the most bytes of a report's text that are kept in Raw.
	MaxRaw = 256 << 10
	// bodyLines is how many lines after the first one a row's body may reach.
	bodyLines = 40
	// excuse is how many lines after a stack's heading may say that it is lost.
	excuse = 15
	// maxRegisters bounds the lines of the register dump.
	maxRegisters = 80
)

// analyze makes a report of the lines collected.
func (p *pending) analyze() *Report {
	own := p.texts(false)
	mixed := p.mixedAt > p.first && p.mixedAt-p.first < len(own)
	all := own
	if mixed { // what follows is another report's, or nothing tells the two apart
		own = own[:p.mixedAt-p.first]
	}
	r, f := p.read(own, mixed)
	if mixed && r.Corrupted && stackIn(own) {
		// Its stack had begun: the rest may be behind the other's first lines.
		if whole, g := p.read(all, false); !whole.Corrupted {
			r, f, own, mixed = whole, g, all, false
		}
	}
	if p.dropped() {
		r.corrupt("the console dropped lines of the report")
	}
	if r.Corrupted && f.allContexts && !mixed && len(p.lines) > len(own)+p.first {
		// Other CPUs print parts of this kind of report in their own context.
		if whole, _ := p.read(p.texts(true), false); !whole.Corrupted {
			r = whole
		}
	}
	start := p.lines[p.first]
	r.Start, r.End = p.lines[0].start, p.lines[p.last].end
	r.Context, r.Time = string(start.caller), start.time
	r.Panicked = p.panicked
	r.Raw = p.raw()
	r.Fingerprint = fingerprint(r.Kind, r.Title)
	return r
}

// texts returns the report's lines from its first one on; foreign includes
// those of other contexts.
func (p *pending) texts(foreign bool) []string {
	var out []string
	for i, l := range p.lines[p.first : p.last+1] {
		if !foreign && !p.owns(l.caller) {
			continue
		}
		text := l.text
		if i == 0 {
			text = text[p.pos:]
		}
		out = append(out, text)
	}
	return out
}

func (p *pending) raw() []byte {
	var b bytes.Buffer
	for i, l := range p.lines[:p.last+1] {
		if !p.owns(l.caller) && !p.foreignLines {
			continue
		}
		if i > 0 && l.start == p.lines[i-1].start && bytes.Equal(l.raw, p.lines[i-1].raw) {
			continue // a further message of the same line or record
		}
		if b.Len()+len(l.raw) >= MaxRaw {
			break
		}
		b.Write(l.raw)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// read finds the row that fits the text and fills in the report. mixed says that
// another report begins behind the text.
func (p *pending) read(texts []string, mixed bool) (*Report, *format) {
	head := strings.TrimRight(texts[0], " \t")
	rest := strings.Join(texts[1:min(len(texts), bodyLines)], "\n")
	var f *format
	var groups []string
	for i := range p.oops.formats {
		row := &p.oops.formats[i]
		m := row.start.FindStringSubmatch(head)
		if m == nil {
			continue
		}
		if row.body != nil {
			in := rest
			if strings.Contains(row.title, "locking bug") || row.named > 0 && len(m) <= row.named {
				in = head + "\n" + rest
			}
			mb := row.body.FindStringSubmatch(in)
			if mb == nil {
				continue
			}
			m = append(m, mb[1:]...)
		}
		f, groups = row, m
		break
	}
	if f == nil { // only rows with a body fit the first line, and it is missing
		f = p.oops.format(head)
		groups = []string{"", head}
		f = &format{title: "{1}", cut: true, bucket: f.bucket, allContexts: f.allContexts}
	}
	b := parseBody(texts)
	b.opened = p.first > 0 && !p.dumped
	b.cut = mixed
	r := &Report{CPU: -1, PID: -1}
	named := ""
	if f.named > 0 && f.named < len(groups) {
		named = groups[f.named]
	}
	p.blame(r, f, b, groups, named)
	p.judge(r, f, b)
	facts(r, f, b)
	return r, f
}

// blame fills in the function to blame and the titles.
func (p *pending) blame(r *Report, f *format, b *body, groups []string, named string) {
	fn := ""
	if f.rule != nil {
		fn = f.rule(b, named)
		if fn == "" {
			fn = lost
			r.corrupt("no function to blame in the report")
		} else if why := p.mixed(b, fn); why != "" && (p.dumped || named == "" || symbolName(named) != fn) {
			fn = lost
			r.corrupt(why)
		}
	}
	title, alts := f.title, f.alts
	if fn == lost && f.lost != "" {
		title, alts = f.lost, nil
	}
	plain := plainName(fn)
	if f.bucket {
		plain = titleName(fn)
	}
	r.Frame = plain
	if stampRe.MatchString(expand(title, groups, "")) {
		r.corrupt("the text of another line stands in the title")
	}
	r.Title = stable(expand(title, groups, plain))
	r.Kind = kindOf(r.Title)
	for _, name := range callNames(plain, fn) {
		for _, tmpl := range append([]string{title}, alts...) {
			if t := strings.TrimSpace(expand(tmpl, groups, name)); t != "" && stable(t) != r.Title {
				r.AltTitles = append(r.AltTitles, t)
			}
		}
	}
	slices.Sort(r.AltTitles)
	r.AltTitles = slices.Compact(r.AltTitles)
}

// stampRe matches a time that printk put before another line.
var stampRe = compile(`\[ *\d+\.\d{3,}\]`)

// corrupt marks the report; the first reason stays.
func (r *Report) corrupt(why string) {
	if !r.Corrupted {
		r.Corrupted, r.CorruptedReason = true, why
	}
}

// dumps matches the first line of what a task prints about itself that is no
// bug. Without printk callers its stack cannot be told from the report's.
var dumps = compile(`FAULT_INJECTION: forcing a failure|(?:page|vmalloc:) allocation failure|vmalloc error: size|invoked oom-killer`)

// mixed reports why the stack that blames fn may not belong to the report.
func (p *pending) mixed(b *body, fn string) string {
	if len(p.lines[p.first].caller) > 0 {
		return ""
	}
	at := -1
	if p.dumped {
		at = 0
	}
	for _, l := range p.lines[:p.first] {
		if dumps.MatchString(l.text) {
			at = 0
		}
	}
	for i, text := range b.lines {
		if at >= 0 {
			break
		}
		if i > 0 && dumps.MatchString(text) {
			at = i
			break
		}
	}
	if at < 0 {
		return ""
	}
	for _, s := range b.sections {
		for i, f := range s.frames {
			if symbolName(f.Func) == fn && s.at[i] < at {
				return ""
			}
		}
	}
	return "mixed with the dump of another task"
}

// stackIn reports whether the lines hold a frame after the first.
func stackIn(lines []string) bool {
	for _, text := range lines[1:] {
		if frameLook(text) {
			return true
		}
	}
	return false
}

// dropped reports whether printk lost lines between those of the report, which
// it says at the beginning of the next one (console_unlock in
// kernel/printk/printk.c).
func (p *pending) dropped() bool {
	for _, l := range p.lines[p.first+1 : p.last+1] {
		if p.owns(l.caller) && bytes.Contains(l.raw, []byte("printk messages dropped **")) {
			return true
		}
	}
	return false
}

// judge decides whether the report is whole.
func (p *pending) judge(r *Report, f *format, b *body) {
	if f.cut {
		r.corrupt("the report's text is cut")
		return
	}
	// A value without an origin has no heading for one (kmsan_print_origin in
	// mm/kmsan/report.c): then the rule that closes the report must be there.
	if f.origin && b.first(secOrigin) == nil && (b.has(secOrigin) || !closed(b.lines)) {
		r.corrupt("the origin of the value is missing")
	}
	if f.noStack {
		return
	}
	seen := map[sectionKind]bool{}
	for _, s := range b.sections {
		if s.kind != secTrace && s.kind != secAlloc && s.kind != secFree || seen[s.kind] || s.nmi && len(s.frames) == 0 {
			continue
		}
		seen[s.kind] = true
		if len(s.frames) == 1 && len(b.lines)-s.line+p.after() < 3 {
			r.corrupt("the log ends in a stack")
			continue
		}
		if slices.ContainsFunc(s.frames, func(f Frame) bool { return !f.Unreliable }) || p.unavailable(b, s.line) {
			continue
		}
		if len(s.frames) > 0 && b.pc != nil && s.kind == secTrace && ended(b.lines[s.line:]) {
			continue // from where the kernel was, no unwinder finds the way
		}
		r.corrupt("no frames in a stack")
	}
	if !seen[secTrace] {
		r.corrupt("no stack in the report")
	}
}

// after is the number of lines of the report's context behind its last one.
func (p *pending) after() int {
	n := 0
	for _, l := range p.lines[p.last+1:] {
		if p.owns(l.caller) {
			n++
		}
	}
	return n
}

// ended reports whether the mark that ends an oops is among the lines.
func ended(lines []string) bool {
	return slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, "---[ end trace") })
}

// closed reports whether a line of "=" closes the report.
func closed(lines []string) bool {
	return slices.ContainsFunc(lines[1:], func(s string) bool { return strings.HasPrefix(s, "==========") })
}

// unavailable reports whether the text says that the stack at line at is lost.
func (p *pending) unavailable(b *body, at int) bool {
	for _, text := range b.lines[at:min(len(b.lines), at+excuse)] {
		if strings.Contains(text, "(stack is not available)") {
			return true
		}
	}
	return false
}

var (
	cpuRe     = compile(`^\s*CPU: (\d+) (?:UID: \d+ )?PID: (\d+) Comm: (.{0,64}?) (?:Not tainted|Tainted: ([A-Z ]+?)) +(\S+) (?:#|\()`)
	taintRe   = compile(`(?:Not tainted|Tainted: ([A-Z ]+?)) +(\d+\.\d+\S*)`)
	warnCPURe = compile(`CPU: (\d+) PID: (\d+)|CPU#(\d+): (.{1,64})/(\d+)`)
	whoRe     = compile(`(?:by task|: task|^INFO: task|process) ([^\s:/]{1,64}(?:[:/][^\s:/]{1,32})??)[:/](\d+)\b|comm "([^"]{0,64})", pid (\d+)`)
	regRe     = compile(`^\s*(?:RIP|RSP|R[A-D]X|R[SD]I|RBP|R\d\d|E[A-D]X|E[SD]I|E[BS]P|EIP|EFLAGS|FS|CS|DS|CR\d|DR\d|PKRU|Code|PC is at|LR is at|pc|lr|sp|pstate|x\d+|r\d+|Flags|Control|epc|ra|gp|tp|t\d|s\d+|a\d|status|NIP|LR|REGS|MSR|CFAR|GPR\d+|Krnl PSW|Krnl GPRS|Krnl Code|ERA|PSTATE|ORIG_RAX)\b ?:?`)
)

// facts fills in what the report says beside its title.
func facts(r *Report, f *format, b *body) {
	for i, text := range b.lines {
		if r.Comm == "" && strings.Contains(text, " Comm: ") {
			if m := cpuRe.FindStringSubmatch(text); m != nil {
				r.CPU, r.PID, r.Comm = number(m[1]), number(m[2]), m[3]
				r.Taint, r.Kernel = strings.TrimSpace(m[4]), m[5]
			}
		}
		if r.Kernel == "" && strings.Contains(text, "ainted") {
			if m := taintRe.FindStringSubmatch(text); m != nil {
				r.Taint, r.Kernel = strings.TrimSpace(m[1]), m[2]
			}
		}
		if i < 3 && r.CPU < 0 {
			if m := warnCPURe.FindStringSubmatch(text); m != nil {
				if m[1] != "" {
					r.CPU, r.PID = number(m[1]), number(m[2])
				} else {
					r.CPU, r.Comm, r.PID = number(m[3]), m[4], number(m[5])
				}
			}
		}
	}
	if r.Kind == Hang || r.Comm == "" {
		for _, text := range b.lines[:min(len(b.lines), 6)] {
			if m := whoRe.FindStringSubmatch(text); m != nil {
				if m[1] != "" {
					r.Comm, r.PID = m[1], number(m[2])
				} else {
					r.Comm, r.PID = m[3], number(m[4])
				}
				break
			}
		}
	}
	r.Registers = registers(b)
	r.Stack = stackOf(b)
	if strings.HasPrefix(r.Title, "KASAN: ") {
		r.KASAN = kasanFacts(b)
	}
	r.valid()
}

// valid makes strings taken from the log fit for JSON and reports.
func (r *Report) valid() {
	for _, s := range []*string{&r.Comm, &r.Kernel, &r.Taint, &r.Registers, &r.Frame} {
		*s = strings.ToValidUTF8(*s, "?")
	}
	for i := range r.AltTitles {
		r.AltTitles[i] = strings.ToValidUTF8(r.AltTitles[i], "?")
	}
}

// registers returns the first register dump.
func registers(b *body) string {
	var out []string
	for _, text := range b.lines {
		if len(out) > 0 && (strings.HasPrefix(text, "---[ end") || userPCRe.MatchString(text)) || len(out) >= maxRegisters {
			break
		}
		if !strings.Contains(text, ":") && !strings.Contains(text, " is at ") && !strings.HasPrefix(text, "NIP [") && !strings.HasPrefix(text, "LR [") {
			continue
		}
		if regRe.MatchString(text) && !strings.Contains(text, "CPU: ") && (!frameLook(text) || pcAnyRe.MatchString(text) || strings.Contains(text, " : ") || strings.HasPrefix(text, "Code")) {
			out = append(out, strings.TrimRight(strings.ReplaceAll(text, unsaid+" (", " ("), " "))
		}
	}
	return strings.Join(out, "\n")
}

// stackOf returns the stack of the crash, with the program counter on top.
func stackOf(b *body) []Frame {
	var s *section
	for _, kind := range []sectionKind{secTrace, secHead, secLeak, secRace} {
		if s = b.first(kind); s != nil {
			break
		}
	}
	pc := b.pc
	if s == nil {
		if pc != nil {
			return []Frame{*pc}
		}
		return nil
	}
	if s.kind == secTrace && s.pc != nil {
		pc = s.pc
	}
	frames := s.frames
	if s.kind == secTrace && s.pc != nil && pc != nil && (frames[0].Func != pc.Func) {
		frames = append([]Frame{*pc}, frames...)
	}
	return slices.Clone(frames)
}
