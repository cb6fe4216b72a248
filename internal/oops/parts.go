package oops

import (
	"bytes"
	"strings"
)

// These tests run for every line while a report is open; they use no regular
// expressions for that reason.

// isPart reports whether a line looks like a part of some report: a frame, a
// register, a heading.
func isPart(msg []byte) bool {
	for _, s := range partInside {
		if bytes.Contains(msg, s) {
			return true
		}
	}
	text := bytes.TrimLeft(msg, " \t>")
	if len(text) == 0 {
		return false
	}
	for _, s := range partPrefixes[text[0]] {
		if bytes.HasPrefix(text, s) {
			return true
		}
	}
	if isDump(text) {
		return true
	}
	if i := bytes.IndexByte(text[:min(len(text), 20)], ':'); i > 0 {
		return isRegister(bytes.TrimRight(text[:i], " "))
	}
	return false
}

// partInside are strings that only lines of reports hold.
var partInside = byteList("+0x", "[<", "lock held by", "locks held by", "acktrace", "ot tainted", "Tainted: ", "jiffies", "[ cut here ]", " trying to ", ", at: ")

// partPrefixes are the beginnings of lines of reports, by first byte.
var partPrefixes = func() map[byte][][]byte {
	m := map[byte][][]byte{}
	for _, s := range byteList(
		"Call Trace", "Call trace", "Backtrace", "CPU: ", "TPC: <", "---- interrupt", "Hardware name", "Workqueue: ", "Modules linked in", "Code: ",
		"Allocated by", "Allocated:", "Freed by", "Freed:", "Uninit was", "Local variable", "Read of", "Write of", "Read at", "Write at", "Free of",
		"The buggy", "Memory state", "=====", "---[", "--- interrupt", "Kernel panic", "Kernel Offset", "Rebooting in", "comm \"", "hex dump",
		"<IRQ>", "</IRQ>", "<TASK>", "</TASK>", "<NMI>", "</NMI>", "<EOI>", "<SOFTIRQ>", "</SOFTIRQ>", "<#DF>", "</#DF>",
		"task:", "rcu: ", "page dumped", "page last", "page_owner", "flags: 0x", "raw: ", "Internal error", "Oops", "Process ", "Exception stack",
		"lock(", "but task", "which lock", "other info", "stack backtrace", "#0: ", "#1: ", "#2: ", "#3: ", "#4: ", "#5: ", "#6: ", "#7: ",
		"PC is at", "LR is at", "Krnl ", "Pointer tag", "NMI backtrace", "Sending NMI", "Task dump", "unreferenced object", "Showing ", "INFO: lockdep",
		"(stack is not available)", "Last potentially", "Second to last", "kfence-#", "write to 0x", "read to 0x", "race at", "Stack:", "PGD ", "#PF: ", "BUG: ", "WARNING: ", "PID = ",
	) {
		m[s[0]] = append(m[s[0]], s)
	}
	return m
}()

// registers by name without trailing digits.
var registerNames = map[string]bool{
	"RIP": true, "RSP": true, "RAX": true, "RBX": true, "RCX": true, "RDX": true, "RSI": true, "RDI": true, "RBP": true, "R": true,
	"EIP": true, "EAX": true, "EBX": true, "ECX": true, "EDX": true, "ESI": true, "EDI": true, "EBP": true, "ESP": true, "EFLAGS": true,
	"CS": true, "DS": true, "FS": true, "CR": true, "DR": true, "PKRU": true, "Code": true, "IP": true,
	"pc": true, "lr": true, "sp": true, "pstate": true, "x": true, "r": true, "Flags": true, "Control": true,
	"epc": true, "ra": true, "gp": true, "tp": true, "t": true, "s": true, "a": true, "status": true, "badaddr": true,
	"NIP": true, "LR": true, "REGS": true, "MSR": true, "CFAR": true, "GPR": true, "ERA": true, "PC is at": true, "LR is at": true,
	"Krnl PSW": true, "Krnl GPRS": true, "Krnl Code": true, "Memory state around the buggy address": true,
}

// isRegister reports whether key, the text before a colon, names a register or
// is the address of a row of a dump.
func isRegister(key []byte) bool {
	if len(key) >= 4 && len(bytes.Trim(key, "0123456789abcdef")) == 0 {
		return true
	}
	return registerNames[string(bytes.TrimRight(key, "0123456789"))]
}

// isDump reports whether the line is a row of memory: an address or offset and
// words, all hexadecimal.
func isDump(text []byte) bool {
	n := 0
	for len(text) > 0 && n < 3 {
		i := bytes.IndexByte(text, ' ')
		if i < 0 {
			i = len(text)
		}
		if word := text[:i]; len(word) > 0 {
			if len(word) < 4 || len(bytes.Trim(word, "0123456789abcdef*:")) > 0 {
				return false
			}
			n++
		}
		text = text[min(len(text), i+1):]
	}
	return n == 3
}

// isBottom reports whether a line is at the bottom of a stack.
func isBottom(msg []byte) bool {
	for _, s := range bottoms {
		if bytes.Contains(msg, s) {
			return true
		}
	}
	return false
}

var bottoms = byteList("entry_SYS", "ret_from_fork", " el0_", " el0t_", "ret_fast_syscall", "cpu_startup_entry", "start_secondary", "secondary_startup", "do_trap_ecall_u", "system_call", "__irq_usr", "</TASK>")

// isEndMark reports whether after the line only a panic or registers follow.
func isEndMark(msg []byte) bool {
	return bytes.HasPrefix(msg, []byte("---[ end trace")) || isRule(msg)
}

// isRule reports whether the line is one of "=", as reports begin and end with.
func isRule(msg []byte) bool {
	return bytes.HasPrefix(msg, []byte("====================")) && len(bytes.Trim(msg, "= \t")) == 0
}

// isOver reports whether the line is the last a kernel prints.
func isOver(msg []byte) bool {
	return bytes.HasPrefix(msg, []byte("---[ end Kernel panic")) || bytes.HasPrefix(msg, []byte("Rebooting in "))
}

// isCutHere reports whether the line opens a report.
func isCutHere(msg []byte) bool {
	return bytes.Contains(msg, []byte("--- cut here")) || bytes.Contains(msg, []byte("--[ cut here ]"))
}

func byteList(list ...string) [][]byte {
	var out [][]byte
	for _, s := range list {
		out = append(out, []byte(s))
	}
	return out
}

// headerWords are parts of the lines that begin a stack; they rule out most
// other lines before the expressions are tried.
var headerWords = []string{"race", "llocated", "reed", "Uninit", "Local variable", "page last", "-> #", "became", "registered at", "irqs last", " bytes by", "work creation", "call_rcu", "origin", "Memory was", "acquired at", "key "}

func headerLook(text string) bool {
	for _, w := range headerWords {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}
