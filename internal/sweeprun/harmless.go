// SPDX-License-Identifier: Apache-2.0

package sweeprun

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
)

// harmless copies a kernel and changes the function by which all injectors
// decide so that it prints and counts every fault, and never injects one: its
// one "return true" returns false, and nobody is spared the message. The copy
// has no name. silence says why some calls will print nothing, "" for none.
func (s *Sweeper) harmless(vmlinux, dir string) (copied *os.File, silence string, err error) {
	const cure = "-at POINT still works"
	fail := func(err error) (*os.File, string, error) {
		return nil, "", fmt.Errorf("list the calls that can fail: %w; %s", err, cure)
	}
	f, err := elf.Open(vmlinux)
	if err != nil {
		return fail(err)
	}
	defer f.Close() //nolint:errcheck // only read
	var patch []int64
	for _, name := range []string{"should_fail_ex", "should_fail"} { // the first since 6.1
		list := s.symbols[name]
		if len(list) != 1 || list[0].Size == 0 {
			continue
		}
		sec := f.Sections[list[0].Section]
		code := make([]byte, min(list[0].Size, 1<<16))
		off := list[0].Value - sec.Addr
		if _, err := sec.ReadAt(code, int64(off)); err != nil {
			return fail(fmt.Errorf("read %s: %w", name, err))
		}
		at := returnTrue(code)
		if len(at) != 1 {
			break
		}
		flags := testOfFlags(code)
		if name == "should_fail_ex" { // the other one has no flags, and prints always
			if len(flags) == 1 {
				at = append(at, flags...)
			} else {
				silence = fmt.Sprintf("the test of FAULT_NOWARN was not found in %s: calls that want no message have no stack", name)
			}
		}
		for _, a := range at {
			patch = append(patch, int64(sec.Offset+off)+int64(a))
		}
		break
	}
	if len(patch) == 0 {
		return fail(fmt.Errorf("the end of should_fail_ex was not found in %s: is it stripped, or not of x86?", vmlinux))
	}
	from, err := os.Open(vmlinux)
	if err != nil {
		return fail(err)
	}
	defer from.Close() //nolint:errcheck // only read
	to, err := os.CreateTemp(dir, ".vmlinux-*")
	if err != nil {
		return fail(err)
	}
	_ = os.Remove(to.Name())
	_, err = io.Copy(to, from)
	for _, at := range patch {
		if err == nil {
			_, err = to.WriteAt([]byte{0}, at)
		}
	}
	if err != nil {
		return fail(errors.Join(err, to.Close()))
	}
	return to, silence, nil
}

// returnTrue returns where in code the 1 of each "mov $1, %eax" is.
func returnTrue(code []byte) (at []int) {
	mov := []byte{0xb8, 1, 0, 0, 0}
	for i := range code {
		if bytes.HasPrefix(code[i:], mov) {
			at = append(at, i+1)
		}
	}
	return at
}

// place is an operand of an x86 instruction: a register, or memory at a short
// distance from one.
type place struct {
	high byte   // the bit of the REX prefix that belongs to the register
	code []byte // ModRM without its middle field, SIB and displacement
}

// testOfFlags returns where in the code of should_fail_ex the 1 of
// "if (flags & FAULT_NOWARN)" is. The flags are the third argument: they arrive
// in %edx and are kept elsewhere over the calls in between. Other conditions on
// a lowest bit, as a sanitizer makes them of a bool, are about other operands.
func testOfFlags(code []byte) (at []int) {
	const prologue = 64 // where arguments are saved; 11 bytes in at most in the kernels looked at
	var kept []place
	for i := 0; i < min(prologue, len(code)-4); i++ {
		m := code[i+1]
		if code[i] != 0x89 || m>>3&7 != 2 { // mov %edx, ...
			continue
		}
		p := place{high: rex(code, i) & 1}
		switch {
		case rex(code, i)&^1 != 0: // another width, or %r10d
			continue
		case m>>6 == 3:
			p.code = []byte{m &^ 0x38}
		case m>>6 == 1 && m&7 == 4: // (%rsp) and a distance
			p.code = []byte{m &^ 0x38, code[i+2], code[i+3]}
		case m>>6 == 1:
			p.code = []byte{m &^ 0x38, code[i+2]}
		default:
			continue
		}
		kept = append(kept, p)
	}
	for i := range code {
		var field byte
		switch code[i] {
		case 0x83: // and $imm8, ...
			field = 4
		case 0xf6: // testb $imm8, ...
			field = 0
		default:
			continue
		}
		for _, p := range kept {
			n := i + 1 + len(p.code)
			if n+3 > len(code) || code[i+1]>>3&7 != field || rex(code, i)&1 != p.high || code[n] != 1 {
				continue
			}
			same := code[i+1]&^0x38 == p.code[0] && bytes.Equal(code[i+2:n], p.code[1:])
			jump := code[n+1] == 0x74 || code[n+1] == 0x75 || code[n+1] == 0x0f && code[n+2]&^1 == 0x84
			if same && jump {
				at = append(at, n)
			}
		}
	}
	return at
}

// rex returns the low half of the REX prefix of the instruction at i, 0 for
// none.
func rex(code []byte, i int) byte {
	if i == 0 || code[i-1]>>4 != 4 {
		return 0
	}
	return code[i-1] & 15
}
