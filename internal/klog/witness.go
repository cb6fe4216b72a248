// SPDX-License-Identifier: Apache-2.0

package klog

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// Three witnesses say what the kernel reported: the console, which is there from
// the first line to the last and can be slow, or silenced; the agent, which reads
// the log to its end and is not there when the kernel dies; and the taint bits,
// which say that something was reported and not what.

// Testimony is what the agent says of the kernel.
type Testimony struct {
	Taint  uint64 // the bits when the agent was ready
	Booted bool   // the machine has booted in this log, not before it
	// Done is the agent's last word, nil if there was none, and Kmsg what it has read
	// of /dev/kmsg.
	Done *wire.Done
	Kmsg []byte
}

// Account is what the kernel reported, as all three have it.
type Account struct {
	Splats []Splat
	// Incomplete says why the log cannot be trusted, "" if it can.
	Incomplete string
	Notes      []string
	// Results are what tests in the kernel said by the agent's copy of the log, nil
	// without one.
	Results *ktap.Doc
	// Copy is that copy, as the console would have printed it, when it has Missing
	// reports that the console has not.
	Copy    []byte
	Missing int
}

func (a *Account) incomplete(why string) {
	if a.Incomplete == "" {
		a.Incomplete = why
	}
}

// Compare adds to the splats of the log what the agent's copy of it and the taint
// bits know beside, as being in the files called log and kmsg. It is called once the
// log is closed.
func (c *Log) Compare(splats []Splat, t Testimony, log, kmsg string) Account {
	a := Account{Splats: splats}
	if t.Booted { // or it has been held against the log of its template
		for _, r := range oops.Unexplained(t.Taint, c.reportsBefore(-1)) {
			a.Splats = append(a.Splats, Splat{Report: r, Phase: "boot", Log: log})
		}
	}
	whole := c
	if t.Done != nil && len(t.Kmsg) > 0 {
		whole = c.compareKmsg(&a, t.Kmsg, kmsg)
	}
	switch dropped := c.droppedOf(); {
	case t.Done == nil: // it did not end as it should, and nothing is good about it
	case t.Done.Lost != "":
		a.incomplete(visible.Short(t.Done.Lost))
	case dropped.early > 0:
		a.incomplete(fmt.Sprintf("the console dropped %d messages during the boot", dropped.early))
	case dropped.all > 0:
		a.Notes = append(a.Notes, fmt.Sprintf("the console dropped %d messages; the agent has read all of them", dropped.all))
	}
	whole.compareTaint(&a, t, log)
	return a
}

// compareKmsg adds the splats that the agent's copy of the log has and the console has
// not, and returns that copy.
func (c *Log) compareKmsg(a *Account, records []byte, file string) *Log {
	kc := New(c.nonce)
	kc.tests, kc.init = c.tests, -1
	text := formatKmsg(records)
	_, _ = kc.Write(text) // never fails
	kc.Close()
	if why := kc.Problem(); why != "" {
		a.incomplete(why)
	}
	a.Results = kc.Results()
	have := slices.Clone(a.Splats)
	index := make([]int, len(have)) // into a.Splats
	for i := range index {
		index[i] = i
	}
	lost := c.droppedOf().all > 0
	if lost { // of the marks, too
		c.takeMarks(kc)
	}
	var missing []Splat
	for _, sp := range kc.Splats() {
		// The same record has the same time in both; where the time is missing on the
		// console, or the console lost the first lines, the title must do, once.
		i := slices.IndexFunc(have, func(h Splat) bool { return h.Time >= 0 && h.Time == sp.Time })
		if i < 0 {
			i = slices.IndexFunc(have, func(h Splat) bool { return h.Fingerprint == sp.Fingerprint })
		}
		if i >= 0 {
			if twin := &a.Splats[index[i]]; lost {
				twin.Test, twin.Phase, twin.Expected = sp.Test, sp.Phase, sp.Expected
			}
			have, index = slices.Delete(have, i, i+1), slices.Delete(index, i, i+1)
			continue
		}
		sp.Log = file
		missing = append(missing, sp)
	}
	if a.Missing = len(missing); a.Missing > 0 {
		a.Splats, a.Copy = append(a.Splats, missing...), text
	}
	return kc
}

// compareTaint adds the bits that no report explains, one moment after the other.
func (c *Log) compareTaint(a *Account, t Testimony, file string) {
	seen := t.Taint
	look := func(taint uint64, before int64, test, phase string) {
		fresh := taint &^ seen
		seen |= taint
		for _, r := range oops.Unexplained(fresh, c.reportsBefore(before)) {
			r.Start, r.End = max(0, before), max(0, before)
			a.Splats = append(a.Splats, Splat{Report: r, Test: test, Phase: phase, Log: file})
		}
	}
	for i, m := range c.marks {
		switch {
		case m.at != wire.TestBegins:
			look(m.taint, m.offset, m.test, "")
		case i == 0:
			look(m.taint, m.offset, "", "setup")
		default:
			look(m.taint, m.offset, "", "between tests")
		}
	}
	if t.Done != nil {
		phase := "shutdown"
		if len(c.marks) == 0 {
			phase = "" // of the program
		}
		look(t.Done.Taint, -1, "", phase)
	}
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
func (c *Log) reportsBefore(offset int64) []*oops.Report {
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
func (c *Log) takeMarks(kc *Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copied = kc.marks
}

// dropped counts what the console says it dropped.
type dropped struct{ all, early int }

func (c *Log) droppedOf() dropped {
	c.mu.Lock()
	defer c.mu.Unlock()
	return dropped{c.lost, c.lostEarly}
}
