// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kvmrun/kvmrun/internal/kfetch"
)

// ErrBadKernel is what FindKernel's errors are when what was asked for cannot be
// a kernel, or not one that this user may read. Others are a fetch's.
var ErrBadKernel = errors.New("no such kernel")

// kernelForms is the cure for most of what is given as a kernel and is none.
const kernelForms = "name a bzImage or vmlinux file, the directory of a build, or debian:6.12 for one from the archive"

type badKernelError struct{ error }

func (badKernelError) Is(target error) bool { return target == ErrBadKernel }

func (e badKernelError) Unwrap() error { return e.error }

func badKernel(format string, a ...any) error { return badKernelError{fmt.Errorf(format, a...)} }

// FindKernel makes an absolute path of what a user calls a kernel: a file, the
// directory of a build, or a distribution's kernel as debian:VERSION, which is
// fetched when the cache does not have it. That the file is a kernel is for
// OpenKernel to find out.
func (m *Machine) FindKernel(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", badKernel("kernel: the name is empty; %s", kernelForms)
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return kernelIn(name, path)
	case err == nil:
		return path, mayRead(name, path)
	case errors.Is(err, fs.ErrPermission):
		return "", badKernel("kernel %s: %w: %s", name, fs.ErrPermission, denial(path))
	case kfetch.IsRef(name):
		if err := kfetch.CheckRef(name); err != nil {
			return "", badKernelError{err}
		}
		k, err := m.Fetcher().Fetch(ctx, name)
		if err != nil {
			return "", err
		}
		if k.Note != "" {
			m.progress("%s", k.Note)
		}
		return k.Path, nil
	case strings.Contains(name, "://"):
		return "", badKernel("kernel %s: an address, and kernels are not downloaded from one;\ndownload it yourself and name the file, or debian:6.12 for one from the archive", name)
	}
	if distro, _, ok := strings.Cut(name, ":"); ok && !strings.ContainsAny(distro, "/.") {
		return "", badKernel("kernel %s: no such file, and %q is no distribution whose kernels can be fetched;\nthose are debian:VERSION and ubuntu:VERSION; of others, install the package and name its vmlinuz", name, distro)
	}
	return "", badKernel("kernel %s: %w; %s", path, syscall.ENOENT, kernelForms)
}

// Fetcher fetches distributions' kernels into the machine's cache and reports to
// its Progress.
func (m *Machine) Fetcher() *kfetch.Fetcher {
	said := map[string]bool{}
	return kfetch.New(kfetch.Config{Cache: m.Cache, Progress: func(p kfetch.Progress) {
		if line := strings.TrimSpace(p.Step + " " + p.What); p.Step != "look up" && !said[line] {
			said[line] = true
			m.progress("%s", line)
		}
	}})
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
		return "", badKernel("kernel %s: %w: %s", name, fs.ErrPermission, denial(filepath.Join(dir, "x")))
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
	return "", badKernel("kernel %s: is a directory, and not that of a build: it has no vmlinux and no bzImage;\n%s", name, cure)
}

// mayRead refuses a file that this user may not read.
func mayRead(name, path string) error {
	f, err := os.Open(path)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrPermission) {
		return badKernel("kernel %s: %w", name, err)
	}
	return badKernel("kernel %s: %w: %s", name, fs.ErrPermission, denial(path))
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
