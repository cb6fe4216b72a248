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
	"time"

	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/symbolize"
)

// symbolize adds source positions to the text of reports, where the kernel has
// debug information. Without, and for what is not found, the kernel's own text
// stays. It takes some hundred MiB of memory for a moment, and only after a
// splat.
func (m *Machine) symbolize(ctx context.Context, k *machine.Kernel, splats []klog.Splat) {
	if len(splats) == 0 {
		return
	}
	s := m.Symbolizer(ctx, k)
	if s == nil {
		return
	}
	for i := range splats {
		if text, err := s.Report(splats[i].Report); err == nil {
			splats[i].Raw = text
		}
	}
}

// Symbolizer opens the symbols of a kernel, which are in itself, or in the
// vmlinux beside it; nil when there are none.
func (m *Machine) Symbolizer(ctx context.Context, k *machine.Kernel) *symbolize.Symbolizer {
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
	s.vm.Dump()
	ctx, cancel := context.WithTimeout(context.Background(), s.scale(answerLimit))
	defer cancel()
	if at := s.cpusAt(ctx, true); at != "" {
		return "; kernel: " + at
	}
	return ""
}

// samples is how often the CPUs are looked at: one that loops also serves its
// timer, which under TCG takes much of its time.
const samples = 15

// cpusAt says where each CPU stands most of the time, by QEMU's "info registers
// -a"; "" when no CPU is in the kernel. Where the kernel's symbols are not known, or
// it has moved itself to a random place, it gives the address, if bare ones are
// wanted: whether a CPU is halted or busy tells a lost wakeup from a loop. It is the
// last resort for a kernel that answers nobody.
func (s *session) cpusAt(ctx context.Context, bare bool) string {
	at := func(addr uint64) string { return fmt.Sprintf("%#x", addr) }
	if k := s.p.Kernel; k.Details != nil && k.Details.PVH() {
		if sym := s.m.Symbolizer(ctx, k); sym != nil {
			sym.SetOffset(0)
			at, bare = func(addr uint64) string {
				l, err := sym.Addr(addr, false)
				if err != nil {
					return ""
				}
				return l.Func
			}, true
		}
	}
	if !bare {
		return ""
	}
	// Compiled here: this runs once, if ever.
	cpu := regexp.MustCompile(`(?s)CPU#(\d+).*?\bRIP=([0-9a-f]{1,16})\b.*?\bCPL=(\d).*?\bHLT=(\d)`)
	v := votes{}
	tick := time.NewTicker(17 * time.Millisecond) // in step with no timer of Linux
	defer tick.Stop()
	for range samples {
		for _, m := range cpu.FindAllStringSubmatch(s.hmp(ctx, "info registers -a"), -1) {
			addr, err := strconv.ParseUint(m[2], 16, 64)
			switch {
			case m[3] != "0":
				v.add(m[1], "in user space", false)
			case err != nil, at(addr) == "":
			case m[4] == "1":
				v.add(m[1], "halted in "+at(addr), true)
			default:
				v.add(m[1], "in "+at(addr), true)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return v.String()
		}
	}
	return v.String()
}

// votes counts where each CPU was found.
type votes struct {
	cpus   []string // in the order of their appearance
	found  map[string]map[string]int
	kernel bool // one of them was in the kernel
}

func (v *votes) add(cpu, at string, kernel bool) {
	if v.found[cpu] == nil {
		if v.found == nil {
			v.found = map[string]map[string]int{}
		}
		v.cpus = append(v.cpus, cpu)
		v.found[cpu] = map[string]int{}
	}
	v.found[cpu][at]++
	v.kernel = v.kernel || kernel
}

// String names the most frequent place of each CPU, "" if none was ever in the
// kernel.
func (v *votes) String() string {
	var out []string
	for _, cpu := range v.cpus {
		best := ""
		for at, n := range v.found[cpu] {
			if m := v.found[cpu][best]; n > m || n == m && at < best {
				best = at
			}
		}
		out = append(out, "CPU "+cpu+" "+best)
	}
	if !v.kernel {
		return ""
	}
	return strings.Join(out, ", ")
}
