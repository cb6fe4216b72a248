// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kvmrun/kvmrun/internal/words"
)

// KernelEnv is the variable that stands in for a missing -kernel.
const KernelEnv = "KVMRUN_KERNEL"

// Kernels is the group of flags that say which kernels, and what belongs to them.
type Kernels struct {
	Refs             Multi
	Modules, Kconfig string

	many bool
}

// Register adds the group's flags. Without many, there may be one kernel only.
func (k *Kernels) Register(fs *flag.FlagSet, many bool) {
	k.many = many
	what := "the kernel: a bzImage, a vmlinux, the directory of a build, or debian:6.12 for a fetched one"
	if many {
		what += "; may be given several times"
	}
	fs.Var(&k.Refs, "kernel", what)
	fs.StringVar(&k.Modules, "modules", "", "the kernel's lib/modules/RELEASE `directory`; default: found beside the kernel")
	fs.StringVar(&k.Kconfig, "kconfig", "", "the kernel's .config `file`; default: found in or beside the kernel")
}

// Check refuses what needs no look at any kernel.
func (k *Kernels) Check() error {
	if len(k.Refs) > 1 && !k.many {
		return Usagef("give one -kernel")
	}
	if len(k.Refs) > 1 && (k.Modules != "" || k.Kconfig != "") {
		return Usagef("-modules and -kconfig go with one -kernel")
	}
	return nil
}

// Default takes the environment's kernel where no other was given, and says
// whether there is one now.
func (k *Kernels) Default(getenv func(string) string) bool {
	if env := getenv(KernelEnv); len(k.Refs) == 0 && env != "" {
		k.Refs = Multi{env}
	}
	return len(k.Refs) > 0
}

// ErrNoKernel is what a command says that needs one.
var ErrNoKernel = Usagef("no kernel: give -kernel FILE, or -kernel debian:6.12 for one from the Debian archive")

// Same are the flags for what belongs to the kernel, as [VM.Same].
func (k *Kernels) Same() string {
	out := ""
	if k.Modules != "" {
		out += " -modules " + words.Quote(Absolute(k.Modules))
	}
	if k.Kconfig != "" {
		out += " -kconfig " + words.Quote(Absolute(k.Kconfig))
	}
	return out
}

// Resolver makes files of what users call them. Its zero value knows files of the
// working directory.
type Resolver struct {
	// Dirs are where relative names are looked for, in this order; none is the
	// working directory. Why says why there are several.
	Dirs []string
	Why  string
	// IsRef says whether a name has the form of a distribution's kernel, CheckRef
	// what is wrong with such a name, and Fetch returns the path of that kernel,
	// fetching it where the cache does not have it. A nil IsRef knows none.
	IsRef    func(name string) bool
	CheckRef func(name string) error
	Fetch    func(ctx context.Context, ref string) (path string, err error)
}

// kernelForms is the cure for most of what is given as a kernel and is none.
const kernelForms = "name a bzImage or vmlinux file, the directory of a build, or debian:6.12 for one from the archive"

// candidates are the paths that a name may stand for.
func (r Resolver) candidates(name string) ([]string, error) {
	if filepath.IsAbs(name) || len(r.Dirs) == 0 {
		path, err := filepath.Abs(name)
		return []string{path}, err
	}
	var out []string
	for _, d := range r.Dirs {
		out = append(out, filepath.Join(d, name))
	}
	return out, nil
}

// File returns the path of an existing file or directory that a user names, or
// the name itself: what is wrong with it, its reader says.
func (r Resolver) File(name string) string {
	if name == "" {
		return name
	}
	paths, err := r.candidates(name)
	if err != nil {
		return name
	}
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return name
}

// Kernel makes an absolute path of what a user calls a kernel: a file, the
// directory of a build, or a distribution's kernel as debian:VERSION. That the
// file is a kernel is for its reader to find out. An error is one of wrong usage
// when what was asked for cannot be a kernel, or not one that this user may read;
// others are Fetch's.
func (r Resolver) Kernel(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", Usagef("kernel: the name is empty; %s", kernelForms)
	}
	paths, err := r.candidates(name)
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		st, err := os.Stat(path)
		switch {
		case err == nil && st.IsDir():
			return kernelIn(name, path)
		case err == nil:
			return path, mayRead(name, path)
		case errors.Is(err, fs.ErrPermission):
			return "", Usagef("kernel %s: %w: %s", name, fs.ErrPermission, denial(path))
		}
	}
	switch distro, _, colon := strings.Cut(name, ":"); {
	case r.IsRef != nil && r.IsRef(name):
		if err := r.CheckRef(name); err != nil {
			return "", Usage(err)
		}
		return r.Fetch(ctx, name)
	case strings.Contains(name, "://"):
		return "", Usagef("kernel %s: an address, and kernels are not downloaded from one;\ndownload it yourself and name the file, or debian:6.12 for one from the archive", name)
	case colon && !strings.ContainsAny(distro, "/."):
		return "", Usagef("kernel %s: no such file, and %q is no distribution whose kernels can be fetched;\nthose are debian:VERSION and ubuntu:VERSION; of others, install the package and name its vmlinuz", name, distro)
	case len(paths) > 1:
		return "", Usagef("kernel %s: %w; tried %s: %s;\n%s", name, syscall.ENOENT, strings.Join(paths, ", "), r.Why, kernelForms)
	}
	return "", Usagef("kernel %s: %w; %s", paths[0], syscall.ENOENT, kernelForms)
}

// kernelIn finds the kernel in a build's directory: that of kvmrun kernel build,
// or a kernel's source tree in which one was made.
func kernelIn(name, dir string) (string, error) {
	for _, n := range []string{"vmlinux", "bzImage", "arch/x86/boot/bzImage"} {
		if isFile(filepath.Join(dir, n)) {
			return filepath.Join(dir, n), nil
		}
	}
	if _, err := os.ReadDir(dir); errors.Is(err, fs.ErrPermission) {
		return "", Usagef("kernel %s: %w: %s", name, fs.ErrPermission, denial(filepath.Join(dir, "x")))
	}
	const show = 3
	found, _ := filepath.Glob(filepath.Join(dir, "vmlinu*"))
	cure := kernelForms
	if n := len(found); n > 0 {
		cure = "name one of its files: " + strings.Join(found[:min(n, show)], ", ")
		if n > show {
			cure += fmt.Sprintf(" and %d more", n-show)
		}
	}
	return "", Usagef("kernel %s: is a directory, and not that of a build: it has no vmlinux and no bzImage;\n%s", name, cure)
}

// mayRead refuses a file that this user may not read.
func mayRead(name, path string) error {
	f, err := os.Open(path)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrPermission) {
		return Usagef("kernel %s: %w", name, err)
	}
	return Usagef("kernel %s: %w: %s", name, fs.ErrPermission, denial(path))
}

// denial says which directory, or the file itself, keeps this user out, and the
// cure.
func denial(path string) string {
	who := fmt.Sprintf("user %d", os.Geteuid())
	for dir := "/"; ; {
		rest, _ := filepath.Rel(dir, path)
		first, _, more := strings.Cut(rest, "/")
		next := filepath.Join(dir, first)
		if _, err := os.Lstat(next); errors.Is(err, fs.ErrPermission) {
			mode := ""
			if st, err := os.Stat(dir); err == nil {
				mode = " (" + st.Mode().String() + ")"
			}
			return fmt.Sprintf("the directory %s%s does not let %s in;\ncopy the kernel to where that user may read, or open the directory: chmod o+x %s", dir, mode, who, dir)
		}
		if dir = next; !more {
			break
		}
	}
	mode := ""
	if st, err := os.Stat(path); err == nil {
		mode = " (" + st.Mode().String() + ")"
	}
	return fmt.Sprintf("%s%s is not to be read by %s;\ncopy it as a user who may, or: sudo chmod o+r %s", path, mode, who, path)
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}
