package oops

import (
	"strconv"
	"strings"
)

// Patterns of stack lines. They are applied to text without log prefixes.
var (
	// [<addr>] ? func+0x1/0x2 [module] file.c:3, in the dialects of x86, arm64,
	// riscv, s390, powerpc (two addresses), mips and kmemleak.
	frameRe = compile(`^\s*(?:<[/A-Za-z#_]+>\s+)*((?:\(?\[<?[0-9a-fx*_p()]+>?\]\)?\s*){0,2})(\? )?\(?\.?([A-Za-z_$<][\w.$<>:@]*)\+0x([0-9a-f]+)/0x([0-9a-f]+)\)?(.*)$`)
	// func file.c:3 [inline]
	inlineRe = compile(`^\s*(?:\[<?[0-9a-f]+>?\]\s+)?([A-Za-z_$<][\w.$<>:]*) (\S+):(\d+) \[inline\]\s*$`)
	// [<addr>] (callee) from [<addr>] (caller+0x1/0x2 file.c:3), 32-bit arm; before
	// 3.11 the callee had its offset, of its beginning, as well.
	armRe = compile(`^\s*\[<([0-9a-f]+)>\] \(([\w.$]+)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?\) from \[<([0-9a-f]+)>\] \(([\w.$]+)(?:\+0x([0-9a-f]+)/0x([0-9a-f]+))?(?: (\S+):(\d+))?( \[inline\])?\)?`)
	// callee from caller+0x1/0x2, 32-bit arm since 5.19.
	armNewRe = compile(`^\s*([A-Za-z_][\w.$]*) from ([A-Za-z_][\w.$]*)\+0x([0-9a-f]+)/0x([0-9a-f]+)(.*)$`)
	// A bare address among frames: [<ffffffff>] 0xffffffff, or 0x202.
	addrFrameRe = compile(`^\s*(?:\[<?[0-9a-f]+>?\]\s+)*(\? )?0x([0-9a-f]+)\s*$`)

	addrRe   = compile(`[0-9a-f]{8,16}`)
	sourceRe = compile(`\s(\S+\.[A-Za-z]+):(\d+)(?:\s|$)`)
	moduleRe = compile(`^\s+\[([\w\-]+)(?:[ (][^\]]*)?\]`)

	// Where the kernel was: RIP: 0010:func+0x1/0x2 and its cousins.
	pcRe = compile(`^\s*(?:RIP: 00[01][0-9a-f]:|RIP: e0[0-9a-f]{2}:|RIP:|EIP: 00[67][0-9a-f]:|EIP is at|EIP:|IP is at|IP:|PC is at|pc :|pc:|epc *:|NIP|Krnl PSW :|Faulting instruction address:|ERA:|era :)\s*(?:\[?<?[0-9a-f]{8,16}>?\]?\s*)*\(?\.?([A-Za-z_$<][\w.$<>:]*)(?:\+0x([0-9a-f]+)/0x([0-9a-f]+))(.*)$`)
	// TPC: <func+0x1/0x2> (sparc64)
	sparcPCRe = compile(`^TPC: <([A-Za-z_][\w.$]*)\+0x([0-9a-f]+)/0x([0-9a-f]+)>`)
	// The same where no symbol was found.
	pcAnyRe  = compile(`^\s*(?:RIP: ?|EIP: |EIP is at |IP:|PC is at |pc *: |epc *: |NIP:? |Krnl PSW|ERA|TPC: |era )`)
	userPCRe = compile(`^\s*(?:RIP: 00[23][3b]:|EIP: 0073:)`)
	// --- interrupt: 700 at func+0x1/0x2 (powerpc, four dashes in 7.2)
	ppcIntRe = compile(`^\s*----? (?:interrupt|Exception): [0-9a-f]+(?: \([^)]*\))? at ([A-Za-z_][\w.$]*)\+0x([0-9a-f]+)/0x([0-9a-f]+)`)
)

// parseFrame reads one stack line. Most lines give one frame, 32-bit arm gives
// callee and caller. ok is false for lines that are no frames.
func parseFrame(text string) (frames []Frame, ok bool) {
	if !strings.Contains(text, "0x") && !strings.Contains(text, "[inline]") && !strings.Contains(text, " from ") && !inlinedLook(text) {
		return nil, false
	}
	arm := strings.Contains(text, ") from [<")
	if m := frameRe.FindStringSubmatch(text); m != nil && !arm {
		f := Frame{Func: m[3], Unreliable: m[2] != "", Raw: rawFrame(text)}
		f.Offset, f.Size = hex(m[4]), hex(m[5])
		if a := addrRe.FindAllString(m[1], -1); len(a) > 0 {
			f.Addr = hex(a[len(a)-1])
		}
		decorate(&f, m[6])
		return []Frame{f}, true
	}
	if m := inlineRe.FindStringSubmatch(text); m != nil {
		return []Frame{{Func: m[1], File: m[2], Line: number(m[3]), Inline: true, Raw: rawFrame(text)}}, true
	}
	if m := armRe.FindStringSubmatch(text); m != nil {
		raw := rawFrame(text)
		callee := Frame{Func: m[2], Addr: hex(m[1]), Raw: raw}
		caller := Frame{Func: m[4], Addr: hex(m[3]), Raw: raw, File: strings.TrimPrefix(m[7], "("), Line: number(m[8]), Inline: m[9] != ""}
		caller.Offset, caller.Size = hex(m[5]), hex(m[6])
		return []Frame{callee, caller}, true
	}
	if m := armNewRe.FindStringSubmatch(text); m != nil {
		raw := rawFrame(text)
		caller := Frame{Func: m[2], Raw: raw}
		caller.Offset, caller.Size = hex(m[3]), hex(m[4])
		decorate(&caller, m[5])
		return []Frame{{Func: m[1], Raw: raw}, caller}, true
	}
	if m := addrFrameRe.FindStringSubmatch(text); m != nil {
		return []Frame{{Addr: hex(m[2]), Unreliable: m[1] != "", Raw: rawFrame(text)}}, true
	}
	if inlinedLook(text) {
		if m := inlinedRe.FindStringSubmatch(text); m != nil {
			return []Frame{{Func: m[1], File: m[2], Line: number(m[3]), Inline: true, Raw: rawFrame(text)}}, true
		}
	}
	return nil, false
}

// decorate reads what follows func+0x1/0x2 on a line.
func decorate(f *Frame, rest string) {
	if strings.Contains(rest, "(unreliable)") {
		f.Unreliable = true
	}
	if decorateDecoded(f, rest) {
		return
	}
	if m := moduleRe.FindStringSubmatch(rest); m != nil && m[1] != "inline" {
		f.Module = m[1]
	}
	if m := sourceRe.FindStringSubmatch(rest); m != nil {
		f.File, f.Line = m[1], number(m[2])
	}
	if strings.Contains(rest, "[inline]") {
		f.Inline = true
	}
}

// parsePC reads a program counter line of the kernel (not of user space).
func parsePC(text string) (Frame, bool) {
	if !strings.Contains(text, "+0x") || !strings.ContainsAny(text[:min(len(text), 6)], "RENKFIP-pe") {
		return Frame{}, false
	}
	if m := pcRe.FindStringSubmatch(text); m != nil {
		f := Frame{Func: m[1], Raw: rawFrame(text)}
		f.Offset, f.Size = hex(m[2]), hex(m[3])
		decorate(&f, m[4])
		return f, true
	}
	if m := sparcPCRe.FindStringSubmatch(text); m != nil {
		f := Frame{Func: m[1], Raw: rawFrame(text)}
		f.Offset, f.Size = hex(m[2]), hex(m[3])
		return f, true
	}
	if m := ppcIntRe.FindStringSubmatch(text); m != nil {
		f := Frame{Func: m[1], Raw: rawFrame(text)}
		f.Offset, f.Size = hex(m[2]), hex(m[3])
		return f, true
	}
	return Frame{}, false
}

// suffixRe matches what compilers append to the name of a clone.
var suffixRe = compile(`\.(?:isra|part|constprop|cold|llvm|lto_priv|localalias|cfi|cfi_jt|unlikely|text_hot|str|clone|specialized)\b.*$|\.\d+$`)

// baseName strips clone suffixes from a function's name.
func baseName(name string) string {
	if strings.IndexByte(name, '.') > 0 {
		name = suffixRe.ReplaceAllString(name, "")
	}
	return name
}

// hex reads a hexadecimal number; it returns 0 for text that is none.
func hex(s string) uint64 {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0
	}
	return n
}

// number reads a decimal number; it returns 0 for text that is none.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}
