// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/kvmrun/kvmrun/internal/symbolize"
)

// symbolize adds source positions to the text of reports, where the kernel has
// debug information. Without, and for what is not found, the kernel's own text
// stays. It takes some hundred MiB of memory for a moment, and only after a
// splat.
func (m *Machine) symbolize(ctx context.Context, k *Kernel, splats []splat) {
	if len(splats) == 0 {
		return
	}
	s := m.symbolizer(ctx, k)
	if s == nil {
		return
	}
	for i := range splats {
		if text, err := s.Report(splats[i].Report); err == nil {
			splats[i].Raw = text
		}
	}
}

// symbolizer opens the symbols of a kernel, which are in itself, or in the
// vmlinux beside it; nil when there are none.
func (m *Machine) symbolizer(ctx context.Context, k *Kernel) *symbolize.Symbolizer {
	if k.Details == nil {
		return nil
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
		if s, err := symbolize.Open(c, modules...); err == nil && s.BuildID() == k.Details.BuildID {
			return s
		}
	}
	return nil
}

// stuckAt says, for an error message, where the CPUs of a VM stand that does not
// boot, and writes its memory dump.
func (s *session) stuckAt() string {
	s.core.dump(s.vm)
	ctx, cancel := context.WithTimeout(context.Background(), s.scale(answerLimit))
	defer cancel()
	if at := s.cpusAt(ctx, s.hmp(ctx, "info registers -a")); at != "" {
		return "; kernel: " + at
	}
	return ""
}

// cpusAt says where each CPU stands, by QEMU's "info registers -a"; "" when no
// CPU is in the kernel or the kernel's symbols are not known. It is the last
// resort for a kernel that answers nobody.
func (s *session) cpusAt(ctx context.Context, registers string) string {
	if k := s.p.Kernel; k.Details == nil || !k.Details.PVH() {
		return "" // it has moved itself to a random place
	}
	// Compiled here: this runs once, if ever.
	cpu := regexp.MustCompile(`(?s)CPU#(\d+).*?\bRIP=([0-9a-f]{1,16})\b.*?\bCPL=(\d).*?\bHLT=(\d)`)
	var sym *symbolize.Symbolizer
	var out []string
	for _, m := range cpu.FindAllStringSubmatch(registers, -1) {
		if m[3] != "0" {
			out = append(out, "CPU "+m[1]+" in user space")
			continue
		}
		if sym == nil {
			if sym = s.m.symbolizer(ctx, s.p.Kernel); sym == nil {
				return ""
			}
			sym.SetOffset(0)
		}
		addr, err := strconv.ParseUint(m[2], 16, 64)
		if err != nil {
			continue
		}
		at := "in"
		if m[4] == "1" {
			at = "halted in"
		}
		if l, err := sym.Addr(addr, false); err == nil {
			out = append(out, fmt.Sprintf("CPU %s %s %s", m[1], at, l.Func))
		}
	}
	if sym == nil {
		return ""
	}
	return strings.Join(out, ", ")
}
