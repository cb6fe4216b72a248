package oops

import (
	"hash/maphash"
	"strings"
)

// A log may hold one report twice: a console and the output of dmesg, or a
// record of pstore printed after the reboot that it survived. It counts once.

const (
	// maxSeen is how many reports are remembered.
	maxSeen = 32
	// maxPrints is how many lines of each are.
	maxPrints = 512
	// sameTime is the most by which two printings of one time differ, in seconds:
	// less than a microsecond, which is what printk prints.
	sameTime = 0.9e-6
	// sameLines is how many lines must be the same where no printing has a time.
	sameLines = 4
)

// prints are the hashes of a report's lines; the first is that of the first
// line.
type prints []uint64

var printSeed = maphash.MakeSeed()

func printsOf(lines []string) prints {
	var out prints
	for _, text := range lines {
		if len(out) == maxPrints {
			break
		}
		if text = strings.TrimSpace(text); len(text) > 3 && strings.Trim(text, "=- ") != "" {
			out = append(out, maphash.String(printSeed, text))
		}
	}
	return out
}

// seen remembers the reports of one boot.
type seen struct {
	reports []sighting
}

type sighting struct {
	title, context string
	start, end     int64
	time           float64
	cpu, pid       int
	prints         prints
}

// before reports whether p's report was handed out before, and remembers it.
func (s *seen) before(p *pending) bool {
	r := p.report
	if r.Kind == Reboot || len(p.prints) == 0 || p.oops.repeat {
		return false
	}
	now := sighting{r.Title, r.Context, r.Start, r.End, r.Time, r.CPU, r.PID, p.prints}
	p.prints = nil
	for _, old := range s.reports {
		if old.same(now) {
			return true
		}
	}
	if len(s.reports) == maxSeen {
		s.reports = append(s.reports[:0], s.reports[1:]...)
	}
	s.reports = append(s.reports, now)
	return false
}

// same reports whether b is another printing of the report a is.
func (a sighting) same(b sighting) bool {
	if b.start < a.end {
		return false // printed while a was: a fault in the handler of a fault
	}
	if a.time >= 0 && b.time >= 0 {
		// The kernel's clock tells them apart, or that they are one.
		d := a.time - b.time
		if d > sameTime || d < -sameTime {
			return false
		}
		if a.context != b.context && a.context != "" && b.context != "" || a.cpu != b.cpu && a.cpu >= 0 && b.cpu >= 0 {
			return false
		}
		return a.title == b.title || a.prints[0] == b.prints[0]
	}
	if a.prints[0] != b.prints[0] {
		return false
	}
	need := min(len(b.prints), sameLines)
	if a.time < 0 && b.time < 0 {
		need = sameLines // two reports of one line each may well be two
	}
	// A second printing may hold less, as that of the lines of one level does.
	have := map[uint64]bool{}
	for _, h := range a.prints {
		have[h] = true
	}
	common := 0
	for _, h := range b.prints {
		if have[h] {
			common++
		}
	}
	return common >= need && common*10 >= 9*min(len(a.prints), len(b.prints))
}

// echoed reports whether programs are the ones that print this kind.
func (o *oops) echoed() bool { return strings.HasPrefix(o.header, "SYZ") || o.tail }

// trusted reports whether a line may join the report p: what the kernel says
// does not belong to a program's words.
func (p *pending) trusted(l *line) bool {
	return p == nil || !p.doubt || l.source == srcUnknown || p.known
}

// witnessed reports whether the lines behind the first one are a kernel's: no
// program's message has registers, a task and a stack behind it. The first line
// of a row that accepts any text must be of one kind with them: without a time
// among lines with one it is a program's, whatever the kernel says next.
func (p *pending) witnessed() bool {
	first := p.lines[p.first].text
	if p.oops.program {
		return p.byGo()
	}
	if byDevice(first[:p.pos]) {
		return true
	}
	if len(p.lines) == p.first+1 && strings.TrimSpace(first[p.pos:]) == strings.TrimSpace(p.oops.header) {
		return true // the log ends in the middle of the line
	}
	for _, l := range p.lines[p.first+1:] {
		if !p.known && l.source == srcKernel {
			continue
		}
		if frameLook(l.text) {
			if _, ok := parseFrame(l.text); ok {
				return true
			}
		}
		for _, s := range witnesses {
			if strings.Contains(l.text, s) {
				return true
			}
		}
	}
	for _, l := range p.lines[:p.first] {
		if isCutHere([]byte(l.text)) {
			return true
		}
	}
	return false
}

// byGo reports whether what follows the first line is what Go's runtime prints:
// the signal, its own stack or those of goroutines, behind an empty line.
func (p *pending) byGo() bool {
	if goSays.MatchString(p.lines[p.first].text) {
		return true
	}
	const near = 12 // the message of a panic may have further lines
	for i, l := range p.lines[p.first+1:] {
		if i == near {
			break
		}
		for _, s := range goWitnesses {
			if strings.HasPrefix(l.text, s) {
				return true
			}
		}
	}
	return false
}

// goSays matches the messages of Go's own run time (runtime/error.go,
// runtime/panic.go and the callers of throw and fatal), and of the programs that
// fuzzers run.
var goSays = compile(`^panic: (?:runtime error: |executor |failed to |reflect: |sync: |interface conversion: |assignment to entry in nil map|send on closed channel|close of )|^fatal error: (?:runtime: |unexpected signal|all goroutines are asleep|concurrent map|out of memory|stack |sync: |schedule: |bad |found bad pointer|cannot allocate|failed to )`)

var goWitnesses = []string{"goroutine ", "runtime stack:", "[signal SIG", "runtime: ", "\tpanic: "}

// byDevice reports whether a message begins as dev_printk begins it, with a
// driver and a device: "usb 5-1: ", "pci 0000:00:1f.0: ".
func byDevice(head string) bool {
	driver, device, ok := strings.Cut(strings.TrimSuffix(head, " "), " ")
	name, colon := strings.CutSuffix(device, ":")
	if !ok || !colon || driver == "" || strings.ContainsAny(driver, ":([") || strings.ContainsAny(name, " ([") {
		return false
	}
	return strings.ContainsAny(name, decimal) && strings.Trim(name, decimal) != ""
}

// witnesses are texts that a kernel alone prints behind the first line of a
// report.
var witnesses = []string{"Modules linked in:", "ot tainted ", "Tainted: ", "Call Trace:", "Call trace:", "Hardware name:", "---[ end ", "hex dump (first ", "Internal error: ", "RIP: 00", "task:", "rcu:"}
