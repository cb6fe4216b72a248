// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/kconfig"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/kconfigs"
)

// buildFlags say which kernel to build.
type buildFlags struct {
	c         kbuild.Config
	fragments front.Multi
	patches   front.Multi
	vm        front.VM
}

func (b *buildFlags) register(fs *flag.FlagSet) {
	var names []string
	for _, p := range kconfigs.Profiles() {
		names = append(names, p.Name)
	}
	fs.StringVar(&b.c.Source, "src", "", "the kernel's source: a `directory`, or debian:6.12 for a fetched one; it is never written to")
	fs.StringVar(&b.c.Profile, "profile", "lean", "the configuration: "+strings.Join(names, ", "))
	fs.Var(&b.fragments, "fragment", "a kconfig fragment `file` on top; repeatable")
	fs.Var(&b.patches, "patch", "a `file` to apply with patch -p1, fuzz refused; repeatable")
	fs.StringVar(&b.c.Arch, "arch", kbuild.DefaultArch, "the architecture")
	front.NumberVar(fs, &b.c.Jobs, "j", 0, "how `many` jobs make runs; default: the CPUs")
}

// registerBisect adds the flags that make sense for many builds.
func (b *buildFlags) registerBisect(fs *flag.FlagSet, src string) {
	var names []string
	for _, p := range kconfigs.Profiles() {
		names = append(names, p.Name)
	}
	fs.StringVar(&b.c.Source, "src", src, "the kernel's git repository: a `directory`; it is never written to")
	fs.StringVar(&b.c.Profile, "profile", "lean", "the configuration: "+strings.Join(names, ", "))
	fs.Var(&b.fragments, "fragment", "a kconfig fragment `file` on top; repeatable")
	fs.Var(&b.patches, "patch", "a `file` to apply to every commit with patch -p1, fuzz refused; repeatable")
}

func (b *buildFlags) config(io IO, m *runner.Machine) kbuild.Config {
	c := b.c
	c.Cache, c.Env, c.Progress = m.Cache, io.Env, io.Err
	c.Fragments, c.Patches = b.fragments, b.patches
	c.CC, c.LLVM, c.CrossCompile = io.getenv("CC"), io.getenv("LLVM"), io.getenv("CROSS_COMPILE")
	c.Fetch = m.Fetcher().FetchSource
	return c
}

func (b *buildFlags) machine(io IO) (*runner.Machine, error) {
	return newMachine(&b.vm, newProgress(io.Err).say)
}

// buildError gives a failed build its exit status: a request that cannot be
// met is wrong usage, a compiler's error a failure, the rest infrastructure.
func buildError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kbuild.ErrRequest):
		return front.Usage(err)
	case errors.Is(err, kbuild.ErrBuild):
		return front.Fail(err)
	}
	return err
}

var buildCommand = command{
	name: "build", short: "build a kernel for the suites, cached",
	long: `Builds a kernel out of tree, from the profile's kconfig fragments, those given by
-fragment, and the source with the patches, and prints the directory with
vmlinux, bzImage, config, System.map, modules, the key pair and a manifest. An
option that does not survive make olddefconfig is an error. The same request
again is answered from the cache. CC, LLVM and CROSS_COMPILE are honoured.

Exit status: 0 built; 1 the compiler failed; 2 the request cannot be met;
3 a tool, a header or disk space is missing.`,
	flags: func(fs *flag.FlagSet) action {
		var b buildFlags
		b.vm.Register(fs, "cache")
		b.register(fs)
		fs.StringVar(&b.c.OutDir, "o", "", "copy the result to this `directory`")
		return func(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
			m, err := b.start(io, fs)
			if err != nil {
				return err
			}
			a, err := kbuild.Build(ctx, b.config(io, m))
			if err != nil {
				return buildError(err)
			}
			if a.Cached {
				fmt.Fprintln(io.Err, "kvmrun: from the cache")
			}
			dir := a.Dir
			if b.c.OutDir != "" {
				dir = front.Absolute(b.c.OutDir)
			}
			fmt.Fprintln(io.Out, dir)
			return nil
		}
	},
}

// start checks the request and opens the cache.
func (b *buildFlags) start(io IO, fs *flag.FlagSet) (*runner.Machine, error) {
	if fs.NArg() > 0 {
		return nil, front.Usagef("unexpected argument %q", fs.Arg(0))
	}
	if b.c.Source == "" {
		return nil, front.Usagef("no source: give -src DIR, or -src debian:6.12 for the distribution's")
	}
	return b.machine(io)
}

var configCommand = command{
	name: "config", args: "[A B]",
	short: "print the configuration a build would have, or compare two",
	long: `Prints the .config that kvmrun kernel build would compile, without compiling.
With -diff it compares two configurations, each a .config file or a kernel that
has its own, and prints the options that differ; exit status 1 if any do.`,
	flags: func(fs *flag.FlagSet) action {
		var b buildFlags
		b.vm.Register(fs, "cache")
		b.register(fs)
		diff := fs.Bool("diff", false, "compare the two configurations A and B instead")
		return func(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
			if *diff {
				return diffConfigs(ctx, io, &b, fs.Args())
			}
			m, err := b.start(io, fs)
			if err != nil {
				return err
			}
			c, err := kbuild.Configure(ctx, b.config(io, m))
			if err != nil {
				return buildError(err)
			}
			_, err = io.Out.Write(c.Text)
			return err
		}
	},
}

func diffConfigs(ctx context.Context, io IO, b *buildFlags, args []string) error {
	if len(args) != 2 {
		return front.Usagef("kernel config -diff: want two configurations, not %d", len(args))
	}
	m, err := b.machine(io)
	if err != nil {
		return err
	}
	var configs [2]kconfig.Config
	for i, a := range args {
		text, err := os.ReadFile(a)
		if st, serr := os.Stat(a); serr == nil && (st.IsDir() || st.Size() > 4<<20) {
			text = nil // a kernel, not a .config of some 100 KiB
		}
		if text == nil || err != nil || !strings.Contains(string(text), "CONFIG_") {
			path, rerr := resolver(m).Kernel(ctx, a)
			if rerr != nil {
				return rerr
			}
			k, kerr := m.OpenKernel(ctx, path, "", "")
			if kerr != nil {
				return front.Usage(kerr)
			}
			if text = k.ConfigText; text == nil {
				return front.Usagef("the configuration of %s is not known", a)
			}
		}
		if configs[i], err = kconfig.ParseConfig(a, text); err != nil {
			return front.Usage(err)
		}
	}
	changes := kconfig.Diff(configs[0], configs[1])
	for _, c := range changes {
		fmt.Fprintln(io.Out, c)
	}
	if len(changes) > 0 {
		return &front.Error{Code: result.ExitFail}
	}
	return nil
}

var listCommand = command{
	name: "list", short: "kernels, sources, build trees and templates in the cache",
	long: `Lists what kernels take space for in the cache, the most recently used first. A
template is a VM of a kernel that was booted and frozen, to be forked by the next
run: one of a kernel and the size of a VM, for any program, or one of a suite for
-isolate test. At most eight are kept, of 2 GiB together. Each build leaves at most 8 GiB of
kernels and 12 build trees: the least recently used go, but nothing that is in
use or was within the hour, and never the last two kernels.`,
	flags: func(fs *flag.FlagSet) action {
		var b buildFlags
		b.vm.Register(fs, "cache")
		return func(_ context.Context, io IO, fs *flag.FlagSet, _ []string) error {
			if err := front.CheckDone(fs, "kernel list", ""); err != nil {
				return err
			}
			m, err := b.machine(io)
			if err != nil {
				return err
			}
			items, err := kbuild.List(m.Cache)
			if err != nil {
				return err
			}
			printItems(io, items)
			return nil
		}
	},
}

func printItems(io IO, items []kbuild.Item) {
	var sum int64
	for _, i := range items {
		sum += i.Bytes
		fmt.Fprintf(io.Out, "%8s  %-8s %s  %s\n          %s\n", size(i.Bytes), i.Kind, i.LastUse.Format(time.DateTime), i.Text, i.Path)
	}
	fmt.Fprintf(io.Out, "%8s  in %d items\n", size(sum), len(items))
}

func size(n int64) string { return strconv.FormatInt(n>>20, 10) + " MiB" }

var pruneCommand = command{
	name: "prune", short: "bound the space that kernels take in the cache",
	long: `Removes the least recently used kernels, sources, build trees and templates until
what is left takes at most -max, and what has not been used for -keep. All of it
can be made again.`,
	flags: func(fs *flag.FlagSet) action {
		var b buildFlags
		b.vm.Register(fs, "cache")
		limit := fs.Int64("max", 20<<10, "keep at most this many `MiB`")
		var keep time.Duration
		front.SpanVar(fs, &keep, "keep", "never remove what was used within this `time`, e.g. 24h")
		return func(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
			if err := front.CheckDone(fs, "kernel prune", ""); err != nil {
				return err
			}
			if *limit < 0 {
				return front.Usagef("kernel prune: -max must not be negative")
			}
			m, err := b.machine(io)
			if err != nil {
				return err
			}
			gone, err := kbuild.Prune(ctx, m.Cache, *limit<<20, keep)
			printItems(io, gone)
			return err
		}
	},
}

// suitesDir is where a checkout keeps its suites.
func suitesDir(src suiterun.Source) string { return filepath.Join(src.Dir, "suites") }
