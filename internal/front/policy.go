// SPDX-License-Identifier: Apache-2.0

package front

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/suites"
)

// Policy is the group of flags that say how something is run and what counts.
type Policy struct {
	KeepGoing, PanicOnWarn bool
	Isolate                suites.Isolation // "" leaves it to the suite
	Jobs                   int              // VMs at a time; 0 is the command's default
	Hang, Timeout          time.Duration    // 0 is none
	Allow                  Multi            // files
	AllowNothing, Strict   bool
	Faults                 fault.Flag
	VMCore                 Core
	Boot                   string // one of BootAuto, BootCold and BootWarm
}

// What -boot takes.
const (
	BootAuto = "auto"
	BootCold = "cold"
	BootWarm = "warm"
)

var policyFlags = []def[Policy]{
	{"timeout", "limit for one suite in a VM, e.g. `5m`; default: the suite's own, three times that without KVM;\nthe tests after one that used it up go on in a fresh VM, twice at most", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { SpanVar(fs, &p.Timeout, name, text) }},
	{"hang", "limit for a guest that says nothing at all, e.g. `2m`; default: none", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { SpanVar(fs, &p.Hang, name, text) }},
	{"keep-going", "go on in the same VM after a kernel splat, instead of a fresh one", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { fs.BoolVar(&p.KeepGoing, name, false, text) }},
	{"panic-on-warn", "let the kernel panic at its first warning", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { fs.BoolVar(&p.PanicOnWarn, name, false, text) }},
	{"isolate", "keep tests apart: none, suite (a fresh VM after a kernel splat) or test (a VM each, forked); default: suite, or what the suite says",
		[]string{string(suites.IsolateNone), string(suites.IsolateSuite), string(suites.IsolateTest)},
		func(p *Policy, fs *flag.FlagSet, name, text string) {
			fs.StringVar((*string)(&p.Isolate), name, "", text)
		}},
	{"j", "how `many` VMs run at a time; default: as many as CPUs", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { NumberVar(fs, &p.Jobs, name, 0, text) }},
	{"allow", "tolerate the kernel splats that this allow-list `file` names; repeatable; a line is\n" +
		"title: GLOB | reason: TEXT | link: URL | expires: YYYY-MM-DD, or fingerprint: HEX for title", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { fs.Var(&p.Allow, name, text) }},
	{"fault", "inject the fault `SPEC`, or those in @FILE; repeatable, see above", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { fs.Var(&p.Faults, name, text) }},
	{"vmcore", "write the memory of a guest that hangs or dies to a file beside its kernel log, for crash\nand drgn: an ELF core, or with -vmcore=kdump-zlib a smaller one",
		[]string{coreELF, coreKdump},
		func(p *Policy, fs *flag.FlagSet, name, text string) { fs.Var(&p.VMCore, name, text) }},
	{"boot", "`where` the VM comes from: auto forks it from one that was booted before for this kernel and size, or boots one for that;\ncold boots; warm, for exec and shell, makes that machine and runs nothing",
		[]string{BootAuto, BootCold, BootWarm},
		func(p *Policy, fs *flag.FlagSet, name, text string) { fs.StringVar(&p.Boot, name, BootAuto, text) }},
	{"allow-nothing", "do not fail where nothing is tested: all tests are skipped, or none is selected", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { fs.BoolVar(&p.AllowNothing, name, false, text) }},
	{"strict", "fail, instead of skipping, what the kernel's configuration has no support for", nil,
		func(p *Policy, fs *flag.FlagSet, name, text string) { fs.BoolVar(&p.Strict, name, false, text) }},
}

// Register adds the group's flags, or those that are named.
func (p *Policy) Register(fs *flag.FlagSet, only ...string) { register(p, policyFlags, fs, only) }

// RegisterWithout adds the group's flags but those that are named.
func (p *Policy) RegisterWithout(fs *flag.FlagSet, without ...string) {
	var only []string
	for _, d := range policyFlags {
		if !slices.Contains(without, d.name) {
			only = append(only, d.name)
		}
	}
	p.Register(fs, only...)
}

// Check refuses what is no policy.
func (p *Policy) Check() error {
	if _, err := suites.ParseIsolation(string(p.Isolate)); err != nil {
		return Usagef("-isolate: %w", err)
	}
	if p.Boot != "" && !slices.Contains(Choices("boot"), p.Boot) {
		return Usagef("-boot %s: want auto, cold or warm", p.Boot)
	}
	return nil
}

// AllowList reads the allow-lists. The error names all that is wrong with all of
// them.
func (p *Policy) AllowList(r Resolver) (*oops.AllowList, error) {
	all := &oops.AllowList{}
	var errs []error
	for i, f := range p.Allow {
		f = r.File(f)
		p.Allow[i] = f
		b, err := os.ReadFile(f)
		if err == nil {
			var l *oops.AllowList
			if l, err = oops.ParseAllowList(f, b); err == nil {
				all.Add(l)
			}
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, Usagef("-allow: %w", err)
	}
	return all, nil
}

// Lacks says what a kernel lacks for a suite to skip nothing, for -strict; nil is
// nothing. The kernel's configuration is nil where it is not known.
func Lacks(kernel string, have suites.Config, s suites.Spec) error {
	if have == nil {
		return fmt.Errorf("the configuration of %s is not known; name it with -kconfig", kernel)
	}
	if miss := append(have.Missing(s.Kconfig), have.Missing(s.OptionalKconfig)...); len(miss) > 0 {
		return fmt.Errorf("%s: suite %s needs CONFIG_%s", kernel, s.Name, strings.Join(miss, ", CONFIG_"))
	}
	return nil
}
