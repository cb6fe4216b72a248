// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// moduleSuffixes are what modules end in (kernel/module/decompress.c knows the
// same compressions).
var moduleSuffixes = []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"}

// moduleDir is an index of a lib/modules/RELEASE directory.
type moduleDir struct {
	dir     string
	release string
	files   map[string]string // module name -> path below dir
	given   map[string]string // module name -> path of a file that was named by it
	builtin map[string]bool
	unknown bool    // there is no directory: what is not given counts as built in
	aliases []alias // nil until read
}

type alias struct{ pattern, module string }

// moduleName normalises as modprobe does: the kernel's name of a module has
// underscores only.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// fileModule returns the module's name for a file, "" when it is not one.
func fileModule(file string) string {
	base := path.Base(file)
	for _, suf := range moduleSuffixes {
		if name, ok := strings.CutSuffix(base, suf); ok {
			return moduleName(name)
		}
	}
	return ""
}

// openModules indexes dir.
func openModules(dir, release string) (*moduleDir, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("modules directory: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("modules directory %s: is not a directory", dir)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("modules directory: %w", err)
	}
	m := &moduleDir{dir: abs, release: filepath.Base(abs), files: map[string]string{}, builtin: map[string]bool{}}
	if release != "" && m.release != release {
		return nil, fmt.Errorf("modules directory %s: is for kernel %s, but the kernel is %s (give the lib/modules/%s that belongs to it)", dir, m.release, release, release)
	}
	if err := m.index(); err != nil {
		return nil, fmt.Errorf("modules directory %s: %w", dir, err)
	}
	text, err := readSmall(filepath.Join(abs, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("modules directory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if name := fileModule(strings.TrimSpace(line)); name != "" {
			m.builtin[name] = true
		}
	}
	if len(m.files) == 0 && len(m.builtin) == 0 {
		return nil, fmt.Errorf("modules directory %s: holds no modules and no modules.builtin (is it a lib/modules/RELEASE?)", dir)
	}
	return m, nil
}

// index finds the module files: by modules.dep, which knows about overrides,
// or by looking where depmod never ran, as in a package that was only
// unpacked.
func (m *moduleDir) index() error {
	text, err := readSmall(filepath.Join(m.dir, "modules.dep"))
	if err == nil {
		for line := range strings.Lines(string(text)) {
			file, _, ok := strings.Cut(line, ":")
			if name := fileModule(file); ok && name != "" {
				m.files[name] = file
			}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// "build" and "source" are links to kernel trees: WalkDir does not follow
	// links.
	return filepath.WalkDir(m.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := fileModule(p); name != "" && d.Type().IsRegular() {
			rel, err := filepath.Rel(m.dir, p)
			if err != nil {
				return err
			}
			if _, ok := m.files[name]; !ok { // lexical order: "extra" before "kernel"
				m.files[name] = rel
			}
		}
		return nil
	})
}

// give adds the modules that were named by their files. They take the place of
// the kernel's own of the same name.
func (m *moduleDir) give(names []string) error {
	for _, n := range names {
		if !IsModuleFile(n) {
			continue
		}
		name := fileModule(n)
		if name == "" {
			return fmt.Errorf("module %s: is no module's file: its name does not end in %s", n, strings.Join(moduleSuffixes, ", "))
		}
		if m.files == nil {
			m.files = map[string]string{}
		}
		if m.given == nil {
			m.given = map[string]string{}
		}
		if other := m.given[name]; other != "" && other != n {
			return fmt.Errorf("two different files for the module %s: %s and %s", name, other, n)
		}
		m.given[name] = n
		m.files[name] = path.Join("extra", path.Base(n))
	}
	return nil
}

// resolve returns the modules that name stands for: itself, nothing when it is
// built in, or those with such an alias. ok is false when nothing is known.
func (m *moduleDir) resolve(name string) (modules []string, ok bool) {
	norm := moduleName(name)
	if m.files[norm] != "" {
		return []string{norm}, true
	}
	if m.builtin[norm] || m.unknown {
		return nil, true
	}
	for _, a := range m.aliasList() {
		match, err := path.Match(a.pattern, name)
		if a.pattern == name || err == nil && match {
			if m.files[a.module] != "" && !slices.Contains(modules, a.module) {
				modules = append(modules, a.module)
			}
		}
	}
	return modules, len(modules) > 0
}

func (m *moduleDir) aliasList() []alias {
	if m.aliases == nil {
		m.aliases = []alias{}
		text, err := readSmall(filepath.Join(m.dir, "modules.alias"))
		if err != nil {
			return nil // no depmod: names only
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) == 3 && f[0] == "alias" {
				m.aliases = append(m.aliases, alias{f[1], moduleName(f[2])})
			}
		}
	}
	return m.aliases
}

// module is one module, ready to be loaded.
type module struct {
	name string
	host string   // decompressed, in the cache or in place
	rel  string   // below lib/modules/RELEASE, without compression suffix
	deps []string // names that must be loaded before
	pre  []string // soft dependencies, names or aliases
	post []string
}

// open decompresses the module into the cache where needed, and reads what it
// depends on from its .modinfo section (modules.dep says the same, but need not
// be there). What was read is kept beside it.
func (m *moduleDir) open(ctx context.Context, c *cache.Cache, name string) (*module, error) {
	rel := m.files[name]
	file := filepath.Join(m.dir, rel)
	if given := m.given[name]; given != "" {
		file = given
	}
	hash, err := c.HashFile(file)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	dir, _, err := c.Get(ctx, "module", hash, func(_ context.Context, tmp string) error {
		return unpackModule(file, tmp)
	})
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	info, err := readSmall(filepath.Join(dir, "modinfo"))
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	mod := &module{name: name, host: filepath.Join(dir, "module.ko"), rel: rel}
	for _, suf := range moduleSuffixes[1:] {
		if base, ok := strings.CutSuffix(rel, suf); ok {
			mod.rel = base + ".ko"
		}
	}
	for _, field := range strings.Split(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "depends":
			for _, d := range strings.Split(value, ",") {
				if d != "" {
					mod.deps = append(mod.deps, moduleName(d))
				}
			}
		case "softdep":
			list := &mod.pre
			for _, w := range strings.Fields(value) {
				switch w {
				case "pre:":
					list = &mod.pre
				case "post:":
					list = &mod.post
				default:
					*list = append(*list, w)
				}
			}
		case "vermagic":
			// "6.12.117+deb12-cloud-amd64 SMP preempt mod_unload modversions"
			if v, _, _ := strings.Cut(value, " "); m.given[name] != "" && v != m.release && m.release != "" {
				return nil, wrongRelease(file, v, m.release)
			} else if v != m.release && m.release != "" {
				return nil, fmt.Errorf("module %s in %s: was built for kernel %s, not for %s", rel, m.dir, v, m.release)
			}
		}
	}
	return mod, nil
}

func wrongRelease(file, is, want string) error {
	return fmt.Errorf("module %s: was built for kernel %s (its vermagic), and this kernel is %s, which would refuse it;\nbuild it against that kernel's headers or build directory", file, is, want)
}

// CheckModule says whether the file is a module that a kernel of this release
// would load, as far as its vermagic tells; an empty release is not compared.
func CheckModule(file, release string) error {
	tmp, err := os.MkdirTemp("", "kvmrun-module-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a temporary directory
	if err := unpackModule(file, tmp); err != nil {
		return fmt.Errorf("module %s: %w", file, err)
	}
	info, err := os.ReadFile(filepath.Join(tmp, "modinfo"))
	if err != nil {
		return err
	}
	for _, field := range strings.Split(string(info), "\x00") {
		if v, ok := strings.CutPrefix(field, "vermagic="); ok {
			if v, _, _ = strings.Cut(v, " "); v != release && release != "" {
				return wrongRelease(file, v, release)
			}
		}
	}
	return nil
}

// IsModuleFile says whether what was given as a module names a file rather than
// a module of the kernel's.
func IsModuleFile(name string) bool { return strings.Contains(name, "/") || fileModule(name) != "" }

// maxModule bounds a decompressed module: Debian's largest, amdgpu with debug
// information left out, has 30 MB.
const maxModule = 512 << 20

// unpackModule writes module.ko and modinfo into dir.
func unpackModule(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	var r io.Reader = f
	switch path.Ext(file) {
	case ".xz":
		r, err = xz.NewReader(f)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	case ".gz":
		r, err = gzip.NewReader(f)
	}
	if err != nil {
		return fmt.Errorf("decompress %s: %w", file, err)
	}
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.LimitReader(r, maxModule+1)); err != nil {
		return fmt.Errorf("decompress %s: %w", file, err)
	}
	if buf.Len() > maxModule {
		return fmt.Errorf("decompress %s: larger than %d bytes", file, maxModule)
	}
	e, err := elf.NewFile(bytes.NewReader(buf.Bytes()))
	if err != nil {
		return fmt.Errorf("read module %s: %w", file, err)
	}
	sec := e.Section(".modinfo")
	if sec == nil {
		return fmt.Errorf("read module %s: no .modinfo section: not a kernel module", file)
	}
	info, err := sec.Data()
	if err != nil {
		return fmt.Errorf("read module %s: %w", file, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "module.ko"), buf.Bytes(), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "modinfo"), info, 0o600)
}

// closure collects modules in load order.
type closure struct {
	ctx   context.Context
	cache *cache.Cache
	dir   *moduleDir
	state map[string]int // 1 being visited, 2 done
	order []*module
	soft  map[string]bool // only wanted softly
}

// add appends name's module after what it depends on.
func (c *closure) add(name string, soft bool) error {
	if c.state[name] != 0 {
		if !soft {
			c.harden(name)
		}
		return nil
	}
	c.state[name] = 1
	mod, err := c.dir.open(c.ctx, c.cache, name)
	if err != nil {
		return err
	}
	for _, d := range mod.pre {
		if err := c.addSoft(d); err != nil {
			return err
		}
	}
	for _, d := range mod.deps {
		if c.dir.files[d] == "" {
			if c.dir.builtin[d] || c.dir.unknown {
				continue
			}
			return fmt.Errorf("module %s: depends on %s, which is not in %s", name, d, c.dir.dir)
		}
		if err := c.add(d, soft); err != nil {
			return err
		}
	}
	c.state[name] = 2
	c.soft[name] = soft
	c.order = append(c.order, mod)
	for _, d := range mod.post {
		if err := c.addSoft(d); err != nil {
			return err
		}
	}
	return nil
}

// addSoft adds what a soft dependency names; unknown ones are nobody's fault.
func (c *closure) addSoft(name string) error {
	mods, _ := c.dir.resolve(name)
	for _, m := range mods {
		if err := c.add(m, true); err != nil {
			return err
		}
	}
	return nil
}

// harden marks a module, and what it depends on, as wanted after all.
func (c *closure) harden(name string) {
	if !c.soft[name] {
		return
	}
	c.soft[name] = false
	for _, m := range c.order {
		if m.name == name {
			for _, d := range m.deps {
				c.harden(d)
			}
		}
	}
}

// addModules adds the modules that s asks for and their load order.
func addModules(ctx context.Context, t *tree, s Spec, progress func(string)) error {
	names := slices.DeleteFunc(slices.Clone(s.Modules), IsModuleFile)
	dir := &moduleDir{release: s.Release, unknown: true}
	if s.ModulesDir == "" {
		if len(names) > 0 {
			progress(fmt.Sprintf("no modules directory: taking %s as built into the kernel", strings.Join(names, ", ")))
		}
		if len(names) == len(s.Modules) {
			return nil
		}
	} else {
		var err error
		if dir, err = openModules(s.ModulesDir, s.Release); err != nil {
			return err
		}
	}
	if err := dir.give(s.Modules); err != nil {
		return err
	}
	c := &closure{ctx: ctx, cache: t.cache, dir: dir, state: map[string]int{}, soft: map[string]bool{}}
	for _, name := range agentModules {
		// A kernel without them says so itself: see package guest.
		if dir.files[name] != "" {
			if err := c.add(name, false); err != nil {
				return err
			}
		}
	}
	var errs []error
	for _, name := range s.Modules {
		if IsModuleFile(name) {
			name = fileModule(name)
		}
		mods, ok := dir.resolve(name)
		if !ok {
			errs = append(errs, dir.missing(name))
			continue
		}
		for _, m := range mods {
			if err := c.add(m, false); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(c.order) == 0 {
		return nil
	}
	var list strings.Builder
	for _, m := range c.order {
		guest := path.Join("/usr/lib/modules", dir.release, m.rel)
		if err := t.hostFile(guest, m.host, 0o644); err != nil {
			return err
		}
		if c.soft[m.name] {
			list.WriteByte('?')
		}
		fmt.Fprintln(&list, guest)
	}
	return t.data(ModulesFile, []byte(list.String()), 0o644, "modules to load")
}

// missing is the error for a name that nothing is known of.
func (m *moduleDir) missing(name string) error {
	near := nearest(moduleName(name), m.files)
	hint := "the kernel was built without it"
	if len(near) > 0 {
		hint += ", or did you mean " + strings.Join(near, ", ") + "?"
	}
	return fmt.Errorf("kernel module %s: neither in %s nor built in (%s)", name, m.dir, hint)
}

// nearest returns up to three names in the index that resemble name.
func nearest(name string, index map[string]string) []string {
	type candidate struct {
		name string
		dist int
	}
	var list []candidate
	limit := max(2, len(name)/3)
	for n := range index {
		d := distance(name, n)
		if strings.Contains(n, name) && len(name) >= 3 {
			d = min(d, limit)
		}
		if d <= limit {
			list = append(list, candidate{n, d})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		if a.dist != b.dist {
			return a.dist - b.dist
		}
		return strings.Compare(a.name, b.name)
	})
	var out []string
	for _, c := range list[:min(3, len(list))] {
		out = append(out, c.name)
	}
	return out
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
