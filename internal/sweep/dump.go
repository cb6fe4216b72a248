// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Dump is what the kernel prints about one fault with verbose=2 (fail_dump in
// lib/fault-inject.c).
type Dump struct {
	// Name is the injector.
	Name string
	// Times is the number of faults that were left before this one.
	Times int64
	// Stack has the return addresses, innermost first, from the caller of
	// should_fail_ex on, as "function+0xoffset/0xsize", with " [module]".
	Stack []string
}

var (
	stampRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:<\d+>)?(?:\[ *\d+\.\d+\] ?)?(?:\[ *[CT]\d+\] ?)?`)
	})
	nameRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^name (\S+), interval \d+, probability \d+, space -?\d+, times (-?\d+)`)
	})
	frameRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([A-Za-z_][\w.]*\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[[\w-]+)?)`)
	})
)

const (
	// maxFrames bounds a stack; the kernel's own filter looks at 32
	// (MAX_STACK_TRACE_DEPTH).
	maxFrames = 64
	// maxDumpLine bounds a line, in bytes; printk's own limit is 1024.
	maxDumpLine = 4096
)

// Dumps collects the kernel's messages about faults from its log as it comes.
// The zero value is ready. Write never fails.
type Dumps struct {
	// Each is called for every complete message.
	Each func(Dump)

	line  []byte
	cur   *Dump
	trace bool // the call trace has begun
	inner bool // should_fail_ex was seen
}

// Write implements io.Writer.
func (d *Dumps) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if room := maxDumpLine - len(d.line); room > 0 {
			d.line = append(d.line, part[:min(room, len(part))]...)
		}
		if i < 0 {
			break
		}
		d.take(strings.TrimRight(string(d.line), "\r"))
		d.line, p = d.line[:0], p[i+1:]
	}
	return n, nil
}

// Close ends the log.
func (d *Dumps) Close() error {
	if len(d.line) > 0 {
		d.take(string(d.line))
		d.line = nil
	}
	d.end()
	return nil
}

func (d *Dumps) end() {
	if d.cur != nil && d.cur.Name != "" {
		d.Each(*d.cur)
	}
	d.cur, d.trace, d.inner = nil, false, false
}

func (d *Dumps) take(line string) {
	text := strings.TrimSpace(line[len(stampRE().FindString(line)):])
	switch {
	case strings.HasPrefix(text, "FAULT_INJECTION: forcing a failure"):
		d.end()
		d.cur = &Dump{}
	case d.cur == nil:
	case d.cur.Name == "":
		if m := nameRE().FindStringSubmatch(text); m != nil {
			d.cur.Name = m[1]
			d.cur.Times, _ = strconv.ParseInt(m[2], 10, 64)
		}
	case text == "Call Trace:":
		d.trace = true
	case !d.trace:
	case text == "</TASK>", text == "</IRQ>":
		d.end()
	case strings.HasPrefix(text, "?"), strings.HasPrefix(text, "<"):
	default:
		m := frameRE().FindStringSubmatch(text)
		if m == nil {
			return
		}
		fn := function(m[1])
		if !d.inner {
			// What prints the message is above it.
			d.inner = fn == "should_fail_ex" || fn == "should_fail"
			return
		}
		if len(d.cur.Stack) == 0 && injector[fn] {
			return
		}
		if len(d.cur.Stack) < maxFrames {
			d.cur.Stack = append(d.cur.Stack, frame(m[1]))
		}
	}
}

// injector are the functions between should_fail_ex and whoever is to fail.
var injector = map[string]bool{
	"should_fail": true, "should_failslab": true, "__should_failslab": true, "should_fail_alloc_page": true, "__should_fail_alloc_page": true,
	"should_fail_usercopy": true, "should_fail_futex": true, "should_fail_bio": true, "should_fail_request": true,
}

// frame closes a module's bracket.
func frame(s string) string {
	if strings.Contains(s, " [") {
		return s + "]"
	}
	return s
}

// function is the name in a frame.
func function(frame string) string {
	name, _, _ := strings.Cut(frame, "+")
	return name
}

// ParseDumps returns all messages in a log.
func ParseDumps(log []byte) (out []Dump) {
	d := Dumps{Each: func(x Dump) { out = append(out, x) }}
	_, _ = d.Write(log)
	_ = d.Close()
	return out
}
