// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// ModulesDir returns the directory of the kernel's modules, the one that holds
// modules.builtin or modules.dep.
//
// With given == "" the usual places are tried: lib/modules/<release> and
// usr/lib/modules/<release> beside the kernel's directory (an unpacked
// package), in it (a build artifact, INSTALL_MOD_PATH), the kernel's directory
// itself (Fedora keeps vmlinuz there), and /lib/modules/<release>. When there
// is none, the result is "" without an error: a kernel may have no modules.
//
// With a directory given, that directory must belong to this kernel: be its
// <release>, or hold <release> or lib/modules/<release>. Otherwise the error is
// an [*Error] of kind [ErrModulesDir] that names the versions found there.
func (img *Image) ModulesDir(ctx context.Context, c *cache.Cache, given string) (string, error) {
	return img.modulesDir(ctx, c, given, rootDir)
}

func (img *Image) modulesDir(ctx context.Context, c *cache.Cache, given, root string) (string, error) {
	release, err := img.Release(ctx, c)
	if err != nil {
		return "", err
	}
	if given != "" {
		return img.checkModulesDir(given, release)
	}
	if !validRelease(release) {
		return "", nil
	}
	var tries []string
	for _, dir := range img.dirs() {
		parent := filepath.Join(dir, "..")
		tries = append(tries,
			filepath.Join(parent, "lib", "modules", release),
			filepath.Join(parent, "usr", "lib", "modules", release),
			filepath.Join(dir, "lib", "modules", release),
		)
		if filepath.Base(dir) == release {
			tries = append(tries, dir)
		}
	}
	tries = append(tries, filepath.Join(root, "lib", "modules", release))
	for _, dir := range tries {
		if isModulesDir(dir) {
			return dir, nil
		}
	}
	return "", nil
}

func (img *Image) checkModulesDir(given, release string) (string, error) {
	bad := func(detail, cure string) error {
		return &Error{Path: img.Path, Kind: ErrModulesDir, Detail: fmt.Sprintf("the modules directory %s %s", given, detail), Cure: cure}
	}
	fi, err := os.Stat(given)
	if err != nil {
		return "", &Error{Path: img.Path, Kind: ErrModulesDir, Detail: "cannot use the modules directory", Err: err}
	}
	if !fi.IsDir() {
		return "", bad("is a file", "give the directory that holds modules.dep")
	}
	if !validRelease(release) {
		return "", bad("cannot be compared with the kernel, which does not tell its version", "")
	}
	abs, err := filepath.Abs(given)
	if err != nil {
		return "", bad("cannot be resolved: "+err.Error(), "")
	}
	if filepath.Base(abs) == release && isModulesDir(abs) {
		return given, nil
	}
	var found []string
	for _, sub := range []string{"", "lib/modules", "usr/lib/modules"} {
		dir := filepath.Join(given, sub)
		if path := filepath.Join(dir, release); isModulesDir(path) {
			return path, nil
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if isModulesDir(filepath.Join(dir, e.Name())) {
				found = append(found, e.Name())
			}
		}
	}
	if isModulesDir(abs) {
		found = append(found, filepath.Base(abs))
	}
	if len(found) == 0 {
		return "", bad("holds no kernel modules", "give the directory named "+release+", as modules_install makes it under lib/modules")
	}
	slices.Sort(found)
	return "", bad(fmt.Sprintf("is of another version: it has modules for %s, the kernel is %s",
		strings.Join(slices.Compact(found), ", "), release), "modules only load into the kernel they were built with")
}

// isModulesDir recognises what modules_install and depmod make (Documentation/
// kbuild/kbuild.rst, modules.builtin; depmod(8), modules.dep). Debian's package
// has modules.order and modules.builtin only, until depmod runs.
func isModulesDir(dir string) bool {
	for _, name := range []string{"modules.order", "modules.builtin", "modules.dep"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil && fi.Mode().IsRegular() {
			return true
		}
	}
	return false
}
