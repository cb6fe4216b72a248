// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/symbolize"
)

// symbolize adds source positions to the text of reports, where the kernel has
// debug information: in itself, or in the vmlinux beside it. Without, and for
// what is not found, the kernel's own text stays. It takes some hundred MiB of
// memory for a moment, and only after a splat.
func (m *Machine) symbolize(ctx context.Context, k *Kernel, splats []splat) {
	if len(splats) == 0 || k.Details == nil {
		return
	}
	candidates := []string{k.Path, filepath.Join(filepath.Dir(k.Path), "vmlinux")}
	if v, err := k.Image.Vmlinux(ctx, m.Cache); err == nil {
		candidates = append(candidates, v)
	}
	for _, c := range candidates {
		if st, err := os.Stat(c); err != nil || !st.Mode().IsRegular() {
			continue
		}
		var modules []string
		if k.ModulesDir != "" {
			modules = append(modules, k.ModulesDir)
		}
		s, err := symbolize.Open(c, modules...)
		if err != nil || s.BuildID() != k.Details.BuildID {
			continue
		}
		for i := range splats {
			if text, err := s.Report(splats[i].Report); err == nil {
				splats[i].Raw = text
			}
		}
		return
	}
}
