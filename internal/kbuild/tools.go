// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/kconfig"
)

// tool is a program or a C header the build needs.
type tool struct {
	name   string // program, or header
	header bool
	pkg    string // Debian package
	why    string
}

// Missing is a tool this machine lacks.
type Missing struct {
	Name    string // program or header
	Package string // Debian package that has it
	Why     string
}

// ToolsError names everything that is missing, at once.
type ToolsError struct {
	Missing []Missing
}

func (e *ToolsError) Error() string {
	var pkgs []string
	var b strings.Builder
	b.WriteString("this machine lacks what a kernel build needs:")
	for _, m := range e.Missing {
		fmt.Fprintf(&b, "\n  %s (package %s): %s", m.Name, m.Package, m.Why)
		pkgs = append(pkgs, m.Package)
	}
	slices.Sort(pkgs)
	fmt.Fprintf(&b, "\nrun: apt-get install %s", strings.Join(slices.Compact(pkgs), " "))
	return b.String()
}

// tools lists what this request needs.
func (r *request) tools() []tool {
	cc, ccPkg := r.CC, "gcc"
	ld := tool{name: r.CrossCompile + "ld", pkg: "binutils", why: "linker"}
	switch {
	case r.LLVM != "":
		if cc == "" {
			cc = "clang"
		}
		ccPkg = "clang"
		ld = tool{name: "ld.lld", pkg: "lld", why: "linker of LLVM=1"}
	case cc == "":
		cc = r.CrossCompile + "gcc"
		if r.CrossCompile != "" {
			ccPkg = "gcc-" + strings.TrimSuffix(r.CrossCompile, "-")
			ld.pkg = "binutils-" + strings.TrimSuffix(r.CrossCompile, "-")
		}
	}
	need := []tool{
		{name: "make", pkg: "make", why: "runs the build"},
		{name: strings.Fields(cc)[0], pkg: ccPkg, why: "compiler"},
		ld,
		{name: "flex", pkg: "flex", why: "makes the configuration parser"},
		{name: "bison", pkg: "bison", why: "makes the configuration parser"},
		{name: "bc", pkg: "bc", why: "computes time constants"},
		{name: "perl", pkg: "perl", why: "makes tables"},
		{name: "gelf.h", header: true, pkg: "libelf-dev", why: "objtool reads object files"},
		{name: "openssl/opensslv.h", header: true, pkg: "libssl-dev", why: "certificates are built in"},
	}
	if len(r.patches) > 0 {
		need = append(need, tool{name: "patch", pkg: "patch", why: "applies patches"})
	}
	asked := kconfig.Config{}
	for _, a := range r.merged.Assigns {
		asked[a.Symbol] = a.Value
	}
	for symbol, t := range map[string]tool{
		"KERNEL_GZIP":    {name: "gzip", pkg: "gzip", why: "packs the boot image"},
		"KERNEL_LZ4":     {name: "lz4", pkg: "lz4", why: "packs the boot image"},
		"KERNEL_XZ":      {name: "xz", pkg: "xz-utils", why: "packs the boot image"},
		"KERNEL_ZSTD":    {name: "zstd", pkg: "zstd", why: "packs the boot image"},
		"DEBUG_INFO_BTF": {name: "pahole", pkg: "pahole", why: "makes BTF"},
		"MODULES":        {name: "depmod", pkg: "kmod", why: "indexes modules"},
	} {
		if asked.Get(symbol) == "y" {
			need = append(need, t)
		}
	}
	slices.SortStableFunc(need[9:], func(a, b tool) int { return strings.Compare(a.name, b.name) })
	return need
}

// findTools returns those that are missing.
func findTools(ctx context.Context, env []string, need []tool) []Missing {
	var out []Missing
	for _, t := range need {
		missing := lookPath(env, t.name) == ""
		if t.header {
			missing = !hasHeader(ctx, env, t.name)
		}
		if missing {
			out = append(out, Missing{Name: t.name, Package: t.pkg, Why: t.why})
		}
	}
	return out
}

// hasHeader asks the host's compiler. Without one, nothing is known and the
// missing compiler is reported instead; but its headers are missing too.
func hasHeader(ctx context.Context, env []string, header string) bool {
	for _, cc := range []string{"gcc", "cc", "clang"} {
		path := lookPath(env, cc)
		if path == "" {
			continue
		}
		cmd := exec.CommandContext(ctx, path, "-E", "-x", "c", "-o", os.DevNull, "-")
		cmd.Env = env
		cmd.Stdin = strings.NewReader("#include <" + header + ">\n")
		return cmd.Run() == nil
	}
	return false
}

// lookPath finds a program in the PATH of env. depmod lives where only root's
// PATH leads on Debian.
func lookPath(env []string, name string) string {
	if strings.Contains(name, "/") {
		if fi, err := os.Stat(name); err == nil && !fi.IsDir() && fi.Mode()&0o111 != 0 {
			return name
		}
		return ""
	}
	dirs := filepath.SplitList(getenv(env, "PATH"))
	for _, dir := range append(dirs, "/usr/sbin", "/sbin") {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && !fi.IsDir() && fi.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

func getenv(env []string, name string) string {
	value := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// What a build takes, measured for 6.12 and rounded up: a copy of the source,
// and make's output of a kasan kernel with its artifact.
const (
	sourceBytes = 2 << 30
	outputBytes = 3 << 30
)

// SpaceError says that the cache's file system is too full to begin.
type SpaceError struct {
	Dir        string
	Need, Free uint64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("no space to build a kernel: %s has %d MiB free, about %d MiB are needed (kvmrun kernel prune frees some; XDG_CACHE_HOME moves the cache)",
		e.Dir, e.Free>>20, e.Need>>20)
}

// Unwrap makes errors.Is find ENOSPC.
func (e *SpaceError) Unwrap() error { return unix.ENOSPC }

// space refuses to begin what cannot end.
func (r *request) space(need uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(r.Cache.Root(), &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted just now; the build will make it again
		}
		return fmt.Errorf("ask for free space in %s: %w", r.Cache.Root(), err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < need { //nolint:gosec // a block size is positive
		return hostErr(&SpaceError{Dir: r.Cache.Root(), Need: need, Free: free})
	}
	return nil
}

// compiler says what compiles: the first line of its --version.
func (r *request) compiler(ctx context.Context) string {
	cc := r.CC
	if cc == "" {
		cc = r.CrossCompile + "gcc"
		if r.LLVM != "" {
			cc = "clang"
		}
	}
	words := strings.Fields(cc)
	path := lookPath(r.env, words[0])
	if path == "" {
		return cc + " (missing)"
	}
	out, err := r.run(ctx, "", path, append(words[1:], "--version")...)
	if err != nil {
		return cc + " (broken)"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
