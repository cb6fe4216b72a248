// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/mutants"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/words"
)

var mutantsCommand = command{
	name:  "mutants",
	short: "bring known kernel bugs back and see which suite notices",
	long: `Builds the kernel once without and once with each patch of suites/*/mutants, runs
the suite that must catch it, and prints a table. Exit status: 0 every mutant
was killed by the test that must kill it and every control run was green; 1 not
so; 2 and 3 as for kvmrun kernel build.`,
	run: doMutants,
}

func doMutants(ctx context.Context, cio IO, fs *flag.FlagSet, args []string) error {
	var b buildFlags
	b.register(fs)
	var suites, ids list
	fs.Var(&suites, "suite", "only the mutants of this suite; several with commas")
	fs.Var(&ids, "mutant", "only this mutant; several with commas")
	ls := fs.Bool("list", false, "list the mutants instead")
	asJSON := fs.String("json", "", "write the table as JSON to this `file`")
	dir := fs.String("o", "", "keep logs in this `directory`; default: in the cache")
	module := fs.String("module", ".", "find suites in the Go module of this `directory`")
	accel := fs.String("accel", "auto", "what runs the guest: kvm, tcg or auto")
	fs.Lookup("profile").DefValue = "kasan"
	b.c.Profile = ""
	if err := parse(fs, args); err != nil {
		return err
	}
	table, err := openFiles(*asJSON)
	if err != nil {
		return err
	}
	src, err := runner.FindSource(absolute(*module))
	if err != nil {
		return &exitError{exitUsage, err}
	}
	all, err := mutants.Load(os.DirFS(suitesDir(src)))
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if all, err = mutants.Select(all, suites, ids); err != nil {
		return &exitError{exitUsage, err}
	}
	if *ls {
		for _, m := range all {
			fmt.Fprintf(cio.Out, "%-4s %-9s %s\n", m.ID, m.Suite, m.Title)
		}
		return nil
	}
	if b.c.Source == "" {
		return usagef("mutants: no source: give -src DIR, or -src debian:6.12 for the distribution's")
	}
	m, err := b.machine(cio)
	if err != nil {
		return err
	}
	v := vmFlags{cache: b.cache, accel: *accel}
	if m, err = v.machine(cio, m.Progress); err != nil {
		return err
	}
	if *dir == "" {
		if *dir, err = m.NewRunDir("mutants"); err != nil {
			return err
		}
	}
	t, err := mutants.Run(ctx, mutants.Config{
		Mutants:  all,
		Profile:  b.c.Profile,
		Progress: cio.Err,
		Build: func(ctx context.Context, profile string, patches []string) (*kbuild.Artifact, error) {
			c := b.config(cio, m)
			c.Profile = profile
			for _, p := range patches {
				c.Patches = append(c.Patches[:len(c.Patches):len(c.Patches)], filepath.Join(suitesDir(src), p))
			}
			return kbuild.Build(ctx, c)
		},
		Test: func(ctx context.Context, k *kbuild.Artifact, suite string) (result.Job, error) {
			return testMutant(ctx, m, src, *dir, k, suite, self()+" run"+v.again()+" -src "+words.Quote(src.Dir))
		},
	})
	if werr := mutants.WriteTable(cio.Out, t); err == nil {
		err = werr
	}
	if *asJSON != "" {
		w := table[0].Write
		if table[0].standard {
			w = func(write func(io.Writer) error) error { return write(cio.Out) }
		}
		if werr := w(func(w io.Writer) error { return json.NewEncoder(w).Encode(t) }); err == nil {
			err = werr
		}
	}
	fmt.Fprintf(cio.Out, "logs: %s\n", *dir)
	if err != nil {
		return err
	}
	if !t.OK() {
		return &exitError{code: exitFail}
	}
	return nil
}

// testMutant runs one suite on one built kernel; command is the beginning of one
// that does it again.
func testMutant(ctx context.Context, m *runner.Machine, src runner.Source, dir string, a *kbuild.Artifact, suite, command string) (result.Job, error) {
	var none result.Job
	k, err := m.OpenKernel(ctx, a.Vmlinux, a.ModulesDir, a.Config)
	if err != nil {
		return none, err
	}
	s, err := m.Suites(ctx, src, []string{suite})
	if err != nil {
		return none, err
	}
	sub, err := os.MkdirTemp(mustExist(dir), suite+"-")
	if err != nil {
		return none, err
	}
	run, err := m.RunMatrix(ctx, runner.Matrix{
		Kernels: []*runner.Kernel{k}, Suites: s, Dir: sub, Command: command,
	})
	if err != nil {
		return none, err
	}
	return run.Jobs[0], nil
}

// mustExist makes a directory; that it cannot be made shows at its first use.
func mustExist(dir string) string {
	_ = os.MkdirAll(dir, 0o755)
	return dir
}
