// SPDX-License-Identifier: Apache-2.0

package front

import (
	"flag"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/kvmrun/kvmrun/internal/words"
)

// VM is the group of flags that say what a VM is made of.
type VM struct {
	Accel           string // one of auto, kvm and tcg
	MemoryMiB, CPUs int    // 0 is what the suite asks for
	QEMU            string // "" is the one found in PATH
	Cache           string // "" is the user's
	Append          Params // kernel parameters beside kvmrun's and the suite's
}

const (
	accelAuto = "auto"
	// maxCPUs is vmtest.MaxCPUs.
	maxCPUs = 255
)

var vmFlags = []def[VM]{
	{"accel", "what runs the guest: kvm, tcg, or auto for kvm where it works", []string{accelAuto, "kvm", "tcg"},
		func(v *VM, fs *flag.FlagSet, name, text string) { fs.StringVar(&v.Accel, name, accelAuto, text) }},
	{"memory", "the guest's memory in `MiB`, or as 2G; default: what the suite asks for", nil,
		func(v *VM, fs *flag.FlagSet, name, text string) { fs.Var((*mebibytes)(&v.MemoryMiB), name, text) }},
	{"cpus", "how `many` CPUs the guest has; default: what the suite asks for", nil,
		func(v *VM, fs *flag.FlagSet, name, text string) { NumberVar(fs, &v.CPUs, name, 0, text) }},
	{"append", "more `parameters` for the kernel's command line, as 'lsm=landlock,bpf slub_debug=FZPU'; repeatable", nil,
		func(v *VM, fs *flag.FlagSet, name, text string) { fs.Var(&v.Append, name, text) }},
	{"qemu", "the QEMU `binary`; default: found in PATH", nil,
		func(v *VM, fs *flag.FlagSet, name, text string) { fs.StringVar(&v.QEMU, name, "", text) }},
	{"cache", "the cache `directory`; default: $XDG_CACHE_HOME/kvmrun", nil,
		func(v *VM, fs *flag.FlagSet, name, text string) { fs.StringVar(&v.Cache, name, "", text) }},
}

// Register adds the group's flags, or those that are named. Fields without a flag
// have their default.
func (v *VM) Register(fs *flag.FlagSet, only ...string) {
	v.Accel = accelAuto
	register(v, vmFlags, fs, only)
}

// Check refuses machines that cannot be had here, before anything is made.
func (v *VM) Check() error {
	if !slices.Contains(Choices("accel"), v.Accel) {
		return Usagef("-accel %s: want kvm, tcg or auto", v.Accel)
	}
	if v.CPUs > maxCPUs {
		return Usagef("-cpus %d: a VM has %d at most; leave -cpus out for what the suite asks for", v.CPUs, maxCPUs)
	}
	if have := hostMiB(); have > 0 && v.MemoryMiB > have {
		return Usagef("-memory %d: this host has %d MiB, swap included; give less, or leave -memory out for what the suite asks for", v.MemoryMiB, have)
	}
	return nil
}

// Same are the flags that make the same machine, as words of a shell's command
// line that can be given in any directory, each with a blank before.
func (v *VM) Same() string {
	var b strings.Builder
	put := func(name, value string) {
		if value != "" {
			b.WriteString(" -" + name + " " + words.Quote(value))
		}
	}
	if v.Accel != accelAuto {
		put("accel", v.Accel)
	}
	if v.MemoryMiB > 0 {
		put("memory", strconv.Itoa(v.MemoryMiB))
	}
	if v.CPUs > 0 {
		put("cpus", strconv.Itoa(v.CPUs))
	}
	put("append", v.Append.String())
	put("qemu", absoluteProgram(v.QEMU))
	put("cache", Absolute(v.Cache))
	return b.String()
}

// hostMiB is the host's memory and swap, 0 if that is not known (proc_meminfo(5)).
func hostMiB() (mib int) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) >= 2 && (f[0] == "MemTotal:" || f[0] == "SwapTotal:") {
			if n, err := strconv.Atoi(f[1]); err == nil {
				mib += n >> 10
			}
		}
	}
	return mib
}
