// SPDX-License-Identifier: Apache-2.0

// Command dist makes the directory that package shipped finds beside a kvmrun
// program: dist PROGRAM DIRECTORY, in a checkout, with a Go toolchain.
//
// It must not know how any of what it copies is used.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/initramfs/busybox"
	"github.com/kvmrun/kvmrun/internal/catalog"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/shipped"
	"github.com/kvmrun/kvmrun/internal/suiterun"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: dist PROGRAM DIRECTORY")
		os.Exit(2)
	}
	if err := dist(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

func dist(ctx context.Context, program, dir string) error {
	id, err := shipped.BuildID(program)
	if err != nil {
		return err
	}
	m, err := runner.NewMachine("", "")
	if err != nil {
		return err
	}
	tools, err := busybox.Build(ctx, initramfs.Options{CacheDir: m.Cache.Root(), Progress: func(line string) { fmt.Fprintln(os.Stderr, "dist:", line) }})
	if err != nil {
		return err
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	src, err := suiterun.FindSource(wd)
	if err != nil {
		return err
	}
	names, err := src.Names()
	if err != nil {
		return err
	}
	// It appears complete or not at all: what is half there would be used.
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(abs), ".kvmrun-dist-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // gone after the rename
	args := []string{"test", "-c", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(tmp, shipped.Suites) + "/"}
	for _, n := range names {
		args = append(args, "./suites/"+n)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = os.Stderr, os.Stderr, src.Dir
	if err := errors.Join(
		os.Chmod(tmp, 0o755), //nolint:gosec // for all users of the program
		os.Mkdir(filepath.Join(tmp, shipped.Busybox), 0o755), //nolint:gosec // as above
		os.Mkdir(filepath.Join(tmp, shipped.Suites), 0o755),  //nolint:gosec // as above
		os.Mkdir(filepath.Join(tmp, shipped.C), 0o755),       //nolint:gosec // as above
		copyFile(filepath.Join(tools, initramfs.BusyboxBinary), filepath.Join(tmp, shipped.Busybox, initramfs.BusyboxBinary), 0o755),
		copyFile(filepath.Join(tools, initramfs.BusyboxList), filepath.Join(tmp, shipped.Busybox, initramfs.BusyboxList), 0o644),
		cmd.Run(),
		os.WriteFile(filepath.Join(tmp, shipped.Stamp), []byte(id+"\n"), 0o644), //nolint:gosec // as above
	); err != nil {
		return err
	}
	for _, s := range catalog.Specs() {
		for _, c := range s.C {
			path, err := m.CompileC(ctx, c)
			if err == nil {
				err = copyFile(path, filepath.Join(tmp, shipped.C, c.Key()), 0o755)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(abs); err != nil {
		return err
	}
	return os.Rename(tmp, abs)
}

func copyFile(from, to string, mode os.FileMode) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, mode)
}
