// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
)

const (
	// maxNotes bounds a PT_NOTE segment; a kernel's has a few hundred bytes.
	maxNotes = 1 << 20
	// maxConfig bounds the embedded config unpacked; Debian's has 290 KiB.
	maxConfig = 16 << 20
	// maxBanner bounds linux_banner; a usual one has 250 bytes.
	maxBanner = 1024

	noteGNUBuildID = 3  // elf.h, NT_GNU_BUILD_ID
	noteXenPhys32  = 18 // include/xen/interface/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY
)

// inspectELF recognises a vmlinux. A kernel is told from a program by its
// addresses: kernels are linked in the upper half of the address space, where
// no program can be (Documentation/arch/x86/x86_64/mm.rst,
// Documentation/arch/arm64/memory.rst).
func inspectELF(r io.ReaderAt, size int64, path string) (*Image, error) {
	notKernel := func(detail, cure string, err error) error {
		return &Error{Path: path, Kind: ErrNotKernel, Detail: detail, Cure: cure, Err: err}
	}
	f, err := elf.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil {
		// The section table is at the end of the file, the first thing that a
		// truncated file loses.
		var eh [64]byte
		if n, _ := r.ReadAt(eh[:], 0); n == len(eh) && eh[elf.EI_CLASS] == byte(elf.ELFCLASS64) && eh[elf.EI_DATA] == byte(elf.ELFDATA2LSB) {
			shoff := binary.LittleEndian.Uint64(eh[0x28:])
			end := shoff + uint64(binary.LittleEndian.Uint16(eh[0x3a:]))*uint64(binary.LittleEndian.Uint16(eh[0x3c:]))
			if shoff > uint64(size) || end > uint64(size) {
				return nil, &Error{Path: path, Kind: ErrTruncated,
					Detail: fmt.Sprintf("is a truncated ELF file: %d bytes, its header says at least %d", size, max(shoff, end)),
					Cure:   "copy or build it again"}
			}
		}
		return nil, notKernel("is a damaged ELF file", "", err)
	}
	defer f.Close() //nolint:errcheck // owns nothing
	var arch Arch
	switch {
	case f.Class == elf.ELFCLASS64 && f.Machine == elf.EM_X86_64:
		arch = X86_64
	case f.Class == elf.ELFCLASS64 && f.Machine == elf.EM_AARCH64:
		arch = ARM64
	default:
		return nil, notKernel(fmt.Sprintf("is an ELF file for %s, %s", f.Machine, f.Class), "only x86_64 and arm64 kernels are known here", nil)
	}
	if f.Type == elf.ET_REL {
		return nil, notKernel("is an object file or kernel module, not a kernel", "", nil)
	}
	upper := false
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if p.Off > uint64(size) || p.Filesz > uint64(size)-p.Off {
			return nil, &Error{Path: path, Kind: ErrTruncated,
				Detail: fmt.Sprintf("is a truncated ELF file: %d bytes, a segment ends at %d", size, p.Off+p.Filesz),
				Cure:   "copy or build it again"}
		}
		if p.Vaddr>>63 == 1 {
			upper = true
		}
	}
	if !upper {
		return nil, notKernel("is a program (ELF for "+string(arch)+"), not a kernel", "", nil)
	}
	return &Image{Path: path, Arch: arch, Format: Vmlinux, Compression: None, Bytes: size}, nil
}

// analyze reads what is in a vmlinux. config is the embedded configuration, or
// nil when there is none.
func analyze(r io.ReaderAt, size int64) (d *Details, config []byte, err error) {
	f, err := elf.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, nil, fmt.Errorf("read vmlinux: %w", err)
	}
	defer f.Close() //nolint:errcheck // owns nothing
	d = &Details{}
	for _, p := range f.Progs {
		if p.Off > uint64(size) || p.Filesz > uint64(size)-p.Off {
			return nil, nil, errors.New("read vmlinux: a segment lies outside of the file")
		}
		if p.Type == elf.PT_NOTE {
			if err := d.readNotes(p, f.ByteOrder); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		off, n := int64(p.Off), int64(p.Filesz)
		if !hasBuildNumber(d.Banner) {
			var banner string
			banner, err = findBanner(r, off, n)
			if banner != "" {
				d.Banner = banner
			}
		}
		if err == nil && config == nil {
			config, err = findConfig(r, off, n)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read vmlinux: %w", err)
		}
	}
	d.Release, d.Compiler = splitBanner(d.Banner)
	return d, config, nil
}

// readNotes takes the build-id and the PVH entry from a PT_NOTE segment. The
// layout is that of elf(5), Elf64_Nhdr; name and descriptor are padded to the
// segment's alignment.
func (d *Details) readNotes(p *elf.Prog, order binary.ByteOrder) error {
	if p.Filesz > maxNotes {
		return fmt.Errorf("read vmlinux: note segment of %d bytes", p.Filesz)
	}
	b := make([]byte, p.Filesz)
	if _, err := p.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read vmlinux notes: %w", err)
	}
	align := uint64(4)
	if p.Align == 8 {
		align = 8
	}
	pad := func(n uint32) uint64 { return (uint64(n) + align - 1) &^ (align - 1) }
	for len(b) >= 12 {
		nameLen, descLen, kind := order.Uint32(b), order.Uint32(b[4:]), order.Uint32(b[8:])
		b = b[12:]
		if pad(nameLen) > uint64(len(b)) {
			break
		}
		name := string(bytes.TrimRight(b[:nameLen], "\x00"))
		b = b[pad(nameLen):]
		if uint64(descLen) > uint64(len(b)) {
			break
		}
		desc := b[:descLen]
		b = b[min(pad(descLen), uint64(len(b))):]
		switch {
		case name == "GNU" && kind == noteGNUBuildID:
			d.BuildID = hex.EncodeToString(desc)
		case name == "Xen" && kind == noteXenPhys32 && len(desc) == 8:
			d.PVHEntry = order.Uint64(desc)
		case name == "Xen" && kind == noteXenPhys32 && len(desc) == 4:
			d.PVHEntry = uint64(order.Uint32(desc))
		}
	}
	return nil
}

// findBanner looks for linux_banner (init/version-timestamp.c): "Linux version
// RELEASE (builder) (compiler) #1 SMP ...\n". Since 6.1 a vmlinux also holds a
// weak copy without the build number, from an early link of the same file,
// which is only returned when there is no other.
func findBanner(r io.ReaderAt, off, n int64) (string, error) {
	const prefix = "Linux version "
	banner := ""
	err := search(r, off, n, prefix, func(at int64) (bool, error) {
		b := make([]byte, min(maxBanner, off+n-at))
		if _, err := r.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if len(b) <= len(prefix) || b[len(prefix)] < '0' || b[len(prefix)] > '9' {
			return true, nil // a format string
		}
		if s := cString(b, maxBanner); banner == "" || hasBuildNumber(s) {
			banner = s
		}
		return !hasBuildNumber(banner), nil
	})
	return banner, err
}

// hasBuildNumber looks for the "#1" of a banner.
func hasBuildNumber(banner string) bool {
	i := strings.LastIndex(banner, " #")
	return i >= 0 && i+2 < len(banner) && banner[i+2] >= '0' && banner[i+2] <= '9'
}

// findConfig looks for the gzip file between IKCFG_ST and IKCFG_ED
// (kernel/configs.c).
func findConfig(r io.ReaderAt, off, n int64) ([]byte, error) {
	const start = "IKCFG_ST"
	var config []byte
	err := search(r, off, n, start+"\x1f\x8b", func(at int64) (bool, error) {
		at += int64(len(start))
		z, err := gzip.NewReader(io.NewSectionReader(r, at, off+n-at))
		if err != nil {
			return true, nil
		}
		z.Multistream(false)
		text, err := io.ReadAll(io.LimitReader(z, maxConfig+1))
		if err != nil || len(text) > maxConfig || !bytes.Contains(text, []byte("CONFIG_")) {
			return true, nil // only looked like one
		}
		config = text
		return false, nil
	})
	return config, err
}

// search calls found with each offset of needle in r[off:off+n] until it
// returns false. It reads in pieces, so that memory stays bounded whatever the
// file's size.
func search(r io.ReaderAt, off, n int64, needle string, found func(at int64) (more bool, err error)) error {
	const piece = 1 << 20
	buf := make([]byte, min(n, piece))
	for pos := off; pos+int64(len(needle)) <= off+n; {
		b := buf[:min(int64(len(buf)), off+n-pos)]
		if _, err := r.ReadAt(b, pos); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := 0; ; {
			j := bytes.Index(b[i:], []byte(needle))
			if j < 0 {
				break
			}
			more, err := found(pos + int64(i+j))
			if err != nil || !more {
				return err
			}
			i += j + 1
		}
		// Pieces overlap by what could be cut through.
		step := int64(len(b) - len(needle) + 1)
		pos += max(step, 1)
	}
	return nil
}

// splitBanner takes release and compiler from "Linux version R (who@where)
// (compiler, linker) #1 ...". The parentheses nest.
func splitBanner(banner string) (release, compiler string) {
	rest, ok := strings.CutPrefix(banner, "Linux version ")
	if !ok {
		return "", ""
	}
	release, rest, _ = strings.Cut(rest, " ")
	for range 2 { // the second group is the compiler
		compiler, rest, ok = parenthesized(rest)
		if !ok {
			return release, ""
		}
	}
	// "gcc (Debian 12.2.0-14) 12.2.0, GNU ld (...) 2.40": the linker follows
	// since 5.11. Commas inside of parentheses do not count.
	depth := 0
	for i, r := range compiler {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			return release, compiler[:i]
		}
	}
	return release, compiler
}

// parenthesized returns the content of the parentheses s begins with (after
// spaces) and what follows.
func parenthesized(s string) (in, rest string, ok bool) {
	s = strings.TrimLeft(s, " ")
	if !strings.HasPrefix(s, "(") {
		return "", "", false
	}
	depth := 0
	for i, r := range s {
		switch r {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return s[1:i], s[i+1:], true
			}
		}
	}
	return "", "", false
}
