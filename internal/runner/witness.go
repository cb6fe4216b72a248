// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// Three witnesses say what the kernel reported: the console, which is there from
// the first line to the last and can be slow, or silenced; the agent, which reads
// the log to its end and is not there when the kernel dies; and the taint bits,
// which say that something was reported and not what.

// witness adds to the splats of the console what the agent's copy of the log and
// the taint bits know beside. It is called once the log is closed.
func (s *session) witness() {
	out, con := s.out, s.con
	if out.Ready == nil {
		return // all that there was is on the console
	}
	base := out.Ready.Taint
	if s.from == nil { // or it has been held against the log of its template
		for _, r := range oops.Unexplained(base, con.reportsBefore(-1)) {
			out.Splats = append(out.Splats, splat{Report: r, phase: "boot", log: s.p.log()})
		}
	}
	done := out.Done
	var kc *console
	if done != nil && len(out.Kmsg) > 0 {
		kc = s.readKmsg()
	}
	switch dropped := con.droppedOf(); {
	case done == nil: // it did not end as it should, and nothing is good about it
	case done.Lost != "":
		s.out.Incomplete(visible.Short(done.Lost))
	case dropped.early > 0:
		s.out.Incomplete(fmt.Sprintf("the console dropped %d messages during the boot", dropped.early))
	case dropped.all > 0:
		out.Notes = append(out.Notes, fmt.Sprintf("the console dropped %d messages; the agent has read all of them", dropped.all))
	}
	// The bits, one moment after the other.
	log := con
	if kc != nil {
		log = kc
	}
	seen := base
	look := func(taint uint64, before int64, test, phase string) {
		fresh := taint &^ seen
		seen |= taint
		for _, r := range oops.Unexplained(fresh, log.reportsBefore(before)) {
			r.Start, r.End = max(0, before), max(0, before)
			out.Splats = append(out.Splats, splat{Report: r, test: test, phase: phase, log: s.p.log()})
		}
	}
	for i, m := range log.marks {
		switch {
		case m.at != wire.TestBegins:
			look(m.taint, m.offset, m.test, "")
		case i == 0:
			look(m.taint, m.offset, "", "setup")
		default:
			look(m.taint, m.offset, "", "between tests")
		}
	}
	if done != nil {
		phase := "shutdown"
		if len(log.marks) == 0 {
			phase = "" // of the program
		}
		look(done.Taint, -1, "", phase)
	}
}

// readKmsg scans what the agent has read and adds the splats that the console has
// not. The text is kept beside the kernel log when there are any.
func (s *session) readKmsg() *console {
	kc := newConsole(s.nonce)
	kc.tests, kc.init = s.con.tests, -1
	text := formatKmsg(s.out.Kmsg)
	_, _ = kc.Write(text) // never fails
	kc.close()
	if why := kc.problem(); why != "" {
		s.out.Incomplete(why)
	}
	if kt := kc.kernelTests(); len(s.out.kernelTests.failed) == 0 && len(kt.failed) > 0 {
		s.out.kernelTests = kt // the console was silenced
	}
	name := s.p.beside("kmsg", ".log")
	var missing []splat
	have := slices.Clone(s.out.Splats)
	index := make([]int, len(have)) // into out.Splats
	for i := range index {
		index[i] = i
	}
	if s.con.droppedOf().all > 0 { // of the marks, too
		s.con.takeMarks(kc)
	}
	for _, sp := range kc.splats() {
		// The same record has the same time in both; where the time is missing on the
		// console, or the console lost the first lines, the title must do, once.
		i := slices.IndexFunc(have, func(h splat) bool { return h.Time >= 0 && h.Time == sp.Time })
		if i < 0 {
			i = slices.IndexFunc(have, func(h splat) bool { return h.Fingerprint == sp.Fingerprint })
		}
		if i >= 0 {
			if twin := &s.out.Splats[index[i]]; s.con.droppedOf().all > 0 {
				twin.test, twin.phase, twin.expected = sp.test, sp.phase, sp.expected
			}
			have, index = slices.Delete(have, i, i+1), slices.Delete(index, i, i+1)
			continue
		}
		sp.log = name
		missing = append(missing, sp)
	}
	if len(missing) == 0 {
		return kc
	}
	s.out.Splats = append(s.out.Splats, missing...)
	file := filepath.Join(s.p.Dir, name)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		s.out.Fail(fmt.Errorf("keep the agent's copy of the kernel log: %w", err))
	}
	s.out.Notes = append(s.out.Notes, fmt.Sprintf("%d kernel reports are not in the console's log; the agent has read them: %s", len(missing), file))
	return kc
}

// formatKmsg makes records of /dev/kmsg look as the console would have printed
// them (Documentation/ABI/testing/dev-kmsg). What is no record is left out.
func formatKmsg(records []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(records) {
		head, text, ok := bytes.Cut(line, []byte(";"))
		if !ok || len(head) == 0 || head[0] == ' ' { // the dictionary's lines begin with a blank
			continue
		}
		fields := strings.Split(string(head), ",")
		if len(fields) < 4 {
			continue
		}
		usec, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			continue
		}
		prefix := fmt.Sprintf("[%5d.%06d]", usec/1e6, usec%1e6)
		for _, f := range fields[4:] {
			if caller, ok := strings.CutPrefix(f, "caller="); ok {
				prefix += fmt.Sprintf("[%6s]", caller)
			}
		}
		for part := range strings.SplitSeq(unescapeKmsg(strings.TrimRight(string(text), "\n")), "\n") {
			b.WriteString(prefix + " " + part + "\n")
		}
	}
	return b.Bytes()
}

// unescapeKmsg undoes the \xNN of what is not printable.
func unescapeKmsg(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if c, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// reportsBefore returns the reports that began before the log was offset bytes
// long, all for a negative offset.
func (c *console) reportsBefore(offset int64) []*oops.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*oops.Report
	for _, r := range c.reports {
		if offset < 0 || r.Start < offset {
			out = append(out, r)
		}
	}
	return out
}

// takeMarks has the agent's copy of the log say which tests ran, where the console
// has dropped what said so.
func (c *console) takeMarks(kc *console) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copied = kc.marks
}

// dropped counts what the console says it dropped.
type dropped struct{ all, early int }

func (c *console) droppedOf() dropped {
	c.mu.Lock()
	defer c.mu.Unlock()
	return dropped{c.lost, c.lostEarly}
}
