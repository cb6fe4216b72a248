package oops

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// Frame is one entry of a stack, as the kernel printed it.
type Frame struct {
	// Func is the symbol's name without its offset; compiler suffixes such as
	// ".isra.0" are kept. It is empty when only an address is known.
	Func string `json:"func"`
	// Offset and Size are the position inside Func and Func's length, in bytes.
	// Both are 0 where the log does not say.
	Offset uint64 `json:"offset,omitempty"`
	Size   uint64 `json:"size,omitempty"`
	// Module is the module's name, empty for built-in code.
	Module string `json:"module,omitempty"`
	// Addr is the address printed beside the name, 0 if there is none.
	Addr uint64 `json:"addr,omitempty"`
	// Inline says that the log shows the frame as inlined into the next one.
	Inline bool `json:"inline,omitempty"`
	// Unreliable says that the unwinder found the address on the stack but could
	// not tell whether it belongs to the call chain ("? " frames).
	Unreliable bool `json:"unreliable,omitempty"`
	// Raw is the frame's text without log prefixes.
	Raw string `json:"raw,omitempty"`
	// File and Line are the source position. They are set where the log was
	// already symbolized, else by a symbolizer; Line is 0 when unknown.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// KASAN holds what a KASAN report says about the bad access and the object.
type KASAN struct {
	// Bug is the class as the kernel names it, e.g. "slab-use-after-free".
	Bug string `json:"bug"`
	// Access is "Read" or "Write"; empty where nothing was accessed (a bad free)
	// or the line is missing.
	Access string `json:"access,omitempty"`
	// Size is the length of the access in bytes, 0 if not printed.
	Size int `json:"size,omitempty"`
	// Addr is the bad address, tag bits included.
	Addr uint64 `json:"addr,omitempty"`
	Task string `json:"task,omitempty"`
	// PID is the task's id, -1 if not printed.
	PID int `json:"pid"`
	// Cache is the slab cache the object came from.
	Cache string `json:"cache,omitempty"`
	// ObjectSize is the object's size in bytes and Offset the distance of the
	// bad address from the object's first byte (negative: before it).
	ObjectSize int `json:"object_size,omitempty"`
	Offset     int `json:"object_offset,omitempty"`
	// Where describes the place in the kernel's words, e.g.
	// "4 bytes inside of freed 96-byte region".
	Where string `json:"where,omitempty"`
	// PointerTag and MemoryTag are set by the tag based modes, e.g. "0b", "fe".
	PointerTag string `json:"pointer_tag,omitempty"`
	MemoryTag  string `json:"memory_tag,omitempty"`
	// AllocPID and FreePID are the tasks that allocated and freed the object, -1
	// if not printed.
	AllocPID int     `json:"alloc_pid"`
	FreePID  int     `json:"free_pid"`
	Alloc    []Frame `json:"alloc,omitempty"`
	Free     []Frame `json:"free,omitempty"`
	// LastWork is the stack of the last work or RCU callback queued for the
	// object.
	LastWork []Frame `json:"last_work,omitempty"`
	// Memory is the shadow dump around the address, one line per row.
	Memory string `json:"memory,omitempty"`
}

// Report is one crash, hang or warning found in a log.
type Report struct {
	// Title names the bug the way the public dashboard does. It holds no
	// addresses, numbers or file positions, so it is the same in every run.
	Title string `json:"title"`
	// AltTitles are further names of the same bug, sorted.
	AltTitles []string `json:"alt_titles"`
	Kind      Kind     `json:"type"`
	// Frame is the function blamed; "corrupted" if the stack was lost, empty for
	// kinds that blame none.
	Frame string `json:"frame"`
	// Corrupted says that the report is cut or mixed with other output;
	// CorruptedReason says what is missing.
	Corrupted       bool   `json:"corrupted"`
	CorruptedReason string `json:"corrupted_reason,omitempty"`
	// Suppressed says that the report is known to be none that counts: an
	// allow-list names it, or it is the crash of a program and not the kernel's.
	// The parser, which has no allow-list, sets it for the latter only.
	Suppressed bool `json:"suppressed"`
	// Panicked says that the kernel panicked while or after it printed this.
	Panicked bool `json:"panicked"`
	// Start and End are byte offsets into the input: the first byte of the
	// report's first line and the byte after its last line's end.
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Raw is the report's own lines with their prefixes, at most [MaxRaw] bytes.
	Raw []byte `json:"-"`
	// Stack is the stack of the crash, innermost function first.
	Stack []Frame `json:"stack,omitempty"`
	// KASAN is set for KASAN reports only.
	KASAN *KASAN `json:"kasan,omitempty"`
	// CPU and PID are -1 if unknown.
	CPU  int    `json:"cpu"`
	PID  int    `json:"pid"`
	Comm string `json:"comm,omitempty"`
	// Kernel is the release printed in the report, e.g. "6.12.0-rc1+".
	Kernel string `json:"kernel,omitempty"`
	// Taint is the taint text, e.g. "G    B   W", empty if not tainted.
	Taint string `json:"taint,omitempty"`
	// Registers is the register dump as printed, without log prefixes.
	Registers string `json:"registers,omitempty"`
	// Context is the printk caller that wrote the report ("T123", "C0"), empty if
	// the log does not carry callers.
	Context string `json:"context,omitempty"`
	// Time is the printk timestamp of the first line in seconds, -1 if the line
	// has none.
	Time float64 `json:"time"`
	// Fingerprint is equal for reports of the same bug: it does not depend on
	// addresses, times, CPUs, pids, or offsets.
	Fingerprint string `json:"fingerprint"`
}

// MarshalJSON writes an object with a list of other titles also when there are
// none: readers need not tell absent from empty.
func (r *Report) MarshalJSON() ([]byte, error) {
	type plain Report
	p := plain(*r)
	if p.AltTitles == nil {
		p.AltTitles = []string{}
	}
	return json.Marshal(&p)
}

// NoBreakpoint reports whether the kernel died of a breakpoint where its code dump has
// none: the byte before the one in angle brackets, at which the processor would have
// gone on, is not int3 (arch/x86/kernel/dumpstack.c: show_opcodes). The code was changed
// between the trap and the dump, or the processor did not execute what is in memory.
func (r *Report) NoBreakpoint() bool {
	_, rest, trap := bytes.Cut(r.Raw, []byte("int3: 0000 [#"))
	_, rest, code := bytes.Cut(rest, []byte("Code: "))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	list := strings.Fields(string(line))
	at := slices.IndexFunc(list, func(b string) bool { return strings.HasPrefix(b, "<") })
	return trap && code && at > 0 && list[at-1] != "cc"
}

// Titled reports whether a regular expression matches all of the report's title
// or of one of its other titles. One that does not compile matches nothing.
func (r *Report) Titled(expr string) bool {
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		return false
	}
	return re.MatchString(r.Title) || slices.ContainsFunc(r.AltTitles, re.MatchString)
}
