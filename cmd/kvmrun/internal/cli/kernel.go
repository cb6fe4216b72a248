// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/suiterun"
)

var kernelCommand = command{
	name:  "kernel",
	short: "fetch, build and examine kernels",
	sub:   []command{fetchCommand, buildCommand, configCommand, checkCommand, infoCommand, listCommand, pruneCommand},
}

var fetchCommand = command{
	name: "fetch", args: "debian:VERSION",
	short: "fetch a distribution's kernel into the cache",
	long: `Fetches a kernel package from the archive this machine is set up for, by its own
package tools, which check its signatures, unpacks it into the cache and prints
the path of its vmlinuz. VERSION is a series (debian:6.12, the newest of it) or
exact (debian:6.12.115). -list shows what there is; -source fetches the source
instead and prints its directory, which is not to be written to.`,
	flags: func(fs *flag.FlagSet) action {
		var c fetchCmd
		c.vm.Register(fs, "cache")
		fs.BoolVar(&c.list, "list", false, "list the versions instead, newest last")
		fs.BoolVar(&c.source, "source", false, "fetch the kernel's source instead")
		return c.run
	},
}

// fetchCmd is kvmrun kernel fetch.
type fetchCmd struct {
	vm           front.VM
	list, source bool
}

func (c *fetchCmd) run(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
	if fs.NArg() != 1 || !kfetch.IsRef(fs.Arg(0)) {
		return front.Usagef("kernel fetch: want one kernel as debian:VERSION, for example debian:6.12")
	}
	if c.list && c.source {
		return front.Usagef("kernel fetch: -list lists kernels, not sources: give one of -list and -source")
	}
	m, err := newMachine(&c.vm, newProgress(io.Err).say)
	if err != nil {
		return err
	}
	if c.source {
		src, err := m.Fetcher().FetchSource(ctx, fs.Arg(0))
		if err != nil {
			return err
		}
		if src.Note != "" {
			m.Progress(src.Note)
		}
		fmt.Fprintln(io.Out, src.Dir)
		return nil
	}
	if !c.list {
		path, err := m.FetchKernel(ctx, fs.Arg(0))
		if err != nil {
			return err
		}
		fmt.Fprintln(io.Out, path)
		return nil
	}
	list, err := kfetch.New(kfetch.Config{Cache: m.Cache}).Versions(ctx, fs.Arg(0))
	if err != nil {
		return err
	}
	for _, c := range list {
		state := ""
		if c.Cached {
			state = "  (in the cache)"
		}
		fmt.Fprintf(io.Out, "%s:%-12s %s%s\n", c.Distro, c.Upstream, c.Release, state)
	}
	return nil
}

var infoCommand = command{
	name: "info", short: "what a kernel file is",
	long: `Prints version, architecture, format, compression, PVH, build-id, compiler and
what of the sanitizers, fault injection, lockdep and KASLR is built in.`,
	flags: func(fs *flag.FlagSet) action {
		var v vmFlags
		v.register(fs, false)
		asJSON := fs.Bool("json", false, "print JSON")
		return func(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
			if err := front.CheckDone(fs, "kernel info", "kernels are given by -kernel"); err != nil {
				return err
			}
			return kernelInfo(ctx, io, v, *asJSON)
		}
	},
}

func kernelInfo(ctx context.Context, io IO, v vmFlags, asJSON bool) error {
	if err := check(&v); err != nil {
		return err
	}
	m, err := v.machine(nil)
	if err != nil {
		return err
	}
	ks, err := v.open(ctx, io, m)
	if err != nil {
		return err
	}
	info, err := ks[0].Image.Info(ctx, m.Cache)
	if err != nil {
		return front.Usage(err)
	}
	if asJSON {
		e := json.NewEncoder(io.Out)
		e.SetIndent("", "  ")
		return e.Encode(info)
	}
	return info.WriteText(io.Out)
}

var checkCommand = command{
	name: "check", short: "what the suites will find in a kernel, before it boots",
	long: `Reads the kernel's configuration (embedded, beside it, in /boot, or -kconfig)
and prints for every suite which options are there, missing, or only a module,
and which tests will therefore be skipped. Exit status 1 when something is missing.`,
	flags: func(fs *flag.FlagSet) action {
		var v vmFlags
		v.register(fs, true)
		var names front.List
		fs.Var(&names, "suite", "a suite to check for; several with commas; default: all")
		src := fs.String("src", ".", "find suites in the Go module of this `directory`")
		return func(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
			if err := front.CheckDone(fs, "kernel check", "kernels are given by -kernel, suites by -suite"); err != nil {
				return err
			}
			return kernelCheck(ctx, io, v, names, *src)
		}
	},
}

func kernelCheck(ctx context.Context, io IO, v vmFlags, names []string, src string) error {
	if err := check(&v); err != nil {
		return err
	}
	m, err := v.machine(newProgress(io.Err).say)
	if err != nil {
		return err
	}
	ks, err := v.open(ctx, io, m)
	if err != nil {
		return err
	}
	source, err := suiterun.FindSource(front.Absolute(src))
	if err != nil {
		return front.Usage(err)
	}
	if len(names) == 0 {
		if names, err = source.Names(); err != nil {
			return front.Usage(err)
		}
	}
	suites, err := suiterun.New(m).Suites(ctx, source, names)
	if err != nil {
		return front.Usage(err)
	}
	tests := make([]map[string][]string, len(suites))
	for i, s := range suites {
		// A test binary has no source here; its options are named all the same.
		if tests[i], err = source.TestsNeeding(s.Spec.Name, s.Spec.OptionalKconfig); err != nil && !errors.Is(err, os.ErrNotExist) {
			return front.Fail(err)
		}
	}
	short := false
	for _, k := range ks {
		if k.Config == nil {
			return front.Fail(fmt.Errorf("the configuration of %s is not known; name it with -kconfig", k.Path))
		}
		fmt.Fprintf(io.Out, "%s (configuration: %s)\n", k.Release, k.ConfigSource)
		for i, s := range suites {
			short = checkSuite(io, k, s, tests[i]) || short
		}
	}
	if short {
		return &front.Error{Code: result.ExitFail}
	}
	return nil
}

// checkSuite prints what a suite finds in a kernel, and says whether it is
// short of something; tests has the tests that need an option.
func checkSuite(io IO, k *machine.Kernel, s suiterun.Suite, tests map[string][]string) (short bool) {
	fmt.Fprintf(io.Out, "  %s\n", s.Spec.Name)
	show := func(need, consequence string) {
		have := k.Config[strings.TrimSuffix(need, "=y")]
		state := "present"
		switch {
		case !k.Config.Has(need) && have == "m":
			short, state = true, "only a module: "+consequence
		case !k.Config.Has(need):
			short, state = true, "missing: "+consequence
		case have == "m":
			state = "module"
		}
		fmt.Fprintf(io.Out, "    CONFIG_%-34s %s\n", need, state)
	}
	for _, need := range s.Spec.Kconfig {
		show(need, "the whole suite is skipped")
	}
	for _, need := range s.Spec.OptionalKconfig {
		consequence := "tests that need it are skipped"
		if names := tests[need]; len(names) > 0 {
			consequence = "skipped, in whole or in part: " + strings.Join(names, ", ")
		}
		show(need, consequence)
	}
	return short
}
