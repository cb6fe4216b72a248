// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"cmp"
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

type binaryOrder = binary.ByteOrder

const (
	// maxSection bounds a debug section; Debian's largest has some 300 MiB.
	maxSection = 4 << 30
	// maxInline bounds the functions inlined at one place. GCC and clang stop far
	// below; damaged DWARF may not.
	maxInline = 64
	// maxUnits bounds the units whose tables are kept.
	maxUnits = 512
)

// debugInfo answers questions from the DWARF of one ELF file.
type debugInfo struct {
	data   *dwarf.Data
	ranges []unitRange // by address
	units  map[dwarf.Offset]*unit
	names  map[dwarf.Offset]string
	// compDir is where the first unit was compiled, root the kernel tree's top if
	// a unit tells. Both end in a slash or are empty.
	compDir, root string
}

type unitRange struct {
	start, end uint64
	unit       dwarf.Offset
}

// unit is the index of one compilation unit.
type unit struct {
	entry *dwarf.Entry
	rows  []row // by address
	files []*dwarf.LineFile
	funcs []funcRange // by address
}

// row is one row of the line table: what the code from addr on belongs to. A
// line of -1 ends a sequence.
type row struct {
	addr uint64
	file string
	line int
}

type funcRange struct {
	start, end uint64
	die        dwarf.Offset
}

// position is one function at one place.
type position struct {
	fn   string // "" if unknown
	file string
	line int
}

// loadDWARF reads the debug sections of f, whose sections are at base.
func loadDWARF(f *elf.File, base []uint64) (*debugInfo, error) {
	sections := map[string][]byte{}
	for i, s := range f.Sections {
		name, ok := strings.CutPrefix(s.Name, ".debug_")
		if !ok || s.Type == elf.SHT_NOBITS {
			continue
		}
		switch name {
		case "abbrev", "info", "str", "line", "line_str", "ranges", "rnglists", "addr", "str_offsets":
		default:
			continue // frames, macros, locations, indices: not needed
		}
		if s.Size > maxSection {
			return nil, fmt.Errorf("section %s has %d bytes", s.Name, s.Size)
		}
		b, err := sectionData(s)
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
		if f.Type == elf.ET_REL {
			if err := relocate(f, i, b, base); err != nil {
				return nil, fmt.Errorf("section %s: %w", s.Name, err)
			}
		}
		sections[name] = b
	}
	data, err := dwarf.New(sections["abbrev"], nil, nil, sections["info"], sections["line"], nil, sections["ranges"], sections["str"])
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"line_str", "rnglists", "addr", "str_offsets"} {
		if b := sections[name]; b != nil {
			if err := data.AddSection(".debug_"+name, b); err != nil {
				return nil, fmt.Errorf("section .debug_%s: %w", name, err)
			}
		}
	}
	d := &debugInfo{data: data, units: map[dwarf.Offset]*unit{}, names: map[dwarf.Offset]string{}}
	return d, d.index()
}

// sectionData is s.Data, which does not trust the section's size and therefore
// grows its buffer again and again: for what fits into the file, that is most of
// the time.
func sectionData(s *elf.Section) ([]byte, error) {
	if s.Flags&elf.SHF_COMPRESSED != 0 || s.Size == 0 {
		return s.Data()
	}
	var end [1]byte
	if _, err := s.ReadAt(end[:], int64(s.Size)-1); err != nil {
		return nil, fmt.Errorf("it ends beyond the file: %w", err)
	}
	b := make([]byte, s.Size)
	if _, err := s.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// relocate applies to b, the content of section i, what the linker would. Debug
// sections need two kinds of relocations: absolute ones of 64 and 32 bits (the
// numbers are those of the psABIs, as in debug/elf).
func relocate(f *elf.File, i int, b []byte, base []uint64) error {
	syms, err := f.Symbols()
	if err != nil {
		return err
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_RELA || int(s.Info) != i { //nolint:misspell // its name
			continue
		}
		recs, err := s.Data()
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		for ; len(recs) >= 24; recs = recs[24:] {
			off, info, val := f.ByteOrder.Uint64(recs), f.ByteOrder.Uint64(recs[8:]), f.ByteOrder.Uint64(recs[16:])
			if n := info >> 32; n > 0 {
				if n > uint64(len(syms)) {
					return fmt.Errorf("%s: symbol %d of %d", s.Name, n, len(syms))
				}
				sym := syms[n-1] // Symbols leaves out entry 0
				val += sym.Value
				if int(sym.Section) < len(base) {
					val += base[sym.Section]
				}
			}
			var width uint64
			switch kind := uint32(info); {
			case f.Machine == elf.EM_X86_64 && kind == uint32(elf.R_X86_64_64), f.Machine == elf.EM_AARCH64 && kind == uint32(elf.R_AARCH64_ABS64):
				width = 8
			case f.Machine == elf.EM_X86_64 && kind == uint32(elf.R_X86_64_32), f.Machine == elf.EM_AARCH64 && kind == uint32(elf.R_AARCH64_ABS32):
				width = 4
			case kind == 0:
				continue
			default:
				return fmt.Errorf("%s: relocations of type %d for %s are not known here", s.Name, kind, f.Machine)
			}
			if uint64(len(b)) < width || off > uint64(len(b))-width {
				return fmt.Errorf("%s: relocation at %#x of %#x", s.Name, off, len(b))
			}
			if width == 8 {
				f.ByteOrder.PutUint64(b[off:], val)
			} else {
				f.ByteOrder.PutUint32(b[off:], uint32(val))
			}
		}
	}
	return nil
}

// index finds out which unit covers which addresses. It reads one entry of each
// unit; .debug_aranges would be faster still, but clang leaves it out.
func (d *debugInfo) index() error {
	r := d.data.Reader()
	var first error
	for {
		e, err := r.Next()
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		if e.Tag == dwarf.TagCompileUnit || e.Tag == dwarf.TagSkeletonUnit {
			d.tree(e)
			ranges, err := d.data.Ranges(e)
			if err != nil && first == nil {
				first = err
			}
			for _, rg := range ranges {
				if rg[0] < rg[1] && rg[0] != 0 {
					d.ranges = append(d.ranges, unitRange{rg[0], rg[1], e.Offset})
				}
			}
		}
		r.SkipChildren()
	}
	if len(d.ranges) == 0 {
		return cmp.Or(first, errors.New("no compilation unit has code"))
	}
	slices.SortFunc(d.ranges, func(a, b unitRange) int { return cmp.Compare(a.start, b.start) })
	return nil
}

// tree learns where the kernel tree was.
func (d *debugInfo) tree(e *dwarf.Entry) {
	dir, _ := e.Val(dwarf.AttrCompDir).(string)
	name, _ := e.Val(dwarf.AttrName).(string)
	if dir != "" && d.compDir == "" {
		d.compDir = strings.TrimSuffix(path.Clean(dir), "/") + "/"
	}
	// The one file that every kernel has; scripts/decode_stacktrace.sh relies on
	// it too.
	if d.root == "" && (name == "init/main.c" || strings.HasSuffix(name, "/init/main.c")) {
		if !path.IsAbs(name) {
			name = path.Join(dir, name)
		}
		d.root = strings.TrimSuffix(path.Clean(name), "init/main.c")
	}
}

// lookup returns the functions at addr, innermost first. The last is the one
// that is not inlined; its name is empty where the DWARF has only lines.
func (d *debugInfo) lookup(addr uint64) ([]position, error) {
	i, ok := slices.BinarySearchFunc(d.ranges, addr, func(r unitRange, a uint64) int { return cmp.Compare(r.start, a) })
	if !ok {
		i--
	}
	if i < 0 || addr >= d.ranges[i].end {
		return nil, fmt.Errorf("address %#x: %w", addr, ErrNoDebugInfo)
	}
	u, err := d.unit(d.ranges[i].unit)
	if err != nil {
		return nil, err
	}
	cur, ok := u.line(addr)
	if !ok {
		return nil, fmt.Errorf("address %#x: %w", addr, ErrNoDebugInfo)
	}
	chain, err := d.chain(u, addr)
	if err != nil {
		return nil, err
	}
	// chain runs from the outermost function inwards; each knows the place where
	// it was inlined into the one before.
	out := make([]position, 0, len(chain)+1)
	at := position{file: cur.file, line: cur.line}
	for i := len(chain) - 1; i >= 0; i-- {
		at.fn = chain[i].fn
		out = append(out, at)
		at = position{file: chain[i].file, line: chain[i].line}
	}
	if len(out) == 0 {
		out = append(out, at)
	}
	return out, nil
}

// unit returns the tables of the unit at off.
func (d *debugInfo) unit(off dwarf.Offset) (*unit, error) {
	if u := d.units[off]; u != nil {
		return u, nil
	}
	r := d.data.Reader()
	r.Seek(off)
	e, err := r.Next()
	if err != nil {
		return nil, err
	}
	u := &unit{entry: e}
	if err := d.readLines(u); err != nil {
		return nil, err
	}
	if e.Children {
		if err := d.readFuncs(u, r, 0); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(u.funcs, func(a, b funcRange) int { return cmp.Compare(a.start, b.start) })
	if len(d.units) >= maxUnits {
		clear(d.units)
		clear(d.names)
	}
	d.units[off] = u
	return u, nil
}

// readLines reads the line table.
func (d *debugInfo) readLines(u *unit) error {
	lr, err := d.data.LineReader(u.entry)
	if err != nil || lr == nil {
		return err
	}
	var e dwarf.LineEntry
	for {
		if err := lr.Next(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		w := row{addr: e.Address, line: e.Line}
		if e.EndSequence {
			w.line = -1
		} else if e.File != nil {
			w.file = e.File.Name
		}
		if n := len(u.rows); n > 0 && u.rows[n-1].addr == w.addr && u.rows[n-1].line >= 0 && w.line >= 0 {
			u.rows[n-1] = w // no code in between: the last one counts
			continue
		}
		u.rows = append(u.rows, w)
	}
	u.files = lr.Files()
	// Sequences come in any order. Where one ends and another begins, the
	// beginning must be found.
	slices.SortStableFunc(u.rows, func(a, b row) int {
		if c := cmp.Compare(a.addr, b.addr); c != 0 {
			return c
		}
		return cmp.Compare(min(a.line, 0), min(b.line, 0))
	})
	return nil
}

// line returns the row that covers addr.
func (u *unit) line(addr uint64) (row, bool) {
	i, _ := slices.BinarySearchFunc(u.rows, addr+1, func(r row, a uint64) int { return cmp.Compare(r.addr, a) })
	if i == 0 || u.rows[i-1].line <= 0 {
		return row{}, false
	}
	return u.rows[i-1], true
}

// readFuncs collects the functions below the entry r has just read. depth counts
// namespaces, in which Rust has its functions.
func (d *debugInfo) readFuncs(u *unit, r *dwarf.Reader, depth int) error {
	for {
		e, err := r.Next()
		if err != nil {
			return err
		}
		if e == nil || e.Tag == 0 {
			return nil
		}
		switch e.Tag {
		case dwarf.TagSubprogram:
			ranges, err := d.data.Ranges(e)
			if err != nil {
				return err
			}
			for _, rg := range ranges {
				if rg[0] < rg[1] {
					u.funcs = append(u.funcs, funcRange{rg[0], rg[1], e.Offset})
				}
			}
		case dwarf.TagNamespace, dwarf.TagStructType:
			// Methods of Rust types may be below the types.
			if e.Children && depth < 16 && (e.Tag == dwarf.TagNamespace || depth > 0) {
				if err := d.readFuncs(u, r, depth+1); err != nil {
					return err
				}
				continue
			}
		}
		if e.Children {
			r.SkipChildren()
		}
	}
}

// chain returns the function at addr and what was inlined there, outermost
// first, each with the place of its call.
func (d *debugInfo) chain(u *unit, addr uint64) ([]position, error) {
	i, _ := slices.BinarySearchFunc(u.funcs, addr+1, func(f funcRange, a uint64) int { return cmp.Compare(f.start, a) })
	if i == 0 || addr >= u.funcs[i-1].end {
		return nil, nil
	}
	r := d.data.Reader()
	r.Seek(u.funcs[i-1].die)
	e, err := r.Next()
	if err != nil {
		return nil, err
	}
	chain := []position{{fn: d.name(e, 0)}}
	if !e.Children {
		return chain, nil
	}
	// Walk the children. An inlined call or block that covers addr is entered,
	// everything else skipped; the blocks do not overlap, so none is returned to.
	for len(chain) < maxInline {
		e, err := r.Next()
		if err != nil {
			return nil, err
		}
		if e == nil || e.Tag == 0 {
			return chain, nil
		}
		enter := false
		switch e.Tag {
		case dwarf.TagInlinedSubroutine, dwarf.TagLexDwarfBlock:
			ranges, err := d.data.Ranges(e)
			if err != nil {
				return nil, err
			}
			enter = slices.ContainsFunc(ranges, func(rg [2]uint64) bool { return rg[0] <= addr && addr < rg[1] })
		}
		if !enter {
			if e.Children {
				r.SkipChildren()
			}
			continue
		}
		if e.Tag == dwarf.TagInlinedSubroutine {
			p := position{fn: d.name(e, 0)}
			if n, ok := e.Val(dwarf.AttrCallFile).(int64); ok && n >= 0 && n < int64(len(u.files)) && u.files[n] != nil {
				p.file = u.files[n].Name
			}
			if n, ok := e.Val(dwarf.AttrCallLine).(int64); ok && n > 0 && n < 1<<31 {
				p.line = int(n)
			}
			chain = append(chain, p)
		}
		if !e.Children {
			return chain, nil
		}
	}
	return chain, nil
}

// name returns the name of a function, following references to where it is
// declared.
func (d *debugInfo) name(e *dwarf.Entry, depth int) string {
	if s, ok := e.Val(dwarf.AttrName).(string); ok {
		return s
	}
	if depth > 8 {
		return ""
	}
	for _, attr := range []dwarf.Attr{dwarf.AttrAbstractOrigin, dwarf.AttrSpecification} {
		off, ok := e.Val(attr).(dwarf.Offset)
		if !ok {
			continue
		}
		if s, ok := d.names[off]; ok {
			return s
		}
		r := d.data.Reader()
		r.Seek(off)
		if ref, err := r.Next(); err == nil && ref != nil {
			s := d.name(ref, depth+1)
			d.names[off] = s
			return s
		}
	}
	return ""
}
