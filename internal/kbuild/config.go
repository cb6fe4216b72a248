// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/kconfig"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/kconfigs"
)

// The classes of errors, for errors.Is. An error of none of them is an accident
// of this machine (an I/O error, an ended context).
var (
	// ErrRequest: what was asked for cannot be built; asking again is no use.
	ErrRequest = errors.New("the request cannot be met")
	// ErrHost: this machine lacks a tool, a header or space.
	ErrHost = errors.New("this machine is not fit to build")
	// ErrBuild: make failed. The error is a *[BuildError].
	ErrBuild = errors.New("the build failed")
)

// classed gives an error a class without changing its text.
type classed struct {
	error
	class error
}

func (c *classed) Unwrap() []error { return []error{c.error, c.class} }

func requestErr(err error) error {
	if err == nil {
		return nil
	}
	return &classed{error: err, class: ErrRequest}
}

func hostErr(err error) error { return &classed{error: err, class: ErrHost} }

// DefaultArch is the only architecture the fragments are written for.
const DefaultArch = "x86_64"

// Config is a request.
type Config struct {
	// Cache is where everything is kept. Required.
	Cache *cache.Cache
	// Source is a directory with a kernel tree, or a distribution's reference,
	// such as "debian:6.12", which Fetch understands.
	Source string
	// Fetch finds the source of a reference: [kfetch.Fetcher.FetchSource]. The
	// tree must be a cache entry of Cache: it is hard-linked, and never written
	// to.
	Fetch func(ctx context.Context, ref string) (*kfetch.Source, error)
	// Profile is the name of a profile of package kconfigs; "" is "lean".
	Profile string
	// Builtin are names of further embedded fragments.
	Builtin []string
	// Fragments are the user's own fragment files, applied last.
	Fragments []string
	// Complete, when set, is a whole .config in place of profile and fragments:
	// what olddefconfig makes of it is taken as it is, and all such builds of one
	// source share a tree, in which make compiles what the options change.
	Complete string
	// Patches are files in unified diff format, applied in order with -p1.
	Patches []string
	// Arch is x86_64 or "".
	Arch string
	// Jobs is make's -j; 0 is the number of CPUs.
	Jobs int
	// CC, LLVM and CrossCompile are make's variables of these names; "" leaves
	// them alone.
	CC, LLVM, CrossCompile string
	// NoCcache does not use ccache even when it is installed.
	NoCcache bool
	// OutDir, when set, gets a copy of the artifact.
	OutDir string
	// Env is the environment of the tools, as os.Environ returns it. Variables
	// that would change the result behind the request's back are removed.
	Env []string
	// Progress gets a line every ten seconds and one per step; nil is silent.
	Progress io.Writer
}

// request is a Config that was checked and read.
type request struct {
	Config
	srcarch   string // make's ARCH
	image     string // path of the boot image in the output
	fragments []fragment
	merged    *kconfig.Merged
	patches   []patchFile
	env       []string
}

// fragment is one fragment as recorded in the manifest.
type fragment struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	parsed *kconfig.Fragment
}

// check reads everything the request names, except the source.
func (c Config) check() (*request, error) {
	r := &request{Config: c}
	if c.Cache == nil {
		return nil, errors.New("build kernel: no cache given")
	}
	if r.Arch == "" {
		r.Arch = DefaultArch
	}
	if r.Arch != DefaultArch {
		return nil, requestErr(fmt.Errorf("unknown architecture %q: want %s", r.Arch, DefaultArch))
	}
	r.srcarch, r.image = "x86", "arch/x86/boot/bzImage"
	if r.Jobs < 0 {
		return nil, requestErr(fmt.Errorf("bad number of jobs %d: want 1 or more, or 0 for one per CPU", r.Jobs))
	}
	if r.Jobs == 0 {
		r.Jobs = runtime.NumCPU()
	}
	if r.Profile == "" {
		r.Profile = "lean"
	}
	r.env = cleanEnv(c.Env)
	read := r.readFragments
	if r.Complete != "" {
		r.Profile, read = completeProfile, r.readComplete
	}
	if err := read(); err != nil {
		return nil, requestErr(err)
	}
	for _, p := range c.Patches {
		pf, err := readPatch(p)
		if err != nil {
			return nil, requestErr(err)
		}
		r.patches = append(r.patches, pf)
	}
	return r, nil
}

// completeProfile stands for the profile of a complete configuration.
const completeProfile = "config"

// readComplete reads a whole .config in place of the fragments.
func (r *request) readComplete() error {
	text, err := os.ReadFile(r.Complete)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	parsed, err := kconfig.Parse(r.Complete, text)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	r.fragments = []fragment{{Name: r.Complete, SHA256: sum(text), parsed: parsed}}
	if r.merged, err = kconfig.Merge(parsed); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return nil
}

func (r *request) readFragments() error {
	p, err := kconfigs.FindProfile(r.Profile)
	if err != nil {
		return err
	}
	var errs []error
	add := func(name string, text []byte) {
		parsed, err := kconfig.Parse(name, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("read fragment: %w", err))
			return
		}
		r.fragments = append(r.fragments, fragment{Name: name, SHA256: sum(text), parsed: parsed})
	}
	for _, name := range append(append([]string{}, p.Fragments...), r.Builtin...) {
		f, err := kconfigs.Get(name)
		if err != nil {
			return err
		}
		add("kconfigs/"+name+".config", f.Text)
	}
	for _, path := range r.Fragments {
		text, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("read fragment: %w", err))
			continue
		}
		add(path, text)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	var all []*kconfig.Fragment
	for _, f := range r.fragments {
		all = append(all, f.parsed)
	}
	if r.merged, err = kconfig.Merge(all...); err != nil {
		return fmt.Errorf("merge fragments: %w", err)
	}
	// What would be refused after the configuration is refused before it where
	// the request alone decides.
	asked := kconfig.Config{}
	for _, a := range r.merged.Assigns {
		asked[a.Symbol] = a.Value
	}
	return bootable(asked)
}

// bootable refuses a configuration that cannot run a test under QEMU.
func bootable(c kconfig.Config) error {
	if why := kconfig.Unbootable(c); len(why) > 0 {
		return fmt.Errorf("a kernel with this configuration cannot run tests under QEMU:\n  %s", strings.Join(why, "\n  "))
	}
	return nil
}

// cleanEnv removes what would change the result without being part of the
// request: variables of the kernel's build system, of make, and of the locale.
func cleanEnv(env []string) []string {
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "KBUILD_"), strings.HasPrefix(name, "KCONFIG_"), strings.HasPrefix(name, "INSTALL_"),
			strings.HasPrefix(name, "LC_"):
		case name == "MAKEFLAGS", name == "MFLAGS", name == "MAKELEVEL", name == "MAKEFILES", name == "GNUMAKEFLAGS",
			name == "ARCH", name == "SRCARCH", name == "SUBARCH", name == "CROSS_COMPILE", name == "CC", name == "HOSTCC", name == "LLVM", name == "LD",
			name == "KCFLAGS", name == "KCPPFLAGS", name == "KAFLAGS", name == "CFLAGS", name == "CPPFLAGS", name == "LDFLAGS",
			name == "HOSTCFLAGS", name == "LOCALVERSION", name == "O", name == "V", name == "W", name == "C",
			name == "LANG", name == "LANGUAGE":
		default:
			out = append(out, kv)
		}
	}
	// Messages of tools are read, dates are printed: one language, one zone.
	return append(out, "LC_ALL=C", "TZ=UTC")
}

// say writes one line of progress.
func (r *request) say(format string, a ...any) {
	if r.Progress != nil {
		fmt.Fprintf(r.Progress, format+"\n", a...)
	}
}

// absSource returns the source directory, absolute.
func (r *request) absSource() (string, error) {
	abs, err := filepath.Abs(r.Source)
	if err != nil {
		return "", fmt.Errorf("find source %s: %w", r.Source, err)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", requestErr(fmt.Errorf("find kernel source: %w", err))
	}
	return abs, nil
}
