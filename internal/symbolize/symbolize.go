// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/internal/kimage"
	"github.com/kvmrun/kvmrun/internal/oops"
)

const (
	// maxAnswers bounds the answers kept for repeated questions.
	maxAnswers = 1 << 14
	// maxCandidates bounds the places named for an ambiguous function.
	maxCandidates = 4
)

// Symbolizer finds source positions for one kernel build. Its methods are safe
// for concurrent use; they take turns.
type Symbolizer struct {
	kernel *image // symbols
	debug  *image // DWARF: kernel itself or its separate debug file
	dirs   []string

	mu      sync.Mutex
	offset  *uint64 // KASLR offset given, nil if unknown
	modules map[moduleKey]*moduleImage
	files   map[string][]string // module name -> paths, from all dirs; nil before the first use
	answers map[question]answer
}

type moduleKey struct{ name, buildID string }

type moduleImage struct {
	symbols, debug *image
	err            error
}

type question struct {
	img  *image
	addr uint64
}

type answer struct {
	pos []Position
	err error
}

// Position is one function at one place of its source.
type Position struct {
	// Func is the function's name in the source, the symbol's where the debug
	// information knows the line only (code written in assembly).
	Func string
	// File is the path relative to the kernel tree, or absolute if it lies
	// outside of it. Line counts from 1.
	File string
	Line int
	// Inline says that Func was inlined into the next position's function.
	Inline bool
}

// Location is what is at an address.
type Location struct {
	Func         string // the symbol, as the kernel would print it
	Offset, Size uint64 // in bytes, as in func+offset/size
	Module       string // "" for built-in code
	// Positions are the source positions, innermost first; the last is Func's own.
	Positions []Position
}

// Open reads the symbols of vmlinux, the uncompressed kernel as it was linked,
// not stripped. In modulesDirs (with what is below them) modules and separate
// debug files are looked for when they are needed: NAME.ko, also compressed, and
// .build-id/XX/YYYY.debug. A vmlinux without debug information is accepted if
// such a file holds it.
//
// Errors about the file are an [*Error] or a [*kimage.Error].
func Open(vmlinux string, modulesDirs ...string) (*Symbolizer, error) {
	for _, d := range modulesDirs {
		st, err := os.Stat(d)
		if err != nil {
			return nil, fmt.Errorf("open modules directory: %w", err)
		}
		if !st.IsDir() {
			return nil, fmt.Errorf("open modules directory %s: it is a file", d)
		}
	}
	if err := checkKernel(vmlinux); err != nil {
		return nil, err
	}
	img, err := readImage(vmlinux, openFile(vmlinux))
	if err != nil {
		return nil, err
	}
	s := &Symbolizer{
		kernel: img, debug: img, dirs: modulesDirs,
		modules: map[moduleKey]*moduleImage{}, answers: map[question]answer{},
	}
	if !img.hasDWARF {
		if s.debug = s.separate(img.buildID); s.debug == nil {
			return nil, &Error{Path: vmlinux, Kind: ErrNoDebugInfo, Detail: "has no debug information", Cure: debugCure}
		}
	}
	if len(img.byAddr) == 0 {
		if len(s.debug.byAddr) == 0 {
			return nil, &Error{Path: vmlinux, Kind: ErrNoDebugInfo, Detail: "has no symbol table, it was stripped", Cure: debugCure}
		}
		s.kernel = s.debug
	}
	return s, nil
}

// checkKernel refuses what is no ELF kernel, saying what it is.
func checkKernel(name string) error {
	k, err := kimage.Open(name)
	if err != nil {
		var e *kimage.Error
		// A debug file may lack the segments that its headers promise: whether it
		// is usable is for readImage to tell.
		if errors.As(err, &e) && errors.Is(err, kimage.ErrTruncated) && strings.Contains(e.Detail, "a segment ends at") {
			return nil
		}
		return err
	}
	if k.Format != kimage.Vmlinux {
		return &Error{Path: name, Kind: ErrNoDebugInfo,
			Detail: fmt.Sprintf("is a %s, which holds no debug information", k.Format),
			Cure:   "give the vmlinux of the same build; " + debugCure}
	}
	return nil
}

// Path is the file of the kernel's symbols.
func (s *Symbolizer) Path() string { return s.kernel.path }

// BuildID returns the vmlinux's GNU build-id in lower-case hex, "" if it has
// none.
func (s *Symbolizer) BuildID() string { return s.kernel.buildID }

// Banner returns the first line that kernel prints, "" if the file does not
// tell.
func (s *Symbolizer) Banner() string { return s.kernel.banner }

// CheckBuildID returns an [*Error] of kind [ErrOtherBuild] with both build-ids
// unless the kernel with the build-id want is the one that was opened. An empty
// want, or a vmlinux without build-id, cannot be compared and is accepted.
func (s *Symbolizer) CheckBuildID(want string) error {
	want = strings.ToLower(want)
	if want == "" || s.kernel.buildID == "" || want == s.kernel.buildID {
		return nil
	}
	return &Error{Path: s.kernel.path, Kind: ErrOtherBuild,
		Detail: fmt.Sprintf("is of another build: its build-id is %s, the kernel that ran has %s", s.kernel.buildID, clip(want)),
		Cure:   "give the vmlinux of the kernel that ran"}
}

// CheckBanner is CheckBuildID by the kernel's first line ("Linux version ..."),
// which holds the time of the build: the next best thing where the log has no
// build-id.
func (s *Symbolizer) CheckBanner(line string) error {
	if i := strings.Index(line, "Linux version "); i > 0 {
		line = line[i:]
	}
	line = strings.TrimSpace(line)
	if line == "" || s.kernel.banner == "" || line == strings.TrimSpace(s.kernel.banner) {
		return nil
	}
	return &Error{Path: s.kernel.path, Kind: ErrOtherBuild,
		Detail: fmt.Sprintf("is of another build (build-id %s): it is %q, the kernel that ran %q", orNone(s.kernel.buildID), s.kernel.banner, clip(line)),
		Cure:   "give the vmlinux of the kernel that ran"}
}

// SetOffset sets how far KASLR moved the kernel, in bytes: what the log calls
// "Kernel Offset", 0 if KASLR was off. Only addresses need it; names with
// offsets do not. A report's own offset takes precedence.
func (s *Symbolizer) SetOffset(offset uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = &offset
}

// Addr says what is at the address addr of the running kernel. ret says that
// addr is a return address, found on a stack: it lies behind the call, and the
// call is what is looked for. Built-in code only.
func (s *Symbolizer) Addr(addr uint64, ret bool) (*Location, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.offset == nil {
		return nil, fmt.Errorf("look up %#x: %w", addr, ErrNoOffset)
	}
	return s.addr(addr-*s.offset, ret)
}

// addr is Addr with KASLR undone. A location without positions comes with an
// error.
func (s *Symbolizer) addr(addr uint64, ret bool) (*Location, error) {
	back := uint64(0)
	if ret {
		back = 1
	}
	sym, ok := s.kernel.at(addr - back)
	if !ok {
		return nil, fmt.Errorf("look up %#x: %w", addr, ErrUnknown)
	}
	loc := &Location{Func: sym.name, Offset: addr - sym.addr, Size: sym.size}
	var err error
	loc.Positions, err = s.positions(s.debug, sym.name, addr-back)
	return loc, err
}

// Frame returns the source positions of a frame by its name, offset, size and
// module. ret is as for [Symbolizer.Addr]. Errors wrap [ErrUnknown],
// [ErrAmbiguous], [ErrNoDebugInfo], [ErrNoModule], [ErrOtherBuild] or
// [ErrDamaged]. The result is shared: do not modify it.
func (s *Symbolizer) Frame(f oops.Frame, ret bool) ([]Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frame(f, moduleID(f.Raw, f.Module), nil, ret)
}

// frame is Frame. modID is the module's build-id, "" if the log does not tell;
// offset the KASLR offset, nil if unknown.
func (s *Symbolizer) frame(f oops.Frame, modID string, offset *uint64, ret bool) ([]Position, error) {
	syms, dbg := s.kernel, s.debug
	if f.Module != "" {
		m := s.module(f.Module, modID)
		if m.err != nil {
			return nil, m.err
		}
		syms, dbg = m.symbols, m.debug
	}
	if f.Size != 0 && f.Offset > f.Size {
		return nil, fmt.Errorf("%q+%#x/%#x: the offset lies outside: %w", clip(f.Func), f.Offset, f.Size, ErrUnknown)
	}
	fits, err := syms.find(f.Func, f.Offset, f.Size)
	if err != nil {
		return nil, err
	}
	if len(fits) > 1 && f.Addr != 0 && offset != nil && f.Module == "" {
		for _, sym := range fits {
			if sym.addr+f.Offset == f.Addr-*offset {
				fits = []symbol{sym}
				break
			}
		}
	}
	back := uint64(0)
	if ret && f.Offset > 0 {
		back = 1
	}
	if len(fits) > 1 {
		return nil, s.ambiguous(dbg, f, fits, back)
	}
	return s.positions(dbg, f.Func, fits[0].addr+f.Offset-back)
}

// ambiguous makes the error that names the candidates.
func (s *Symbolizer) ambiguous(dbg *image, f oops.Frame, fits []symbol, back uint64) error {
	var places []string
	for _, sym := range fits[:min(len(fits), maxCandidates)] {
		pos, err := s.positions(dbg, sym.name, sym.addr+f.Offset-back)
		if err != nil {
			places = append(places, fmt.Sprintf("%#x", sym.addr))
			continue
		}
		p := pos[len(pos)-1]
		places = append(places, fmt.Sprintf("%s:%d", p.File, p.Line))
	}
	if n := len(fits) - len(places); n > 0 {
		places = append(places, fmt.Sprintf("%d more", n))
	}
	return fmt.Errorf("%s is %w: %s", clip(f.Func), ErrAmbiguous, strings.Join(places, " or "))
}

// positions looks an address of dbg up. The symbol's name fn stands in where
// the DWARF has no function: GCC leaves out one of two that it merged.
func (s *Symbolizer) positions(dbg *image, fn string, addr uint64) ([]Position, error) {
	q := question{dbg, addr}
	if a, ok := s.answers[q]; ok {
		return a.pos, a.err
	}
	var a answer
	a.pos, a.err = s.lookUp(dbg, addr)
	if n := len(a.pos); n > 0 && a.pos[n-1].Func == "" {
		a.pos[n-1].Func = fn
	}
	if len(s.answers) >= maxAnswers {
		clear(s.answers)
	}
	s.answers[q] = a
	return a.pos, a.err
}

func (s *Symbolizer) lookUp(dbg *image, addr uint64) ([]Position, error) {
	if !dbg.hasDWARF {
		return nil, &Error{Path: dbg.path, Kind: ErrNoDebugInfo, Detail: "has no debug information", Cure: debugCure}
	}
	d, err := dbg.debugInfo()
	if err != nil {
		return nil, err
	}
	raw, err := d.lookup(addr)
	if err != nil {
		if errors.Is(err, ErrNoDebugInfo) {
			return nil, err
		}
		return nil, &Error{Path: dbg.path, Kind: ErrDamaged, Detail: "cannot read its debug information", Err: err, Cure: "copy or build it again"}
	}
	// Modules do not tell where the tree was; the kernel does.
	root := ""
	if k, err := s.debug.debugInfo(); err == nil {
		root = k.root
	}
	out := make([]Position, len(raw))
	for i, p := range raw {
		out[i] = Position{Func: p.fn, File: relative(p.file, d.root, root, d.compDir), Line: p.line, Inline: i < len(raw)-1}
	}
	return out, nil
}

// relative cuts the first of dirs that file is below. Paths of a build outside
// of the tree have detours (../../fs/ext4/super.c).
func relative(file string, dirs ...string) string {
	if file == "" {
		return ""
	}
	file = path.Clean(file)
	for _, d := range dirs {
		if rest, ok := strings.CutPrefix(file, d); ok && d != "" && d != "/" {
			return rest
		}
	}
	return file
}

// separate looks for the debug file with a build-id. It returns nil if there is
// none with DWARF.
func (s *Symbolizer) separate(id string) *image {
	if len(id) < 6 || strings.Trim(id, "0123456789abcdef") != "" {
		return nil
	}
	name := filepath.Join(".build-id", id[:2], id[2:]+".debug")
	for _, dir := range s.dirs {
		// The id is unique, so it may as well be searched for further up, where
		// distributions have it: /usr/lib/debug/.build-id.
		for range 8 {
			p := filepath.Join(dir, name)
			if img, err := readImage(p, openFile(p)); err == nil && img.buildID == id && img.hasDWARF {
				return img
			}
			up := filepath.Dir(filepath.Clean(dir))
			if up == dir {
				break
			}
			dir = up
		}
	}
	return nil
}
