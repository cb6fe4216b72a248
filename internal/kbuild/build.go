// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kvmrun/kvmrun/internal/kconfig"
)

const (
	artifactKind = "kernel"
	// engine is part of every key: change it when the same request begins to
	// give another artifact.
	engine = "kbuild-1"
)

// Manifest describes an artifact; it is the file manifest.json in it.
type Manifest struct {
	Key       string      `json:"key"`
	Release   string      `json:"release"` // uname -r
	BuildID   string      `json:"buildID"`
	Arch      string      `json:"arch"`
	Profile   string      `json:"profile"`
	Source    source      `json:"source"`
	Patches   []patchFile `json:"patches"`
	Fragments []fragment  `json:"fragments"`
	// Absent are optional options that this tree does not know.
	Absent   []string  `json:"absent,omitempty"`
	Compiler string    `json:"compiler"` // first line of --version
	LLVM     string    `json:"llvm,omitempty"`
	Cross    string    `json:"crossCompile,omitempty"`
	Ccache   bool      `json:"ccache"`
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
	Objects  int       `json:"objects"`
	// Incremental says that an older build's objects were used.
	Incremental bool `json:"incremental"`
}

// Artifact is a built kernel. Its files must not be written to.
type Artifact struct {
	Dir       string
	Vmlinux   string // ELF, with debug information; has the PVH entry
	Image     string // bzImage
	Config    string // the final .config
	SystemMap string
	// Key holds the private key and the certificate that the kernel trusts,
	// both PEM; mode 0600. "" when the kernel has another key.
	Key string
	// ModulesDir is DIR/lib/modules/RELEASE, "" without modules.
	ModulesDir string
	Manifest   Manifest
	// Cached says that nothing was built.
	Cached bool
}

// Build builds a kernel, or finds it in the cache.
//
// Its errors are of class [ErrRequest], [ErrHost] or [ErrBuild], or ctx's, or
// accidents.
func Build(ctx context.Context, c Config) (*Artifact, error) {
	r, src, err := prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	compiler := r.compiler(ctx)
	key := r.key(src, compiler)
	var built error
	dir, hit, err := r.Cache.Get(ctx, artifactKind, key, func(ctx context.Context, tmp string) error {
		built = r.build(ctx, src, compiler, key, tmp)
		return built
	})
	for _, class := range []error{ErrRequest, ErrHost, ErrBuild, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(built, class) {
			return nil, built // says all there is to say; the cache would only add its name
		}
	}
	if err != nil {
		return nil, err
	}
	a, err := Open(dir)
	if err != nil {
		return nil, err
	}
	a.Cached = hit
	if !hit {
		bound(r.Cache)
	}
	if hit {
		r.say("kernel %s comes from the cache (built %s)", a.Manifest.Release, a.Manifest.Started.Format(time.DateTime))
	}
	if c.OutDir != "" {
		if err := a.copyTo(c.OutDir); err != nil {
			return nil, err
		}
		cached := a.Cached
		if a, err = Open(c.OutDir); err != nil {
			return nil, err
		}
		a.Cached = cached
	}
	return a, nil
}

// Configured is a configuration that was not built.
type Configured struct {
	Text   []byte // the final .config
	Config kconfig.Config
	// Absent are optional options that the tree does not know.
	Absent []kconfig.Unmet
}

// Configure does what [Build] does before it compiles: it returns the
// configuration that a kernel would have. Its errors are those of [Build].
func Configure(ctx context.Context, c Config) (*Configured, error) {
	r, src, err := prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	if missing := findTools(ctx, r.env, r.tools()); len(missing) > 0 {
		return nil, hostErr(&ToolsError{Missing: missing})
	}
	t, err := r.openTree(ctx, r.treeKey(src, r.compiler(ctx)))
	if err != nil {
		return nil, err
	}
	defer t.close()
	if _, err := r.fill(ctx, t, src); err != nil {
		return nil, err
	}
	return r.configure(ctx, t)
}

func prepare(ctx context.Context, c Config) (*request, *source, error) {
	r, err := c.check()
	if err != nil {
		return nil, nil, err
	}
	src, err := r.findSource(ctx)
	if err != nil {
		return nil, nil, err
	}
	return r, src, nil
}

// key names the artifact: everything that it depends on.
func (r *request) key(src *source, compiler string) string {
	parts := []string{engine, r.Arch, src.Identity, sum(r.merged.Format()), compiler, r.CC, r.LLVM, r.CrossCompile}
	for _, p := range r.patches {
		parts = append(parts, p.SHA256)
	}
	return "linux-" + src.Version + "-" + r.Profile + "-" + sum([]byte(strings.Join(parts, "\x00")))[:24]
}

// treeKey names the build tree: the same for all states of one source.
func (r *request) treeKey(src *source, compiler string) string {
	config := sum(r.merged.Format())
	if r.Complete != "" {
		config = completeProfile
	}
	parts := []string{engine, r.Arch, src.lineage, config, compiler, r.CC, r.LLVM, r.CrossCompile}
	return r.Profile + "-" + sum([]byte(strings.Join(parts, "\x00")))[:24]
}

// fill brings source and patches into the tree.
func (r *request) fill(ctx context.Context, t *tree, src *source) (touched int, err error) {
	if err := src.load(); err != nil {
		return 0, err
	}
	t.state.Lineage, t.state.Profile = src.lineage, r.Profile
	if err := t.save(); err != nil {
		return 0, err
	}
	var over *overlay
	if len(r.patches) > 0 {
		tmp, err := os.MkdirTemp(t.dir, ".patch-")
		if err != nil {
			return 0, fmt.Errorf("prepare patching: %w", err)
		}
		defer os.RemoveAll(tmp) //nolint:errcheck // swept with the tree at the latest
		if over, err = r.patch(ctx, src, r.patches, tmp); err != nil {
			return 0, err
		}
	}
	return r.sync(ctx, t, src, over)
}

// configure makes the final configuration and holds it against the request.
func (r *request) configure(ctx context.Context, t *tree) (*Configured, error) {
	tree, err := kconfig.ReadTree(os.DirFS(t.src()), r.srcarch)
	if err != nil {
		return nil, err
	}
	// An unknown symbol does not need the kernel's own tools to be noticed.
	var unknown []kconfig.Unmet
	for _, a := range r.merged.Assigns {
		if r.Complete == "" && a.Optional == "" && a.Value != kconfig.No && !tree.Known(a.Symbol) {
			unknown = append(unknown, kconfig.Unmet{Assign: a, Got: kconfig.No, Unknown: true, Why: tree.Explain(a.Symbol, a.Value, nil)})
		}
	}
	if len(unknown) > 0 {
		return nil, requestErr(&kconfig.UnmetError{Unmet: unknown})
	}
	asked := filepath.Join(t.dir, "asked.config")
	if err := os.WriteFile(asked, r.merged.Format(), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	var out bytes.Buffer
	w := &watcher{log: &out, trim: t.src() + "/"}
	for _, target := range [][]string{{"KCONFIG_ALLCONFIG=" + asked, "allnoconfig"}, {"olddefconfig"}} {
		if _, err := r.make(ctx, t, "0", w, target...); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if werr := os.WriteFile(t.log(), out.Bytes(), 0o600); werr != nil {
				return nil, errors.Join(err, werr)
			}
			return nil, w.failure(t.log(), err)
		}
	}
	text, err := os.ReadFile(filepath.Join(t.obj(), ".config"))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	final, err := kconfig.ParseConfig(".config", text)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	broken, absent := r.merged.Missing(final, tree)
	if len(broken) > 0 && r.Complete == "" {
		return nil, requestErr(&kconfig.UnmetError{Unmet: broken})
	}
	if err := bootable(final); err != nil {
		return nil, requestErr(err)
	}
	return &Configured{Text: text, Config: final, Absent: absent}, nil
}

// build fills tmp with the artifact.
func (r *request) build(ctx context.Context, src *source, compiler, key, tmp string) error {
	started := time.Now()
	if missing := findTools(ctx, r.env, r.tools()); len(missing) > 0 {
		return hostErr(&ToolsError{Missing: missing})
	}
	t, err := r.openTree(ctx, r.treeKey(src, compiler))
	if err != nil {
		return err
	}
	defer t.close()
	if !t.state.Built {
		need := uint64(outputBytes)
		if !src.immutable && !exists(t.src()) {
			need += sourceBytes
		}
		if err := r.space(need); err != nil {
			return err
		}
	}
	touched, err := r.fill(ctx, t, src)
	if err != nil {
		return err
	}
	conf, err := r.configure(ctx, t)
	if err != nil {
		return err
	}
	m := Manifest{
		Key: key, Arch: r.Arch, Profile: r.Profile, Source: *src, Patches: r.patches, Fragments: r.fragments,
		Compiler: compiler, LLVM: r.LLVM, Cross: r.CrossCompile, Ccache: r.ccache(),
		Started: started.UTC().Truncate(time.Second), Incremental: t.state.Built,
	}
	for _, u := range conf.Absent {
		m.Absent = append(m.Absent, u.Assign.Symbol)
	}
	ownKey := conf.Config.Get("SYSTEM_TRUSTED_KEYS") == `"`+CertPath+`"`
	if ownKey {
		if err := keyPair(t.dir, t.obj()); err != nil {
			return err
		}
	}
	if t.state.Built {
		r.say("building linux %s (%s) incrementally: %d files of the source differ from the last build", src.Version, r.Profile, touched)
	} else {
		r.say("building linux %s (%s) with %s, %d jobs; log: %s", src.Version, r.Profile, compiler, r.Jobs, t.log())
	}
	if m.Objects, err = r.compile(ctx, t, conf, key, tmp); err != nil {
		return err
	}
	if err := collect(t, r.image, tmp, ownKey, &m); err != nil {
		return err
	}
	m.Seconds = time.Since(started).Round(100 * time.Millisecond).Seconds()
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, manifestFile), append(text, '\n'), 0o644); err != nil { //nolint:gosec // nothing secret in it
		return fmt.Errorf("write manifest: %w", err)
	}
	r.say("built %s: %d objects in %s", m.Release, m.Objects, time.Since(started).Round(time.Second))
	return nil
}

// compile runs make, and installs the modules into tmp.
func (r *request) compile(ctx context.Context, t *tree, conf *Configured, key, tmp string) (int, error) {
	log, err := os.Create(t.log())
	if err != nil {
		return 0, fmt.Errorf("write build log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the watcher keeps the first error of writing
	w := &watcher{log: log, trim: t.src() + "/"}
	expected := 0
	if !t.state.Built {
		if expected = t.state.Objects; expected == 0 {
			expected = estimate(conf.Config)
		}
	}
	if err := os.WriteFile(t.mark(), nil, 0o600); err != nil {
		return 0, fmt.Errorf("mark build tree: %w", err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { r.report(w, expected, stop) })
	version := buildVersion(key)
	killed, err := r.make(ctx, t, version, w, "all")
	objects := w.counted()
	if err == nil && conf.Config.Get("MODULES") == "y" {
		killed, err = r.make(ctx, t, version, w, "modules_install", "INSTALL_MOD_PATH="+tmp, "DEPMOD="+lookPath(r.env, "depmod"))
	}
	close(stop)
	wg.Wait()
	if err != nil {
		if !killed {
			// make stopped by itself and removed what was half done.
			err = errors.Join(err, os.Remove(t.mark()))
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, w.failure(t.log(), err)
	}
	if !t.state.Built {
		t.state.Objects = objects
	}
	t.state.Built = true
	return objects, errors.Join(t.save(), os.Remove(t.mark()))
}

// estimate guesses the number of objects from the number of options that are
// on: 2.0 for each in 6.12's lean and kasan profiles.
func estimate(c kconfig.Config) int {
	n := 0
	for _, v := range c {
		if v == "y" || v == "m" {
			n++
		}
	}
	return 2 * n
}

const manifestFile = "manifest.json"

// collect copies make's results into dir.
func collect(t *tree, image, dir string, ownKey bool, m *Manifest) error {
	for from, to := range map[string]string{
		"vmlinux": "vmlinux", image: "bzImage", ".config": "config", "System.map": "System.map",
	} {
		if err := copyFile(filepath.Join(t.obj(), filepath.FromSlash(from)), filepath.Join(dir, to), 0o644); err != nil {
			return fmt.Errorf("collect kernel: %w", err)
		}
	}
	if ownKey {
		if err := copyFile(filepath.Join(t.dir, keyFile), filepath.Join(dir, keyFile), 0o600); err != nil {
			return fmt.Errorf("collect signing key: %w", err)
		}
	}
	release, err := os.ReadFile(filepath.Join(t.obj(), "include", "config", "kernel.release"))
	if err != nil {
		return fmt.Errorf("collect kernel: %w", err)
	}
	m.Release = strings.TrimSpace(string(release))
	if m.BuildID, err = buildID(filepath.Join(dir, "vmlinux")); err != nil {
		return fmt.Errorf("collect kernel: %w", err)
	}
	// Links from the modules into the tree would dangle.
	modules := filepath.Join(dir, "lib", "modules", m.Release)
	for _, link := range []string{"build", "source"} {
		if err := os.Remove(filepath.Join(modules, link)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("collect modules: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string, mode fs.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // opened for reading
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(mode), out.Close())
}

// buildID returns the GNU build ID in hex (elf(5), NT_GNU_BUILD_ID is 3), ""
// when the file has none.
func buildID(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOTE {
			continue
		}
		data, err := s.Data()
		if err != nil {
			return "", err
		}
		for len(data) >= 12 {
			name, desc, typ := f.ByteOrder.Uint32(data), f.ByteOrder.Uint32(data[4:]), f.ByteOrder.Uint32(data[8:])
			data = data[12:]
			nameLen, descLen := (uint64(name)+3)&^3, (uint64(desc)+3)&^3
			if nameLen+descLen > uint64(len(data)) {
				break
			}
			if typ == 3 && string(data[:name]) == "GNU\x00" {
				return hex.EncodeToString(data[nameLen : nameLen+uint64(desc)]), nil
			}
			data = data[nameLen+descLen:]
		}
	}
	return "", nil
}

// Open returns the artifact in a directory: a cache entry or a copy of one.
func Open(dir string) (*Artifact, error) {
	text, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("open kernel artifact: %w", err)
	}
	a := &Artifact{
		Dir:     dir,
		Vmlinux: filepath.Join(dir, "vmlinux"), Image: filepath.Join(dir, "bzImage"),
		Config: filepath.Join(dir, "config"), SystemMap: filepath.Join(dir, "System.map"),
	}
	if err := json.Unmarshal(text, &a.Manifest); err != nil {
		return nil, fmt.Errorf("open kernel artifact %s: read manifest: %w", dir, err)
	}
	if exists(dir, keyFile) {
		a.Key = filepath.Join(dir, keyFile)
	}
	if modules := filepath.Join(dir, "lib", "modules", a.Manifest.Release); exists(modules) {
		a.ModulesDir = modules
	}
	return a, nil
}

// copyTo copies the artifact. The manifest comes last: a directory with one is
// complete.
func (a *Artifact) copyTo(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the user's own directory
		return fmt.Errorf("copy artifact: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, manifestFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy artifact: %w", err)
	}
	err := filepath.WalkDir(a.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(a.Dir, p)
		if err != nil || rel == manifestFile || strings.HasPrefix(rel, ".entry") {
			return err
		}
		to := filepath.Join(dir, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755) //nolint:gosec // the user's own directory
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return nil
		}
		return copyFile(p, to, fi.Mode().Perm())
	})
	if err == nil {
		err = copyFile(filepath.Join(a.Dir, manifestFile), filepath.Join(dir, manifestFile), 0o644)
	}
	if err != nil {
		return fmt.Errorf("copy artifact to %s: %w", dir, err)
	}
	return nil
}
