// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// machines maps Go's names of architectures to ELF's.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64,
	"arm64": elf.EM_AARCH64,
}

func machineOf(arch string) (elf.Machine, error) {
	m, ok := machines[arch]
	if !ok {
		return 0, fmt.Errorf("guest architecture %q is not supported (amd64, arm64)", arch)
	}
	return m, nil
}

// runsOn says whether a kernel for machine runs programs for m.
func runsOn(m, machine elf.Machine) bool {
	// CONFIG_IA32_EMULATION and CONFIG_COMPAT: whether the kernel has them is
	// for the kernel to say.
	return m == machine || m == elf.EM_386 && machine == elf.EM_X86_64 || m == elf.EM_ARM && machine == elf.EM_AARCH64
}

// object is an ELF file as far as its loader is concerned.
type object struct {
	class   elf.Class
	machine elf.Machine
	interp  string   // program loader, "" for static programs and libraries
	needed  []string // DT_NEEDED
	rpath   []string // DT_RPATH, used only without DT_RUNPATH
	runpath []string // DT_RUNPATH
}

var errNotELF = errors.New("not an ELF file")

// readObject reads the ELF file at host; errNotELF for anything else.
func readObject(host string) (*object, error) {
	f, err := os.Open(host)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	var magic [len(elf.ELFMAG)]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil || string(magic[:]) != elf.ELFMAG {
		return nil, errNotELF
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return nil, fmt.Errorf("read ELF file %s: %w", host, err)
	}
	o := &object{class: e.Class, machine: e.Machine}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		buf := make([]byte, min(p.Filesz, 4096)) // PATH_MAX, as fs/binfmt_elf.c
		if _, err := p.ReadAt(buf, 0); err != nil {
			return nil, fmt.Errorf("read ELF file %s: interpreter: %w", host, err)
		}
		name, _, _ := bytes.Cut(buf, []byte{0})
		o.interp = string(name)
	}
	// These return nothing, without an error, for static programs.
	if o.needed, err = e.ImportedLibraries(); err != nil {
		return nil, fmt.Errorf("read ELF file %s: needed libraries: %w", host, err)
	}
	if o.rpath, err = e.DynString(elf.DT_RPATH); err != nil {
		return nil, fmt.Errorf("read ELF file %s: RPATH: %w", host, err)
	}
	if o.runpath, err = e.DynString(elf.DT_RUNPATH); err != nil {
		return nil, fmt.Errorf("read ELF file %s: RUNPATH: %w", host, err)
	}
	o.rpath, o.runpath = splitPaths(o.rpath), splitPaths(o.runpath)
	return o, nil
}

func splitPaths(lists []string) []string {
	var out []string
	for _, l := range lists {
		for _, p := range strings.Split(l, ":") {
			if p != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

// place is a directory as the host sees it and as the guest will.
type place struct{ host, guest string }

// libraries finds shared libraries as ld.so(8) does, less LD_LIBRARY_PATH and
// LD_PRELOAD, which belong to the caller's environment and not to the file.
type libraries struct {
	machine elf.Machine
	arch    string
	found   map[string]string // guest path -> host path
	links   map[string]string // guest path -> target
	done    map[string]bool   // objects by guest path
	objects map[string]*object
	conf    []string // directories of ld.so.conf; nil until read
	confOK  bool
	errs    []error
}

func newLibraries(machine elf.Machine, arch string) *libraries {
	return &libraries{
		machine: machine, arch: arch,
		found: map[string]string{}, links: map[string]string{},
		done: map[string]bool{}, objects: map[string]*object{},
	}
}

func (l *libraries) object(host string) (*object, error) {
	if o := l.objects[host]; o != nil {
		return o, nil
	}
	o, err := readObject(host)
	if err != nil {
		return nil, err
	}
	l.objects[host] = o
	return o, nil
}

// needInit is need for the program that becomes /init. Unlike other files it
// must be something that the kernel can run.
func (l *libraries) needInit(host string) error {
	o, err := l.object(host)
	switch {
	case errors.Is(err, errNotELF):
		return fmt.Errorf("init %s: is not an ELF program", host)
	case err != nil:
		return fmt.Errorf("init: %w", err)
	case o.machine != l.machine:
		return l.wrongMachine("init "+host, o.machine)
	}
	return l.need(host, "/init", true)
}

// need adds what the file at host, if it is an ELF file, needs to run at the
// path guest. What the guest cannot run, an object of another machine, of BPF, or
// one that is cut off, is data, unless it is what is to run.
func (l *libraries) need(host, guest string, runs bool) error {
	o, err := l.object(host)
	if errors.Is(err, errNotELF) {
		return nil
	}
	if !runs && (err != nil || !runsOn(o.machine, l.machine)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("guest file: %w", err)
	}
	if !runsOn(o.machine, l.machine) {
		return l.wrongMachine("guest file "+host, o.machine)
	}
	before := len(l.errs)
	l.visit(o, host, guest, nil)
	errs := l.errs[before:]
	l.errs = l.errs[:before:before]
	return errors.Join(errs...)
}

// CheckProgram says whether a guest of this architecture, by Go's name, can execute
// the host's file, with the shared libraries that it needs. A script is taken for
// what it is; "" is this program's own architecture.
func CheckProgram(file, arch string) error {
	if arch == "" {
		arch = runtime.GOARCH
	}
	machine, err := machineOf(arch)
	if err != nil {
		return err
	}
	return newLibraries(machine, arch).need(file, file, true)
}

func (l *libraries) wrongMachine(what string, m elf.Machine) error {
	return fmt.Errorf("%s: is an ELF file for %s, but the guest is %s", what, machineName(m), l.arch)
}

func machineName(m elf.Machine) string {
	for arch, n := range machines {
		if n == m {
			return arch
		}
	}
	return m.String()
}

// visit resolves the needs of one object. inherited are the RPATHs of the
// objects that loaded it, nearest first.
func (l *libraries) visit(o *object, host, guest string, inherited []place) {
	if l.done[guest] {
		return
	}
	l.done[guest] = true
	if o.interp != "" {
		l.interpreter(o, host)
	}
	at := place{path.Dir(host), path.Dir(guest)}
	var rpath []place
	if len(o.runpath) == 0 {
		rpath = append(l.expand(o.rpath, at, o), inherited...)
	}
	runpath := l.expand(o.runpath, at, o)

	for _, name := range o.needed {
		// The loader itself is already there under this name.
		if strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "ld-musl") {
			continue
		}
		if strings.Contains(name, "/") {
			if lib := l.try(name, o); lib != nil {
				l.add(lib, name, name, rpath)
				continue
			}
			l.missing(name, host, nil)
			continue
		}
		l.search(name, o, host, rpath, runpath)
	}
}

// search looks for a library in the order of ld.so(8).
func (l *libraries) search(name string, o *object, host string, rpath, runpath []place) {
	var tried []string
	for _, dir := range slices.Concat(rpath, runpath) {
		p := path.Join(dir.host, name)
		tried = append(tried, dir.host)
		if lib := l.try(p, o); lib != nil {
			l.add(lib, p, path.Join(dir.guest, name), rpath)
			return
		}
	}
	// The guest has no ld.so.cache. Its loader has default directories, of
	// which libc's own is one on every distribution; whatever was found
	// elsewhere gets a link there.
	std := standardDirs(o)
	for _, dir := range std {
		p := path.Join(dir, name)
		tried = append(tried, dir)
		if lib := l.try(p, o); lib != nil {
			l.add(lib, p, p, rpath)
			return
		}
	}
	for _, dir := range l.confDirs() {
		p := path.Join(dir, name)
		tried = append(tried, dir)
		if lib := l.try(p, o); lib != nil {
			l.add(lib, p, p, rpath)
			link := path.Join(l.libcDir(o), name)
			if link != p {
				l.links[link] = p
			}
			return
		}
	}
	l.missing(name, host, tried)
}

func (l *libraries) missing(name, host string, tried []string) {
	where := ""
	if len(tried) > 0 {
		slices.Sort(tried)
		where = " in " + strings.Join(slices.Compact(tried), ", ")
	}
	l.errs = append(l.errs, fmt.Errorf("shared library %s, needed by %s, not found%s (install the package that has it, or link the program statically)", name, host, where))
}

// try returns the object at p if the loader would take it for o.
func (l *libraries) try(p string, o *object) *object {
	lib, err := l.object(p)
	if err != nil || lib.class != o.class || lib.machine != o.machine {
		return nil
	}
	return lib
}

func (l *libraries) add(lib *object, host, guest string, inherited []place) {
	g, err := clean(guest)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	if _, ok := l.found[g]; !ok {
		l.found[g] = host
	}
	l.visit(lib, host, g, inherited)
}

// interpreter adds a program's loader. It lies at one fixed path.
func (l *libraries) interpreter(o *object, host string) {
	g, err := clean(o.interp)
	if err == nil {
		_, err = l.object(o.interp)
	}
	if err != nil {
		l.errs = append(l.errs, fmt.Errorf("program loader %s, needed by %s: %w (install the C library it was linked with, or link it statically)", o.interp, host, err))
		return
	}
	l.found[g] = o.interp
}

// expand replaces $ORIGIN and $LIB (ld.so(8), "Dynamic string tokens").
// $PLATFORM depends on the CPU: such paths are left out, as optimised variants
// of libraries are in general.
func (l *libraries) expand(list []string, at place, o *object) []place {
	lib := "lib"
	if o.class == elf.ELFCLASS64 {
		lib = "lib64"
		if dirs := multiarch[o.machine]; dirs != "" && exists("/usr/lib/"+dirs) {
			lib = "lib/" + dirs
		}
	}
	var out []place
	for _, p := range list {
		p = strings.NewReplacer("${LIB}", lib, "$LIB", lib, "${ORIGIN}", "$ORIGIN").Replace(p)
		if rest, ok := strings.CutPrefix(p, "$ORIGIN"); ok {
			out = append(out, place{path.Join(at.host, rest), path.Join(at.guest, rest)})
			continue
		}
		if path.IsAbs(p) && !strings.Contains(p, "$") {
			out = append(out, place{p, p})
		}
	}
	return out
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// multiarch are Debian's directory names (https://wiki.debian.org/Multiarch/Tuples).
var multiarch = map[elf.Machine]string{
	elf.EM_X86_64:  "x86_64-linux-gnu",
	elf.EM_386:     "i386-linux-gnu",
	elf.EM_AARCH64: "aarch64-linux-gnu",
	elf.EM_ARM:     "arm-linux-gnueabihf",
}

// standardDirs are the directories that the loaders of Debian, Fedora, SUSE,
// Arch and Alpine have built in.
func standardDirs(o *object) []string {
	dirs := []string{}
	if m := multiarch[o.machine]; m != "" {
		dirs = append(dirs, "/lib/"+m, "/usr/lib/"+m)
	}
	if o.class == elf.ELFCLASS64 {
		dirs = append(dirs, "/lib64", "/usr/lib64")
	}
	return append(dirs, "/lib", "/usr/lib")
}

// libcDir is the first standard directory with a libc, where the guest's loader
// certainly looks.
func (l *libraries) libcDir(o *object) string {
	for _, dir := range standardDirs(o) {
		if l.try(path.Join(dir, "libc.so.6"), o) != nil {
			return dir
		}
	}
	return "/lib"
}

// confDirs reads ld.so.conf with its includes (ldconfig(8)).
func (l *libraries) confDirs() []string {
	if !l.confOK {
		l.confOK = true
		l.conf = readConf("/etc/ld.so.conf", 0)
	}
	return l.conf
}

// maxInclude is glibc's own limit on nested includes (elf/ldconfig.c:
// parse_conf, "MAX_INCLUDE_DEPTH" being 32).
const maxInclude = 32

func readConf(name string, depth int) []string {
	text, err := readSmall(name)
	if err != nil || depth > maxInclude {
		return nil // ldconfig ignores them too
	}
	var dirs []string
	for _, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		switch {
		case line == "", strings.HasPrefix(line, "hwcap "):
		case strings.HasPrefix(line, "include ") || strings.HasPrefix(line, "include\t"):
			for _, pattern := range strings.Fields(line)[1:] {
				if !path.IsAbs(pattern) {
					pattern = path.Join(path.Dir(name), pattern)
				}
				files, err := filepath.Glob(pattern)
				if err != nil {
					continue
				}
				for _, f := range files {
					dirs = append(dirs, readConf(f, depth+1)...)
				}
			}
		case path.IsAbs(line):
			dirs = append(dirs, path.Clean(line))
		}
	}
	return dirs
}

// addTo puts everything that was found into the tree.
func (l *libraries) addTo(t *tree) {
	for _, guest := range sortedKeys(l.found) {
		n, err := t.hostNode(l.found[guest], 0)
		if err != nil {
			t.errs = append(t.errs, err)
			continue
		}
		t.own(guest, n)
	}
	for _, guest := range sortedKeys(l.links) {
		t.ownSymlink(guest, l.links[guest])
	}
}
