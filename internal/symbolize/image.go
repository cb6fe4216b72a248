// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	// maxNotes bounds a note section; a kernel's has some hundred bytes.
	maxNotes = 1 << 20
	// moduleBase is where the first section of a relocatable file is put. It is
	// not 0, so that an address of 0 is always a wrong one.
	moduleBase = 0x1000
	noteGNU    = 3 // elf.h, NT_GNU_BUILD_ID
)

// symbol is one entry of the symbol table that code can be in.
type symbol struct {
	name string
	addr uint64
	// size is the distance to the next symbol, which is what the kernel prints
	// after the slash (kernel/kallsyms.c, get_symbol_pos), and length the size in
	// the ELF file, 0 for some written in assembly.
	size, length uint64
	last         bool // of its section: the kernel's size includes padding
}

// image is an ELF file with code: vmlinux or a module. It keeps no file open.
type image struct {
	path    string
	buildID string // lower-case hex, "" if it has none
	banner  string // linux_banner, "" if it is no kernel
	order   binaryOrder
	machine elf.Machine

	code   []section // executable sections, by address
	byAddr []symbol
	byName map[string][]int // indices of byAddr

	hasDWARF bool
	dwarf    *debugInfo // loaded at the first use
	dwarfErr error
	load     func() (*debugInfo, error)
}

// section is an address range, end excluded.
type section struct{ start, end uint64 }

// readImage reads everything but the DWARF of an ELF file. open is called again
// for that; it must give the same bytes.
func readImage(path string, open func() (file, error)) (*image, error) {
	r, err := open()
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // only read
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, &Error{Path: path, Kind: ErrDamaged, Detail: "is a damaged ELF file", Err: err, Cure: "copy or build it again"}
	}
	img := &image{path: path, order: f.ByteOrder, machine: f.Machine, byName: map[string][]int{}}
	if f.Class != elf.ELFCLASS64 {
		return nil, &Error{Path: path, Kind: ErrDamaged, Detail: fmt.Sprintf("is an ELF file of class %s", f.Class), Cure: "only 64-bit kernels are known here"}
	}
	img.buildID = buildID(f)
	base := layout(f)
	for i, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && s.Flags&elf.SHF_EXECINSTR != 0 && s.Size > 0 && base[i]+s.Size > base[i] {
			img.code = append(img.code, section{base[i], base[i] + s.Size})
		}
	}
	slices.SortFunc(img.code, func(a, b section) int { return cmp.Compare(a.start, b.start) })
	if err := img.readSymbols(f, base); err != nil {
		return nil, err
	}
	info, line := f.Section(".debug_info"), f.Section(".debug_line")
	img.hasDWARF = has(info) && has(line)
	img.load = func() (*debugInfo, error) {
		r, err := open()
		if err != nil {
			return nil, fmt.Errorf("read debug information: %w", err)
		}
		defer r.Close() //nolint:errcheck // only read
		f, err := elf.NewFile(r)
		if err != nil {
			return nil, &Error{Path: path, Kind: ErrDamaged, Detail: "has changed meanwhile", Err: err}
		}
		if id := buildID(f); id != img.buildID {
			return nil, &Error{Path: path, Kind: ErrOtherBuild, Detail: fmt.Sprintf("has changed meanwhile: its build-id was %s and is %s", orNone(img.buildID), orNone(id))}
		}
		d, err := loadDWARF(f, layout(f))
		if err != nil {
			return nil, &Error{Path: path, Kind: ErrDamaged, Detail: "cannot read its debug information", Err: err, Cure: "copy or build it again"}
		}
		return d, nil
	}
	return img, nil
}

func has(s *elf.Section) bool { return s != nil && s.Type != elf.SHT_NOBITS && s.Size > 0 }

// debugInfo loads the DWARF once.
func (img *image) debugInfo() (*debugInfo, error) {
	if img.dwarf == nil && img.dwarfErr == nil {
		img.dwarf, img.dwarfErr = img.load()
	}
	return img.dwarf, img.dwarfErr
}

// layout returns each section's address. Those of a relocatable file, which all
// begin at 0, are put one after the other.
func layout(f *elf.File) []uint64 {
	base := make([]uint64, len(f.Sections))
	next := uint64(moduleBase)
	for i, s := range f.Sections {
		if f.Type != elf.ET_REL {
			base[i] = s.Addr
			continue
		}
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		align := max(s.Addralign, 16)
		if align > 1<<20 || s.Size > 1<<32 {
			continue // nonsense; stays at 0, where nothing is looked up
		}
		next = (next + align - 1) / align * align
		base[i] = next
		next += s.Size + 16 // a gap, so that an end is no other's beginning
	}
	return base
}

// readSymbols reads the symbol table. Which entries the kernel has in its own
// table is told by scripts/mksysmap and scripts/kallsyms.c.
func (img *image) readSymbols(f *elf.File, base []uint64) error {
	syms, err := f.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return &Error{Path: img.path, Kind: ErrDamaged, Detail: "cannot read its symbol table", Err: err, Cure: "copy or build it again"}
	}
	sect := make([]int, 0, len(syms))
	for _, s := range syms {
		kind := elf.ST_TYPE(s.Info)
		if s.Name == "linux_banner" {
			img.banner = readBanner(f, s, base)
		}
		if s.Section == elf.SHN_UNDEF || int(s.Section) >= len(f.Sections) || s.Name == "" ||
			kind != elf.STT_FUNC && kind != elf.STT_NOTYPE && kind != elf.STT_OBJECT || local(s.Name) {
			continue
		}
		if f.Sections[s.Section].Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		addr := s.Value
		if f.Type == elf.ET_REL {
			addr += base[s.Section]
		}
		img.byAddr = append(img.byAddr, symbol{name: s.Name, addr: addr, length: s.Size})
		sect = append(sect, int(s.Section))
	}
	end := func(i int) uint64 { return base[sect[i]] + f.Sections[sect[i]].Size }
	order := make([]int, len(img.byAddr))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(img.byAddr[a].addr, img.byAddr[b].addr) })
	sorted := make([]symbol, len(order))
	for i := len(order) - 1; i >= 0; i-- {
		s := img.byAddr[order[i]]
		switch {
		case i+1 < len(order) && sorted[i+1].addr == s.addr:
			s.size, s.last = sorted[i+1].size, sorted[i+1].last
		case i+1 < len(order) && sect[order[i]] == sect[order[i+1]]:
			s.size = sorted[i+1].addr - s.addr
		default:
			s.last = true
			if e := end(order[i]); e > s.addr {
				s.size = e - s.addr
			}
		}
		sorted[i] = s
	}
	img.byAddr = sorted
	for i, s := range sorted {
		if img.inCode(s.addr) {
			img.byName[s.name] = append(img.byName[s.name], i)
			// ThinLTO promotes static functions under names that the kernel's own
			// table cuts (cleanup_symbol_name of kernel/kallsyms.c).
			if short, _, ok := strings.Cut(s.name, ".llvm."); ok {
				img.byName[short] = append(img.byName[short], i)
			}
		}
	}
	return nil
}

// local reports whether the kernel's table leaves the symbol out.
func local(name string) bool {
	return strings.HasPrefix(name, "$") || strings.HasPrefix(name, ".L") || strings.HasPrefix(name, "__kcfi_typeid_") ||
		strings.HasPrefix(name, "__crc_") || strings.HasPrefix(name, "__kstrtab")
}

// inCode reports whether code can be at addr.
func (img *image) inCode(addr uint64) bool {
	i, ok := slices.BinarySearchFunc(img.code, addr, func(s section, a uint64) int { return cmp.Compare(s.start, a) })
	if ok {
		return true
	}
	return i > 0 && addr < img.code[i-1].end
}

// at returns the symbol addr lies in.
func (img *image) at(addr uint64) (symbol, bool) {
	if !img.inCode(addr) {
		return symbol{}, false
	}
	i, ok := slices.BinarySearchFunc(img.byAddr, addr, func(s symbol, a uint64) int { return cmp.Compare(s.addr, a) })
	if !ok {
		i--
	}
	if i < 0 {
		return symbol{}, false
	}
	// Of several names for one address take a function's, with its length.
	best := img.byAddr[i]
	for j := i - 1; j >= 0 && img.byAddr[j].addr == best.addr; j-- {
		if img.byAddr[j].length > 0 || best.length == 0 {
			best = img.byAddr[j]
		}
	}
	if addr-best.addr >= best.size {
		return symbol{}, false
	}
	return best, true
}

// find returns the functions that are printed as name+offset/size. A size of 0
// means that the log does not tell.
func (img *image) find(name string, offset, size uint64) ([]symbol, error) {
	all := img.byName[name]
	if len(all) == 0 {
		return nil, fmt.Errorf("%q: %w", clip(name), ErrUnknown)
	}
	var fits, other []symbol
	for _, i := range all {
		s := img.byAddr[i]
		switch {
		case size == 0 && offset <= s.size,
			size != 0 && (s.size == size || s.length == size || s.last && size > s.length):
			fits = append(fits, s)
		default:
			other = append(other, s)
		}
	}
	if len(fits) == 0 && size != 0 {
		// A symbol that the kernel's table leaves out may have split the function.
		for _, s := range other {
			if _, ok := slices.BinarySearchFunc(img.byAddr, s.addr+size, func(s symbol, a uint64) int { return cmp.Compare(s.addr, a) }); ok && s.addr+size > s.addr {
				fits = append(fits, s)
			}
		}
	}
	if len(fits) == 0 {
		sizes := make([]string, 0, 4)
		for _, s := range other[:min(len(other), 4)] {
			sizes = append(sizes, fmt.Sprintf("%#x", s.size))
		}
		return nil, fmt.Errorf("%q of size %#x: the file has it with size %s: %w", clip(name), size, strings.Join(sizes, ", "), ErrUnknown)
	}
	// Several names may mean one place.
	slices.SortFunc(fits, func(a, b symbol) int { return cmp.Compare(a.addr, b.addr) })
	return slices.CompactFunc(fits, func(a, b symbol) bool { return a.addr == b.addr }), nil
}

// clip bounds what a guest may put into an error.
func clip(s string) string {
	if len(s) > 256 {
		return s[:256] + "..."
	}
	return s
}

func orNone(id string) string {
	if id == "" {
		return "(none)"
	}
	return id
}

// buildID returns the GNU build-id. The layout of a note is that of elf(5).
func buildID(f *elf.File) string {
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOTE || s.Size > maxNotes || s.Flags&elf.SHF_COMPRESSED != 0 {
			continue
		}
		b, err := s.Data()
		if err != nil {
			continue
		}
		pad := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
		for len(b) >= 12 {
			nameLen, descLen, kind := f.ByteOrder.Uint32(b), f.ByteOrder.Uint32(b[4:]), f.ByteOrder.Uint32(b[8:])
			b = b[12:]
			if pad(nameLen) > uint64(len(b)) {
				break
			}
			name := string(bytes.TrimRight(b[:nameLen], "\x00"))
			b = b[pad(nameLen):]
			if uint64(descLen) > uint64(len(b)) {
				break
			}
			if name == "GNU" && kind == noteGNU && descLen <= 64 {
				return hex.EncodeToString(b[:descLen])
			}
			b = b[min(pad(descLen), uint64(len(b))):]
		}
	}
	return ""
}

// readBanner reads "Linux version ..." from where the symbol points.
func readBanner(f *elf.File, s elf.Symbol, base []uint64) string {
	if int(s.Section) >= len(f.Sections) || s.Section == elf.SHN_UNDEF {
		return ""
	}
	sec := f.Sections[s.Section]
	if sec.Type == elf.SHT_NOBITS || s.Value < base[s.Section] {
		return "" // a separate debug file has no data
	}
	b := make([]byte, 1024)
	n, err := sec.ReadAt(b, int64(s.Value-base[s.Section]))
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	b = b[:n]
	if i := bytes.IndexAny(b, "\n\x00"); i >= 0 {
		b = b[:i]
	}
	if !bytes.HasPrefix(b, []byte("Linux version ")) {
		return ""
	}
	return string(b)
}

// file is what an ELF file is read from.
type file interface {
	io.ReaderAt
	io.Closer
}

func openFile(path string) func() (file, error) {
	return func() (file, error) { return os.Open(path) }
}
