// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/suites"
)

// CheckFaults holds a plan against a kernel and the disks of a VM, before
// anything boots.
func (k *Kernel) CheckFaults(ctx context.Context, h *Host, plan fault.Plan, disks []suites.Disk) error {
	if len(plan) == 0 {
		return nil
	}
	known := fault.Kernel{Config: k.Config}
	for _, d := range disks {
		known.Disks = append(known.Disks, d.Name)
	}
	for _, f := range plan {
		if f.In != "" || f.NotIn != "" || f.Kind == fault.Function {
			known.Functions = k.functions(ctx, h)
			break
		}
	}
	return plan.Validate(known)
}

// maxModules bounds how many modules are looked into for their functions.
const maxModules = 50

// functions returns the names of the functions of the kernel and its modules,
// nil when they are not known: for a file without symbols, and for a kernel
// with more than a few modules or with compressed ones.
func (k *Kernel) functions(ctx context.Context, h *Host) map[string]bool {
	path, err := k.Image.Vmlinux(ctx, h.Cache)
	if err != nil {
		return nil
	}
	files := []string{path}
	if k.ModulesDir != "" {
		if err := filepath.WalkDir(k.ModulesDir, func(path string, _ fs.DirEntry, err error) error {
			if strings.Contains(filepath.Base(path), ".ko") {
				files = append(files, path)
			}
			return err
		}); err != nil {
			return nil
		}
	}
	if len(files) > maxModules {
		return nil
	}
	out := map[string]bool{}
	for _, file := range files {
		list, err := TextSymbols(file)
		if err != nil {
			return nil
		}
		for _, s := range list {
			out[s.Name] = true
		}
	}
	return out
}

// TextSymbols reads the functions of a vmlinux, none for a stripped one.
func TextSymbols(vmlinux string) ([]elf.Symbol, error) {
	f, err := elf.Open(vmlinux)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's symbols: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	all, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("read the symbols of %s: %w", vmlinux, err)
	}
	out := all[:0]
	for _, s := range all {
		if t := elf.ST_TYPE(s.Info); t == elf.STT_FUNC || t == elf.STT_NOTYPE {
			if int(s.Section) < len(f.Sections) && f.Sections[s.Section].Flags&elf.SHF_EXECINSTR != 0 {
				out = append(out, s)
			}
		}
	}
	return out, nil
}
