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

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/mutants"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/words"
)

var mutantsCommand = command{
	name:  "mutants",
	short: "bring known kernel bugs back and see which suite notices",
	long: `Builds the kernel once without and once with each patch of suites/*/mutants, runs
the suite that must catch it, and prints a table. Exit status: 0 every mutant
was killed by the test that must kill it and every control run was green; 1 not
so; 2 and 3 as for kvmrun kernel build.`,
	flags: mutantsFlags,
}

// mutantsCmd is kvmrun mutants.
type mutantsCmd struct {
	build             buildFlags
	suites, ids       front.List
	list              bool
	json, dir, module string
}

func mutantsFlags(fs *flag.FlagSet) action {
	var c mutantsCmd
	c.build.vm.Register(fs)
	c.build.register(fs)
	fs.Var(&c.suites, "suite", "only the mutants of this suite; several with commas")
	fs.Var(&c.ids, "mutant", "only this mutant; several with commas")
	fs.BoolVar(&c.list, "list", false, "list the mutants instead")
	fs.StringVar(&c.json, "json", "", "write the table as JSON to this `file`")
	fs.StringVar(&c.dir, "o", "", "keep logs in this `directory`; default: in the cache")
	fs.StringVar(&c.module, "module", ".", "find suites in the Go module of this `directory`")
	fs.Lookup("profile").DefValue = "kasan"
	c.build.c.Profile = ""
	return c.run
}

func (c *mutantsCmd) run(ctx context.Context, cio IO, fs *flag.FlagSet, _ []string) error {
	if err := front.CheckDone(fs, "mutants", "mutants are chosen by -mutant, suites by -suite"); err != nil {
		return err
	}
	if err := check(&c.build.vm); err != nil {
		return err
	}
	table, err := openFiles(c.json)
	if err != nil {
		return err
	}
	src, err := suiterun.FindSource(front.Absolute(c.module))
	if err != nil {
		return front.Usage(err)
	}
	all, err := mutants.Load(os.DirFS(suitesDir(src)))
	if err != nil {
		return front.Usage(err)
	}
	if all, err = mutants.Select(all, c.suites, c.ids); err != nil {
		return front.Usage(err)
	}
	if c.list {
		for _, m := range all {
			fmt.Fprintf(cio.Out, "%-4s %-9s %s\n", m.ID, m.Suite, m.Title)
		}
		return nil
	}
	if c.build.c.Source == "" {
		return front.Usagef("mutants: no source: give -src DIR, or -src debian:6.12 for the distribution's")
	}
	m, err := c.build.machine(cio)
	if err != nil {
		return err
	}
	if c.dir == "" {
		if c.dir, err = m.NewRunDir("mutants"); err != nil {
			return err
		}
	}
	t, err := mutants.Run(ctx, mutants.Config{
		Mutants:  all,
		Profile:  c.build.c.Profile,
		Progress: cio.Err,
		Build: func(ctx context.Context, profile string, patches []string) (*kbuild.Artifact, error) {
			conf := c.build.config(cio, m)
			conf.Profile = profile
			for _, p := range patches {
				conf.Patches = append(conf.Patches[:len(conf.Patches):len(conf.Patches)], filepath.Join(suitesDir(src), p))
			}
			return kbuild.Build(ctx, conf)
		},
		Test: func(ctx context.Context, k *kbuild.Artifact, suite string) (result.Job, error) {
			return testMutant(ctx, m, src, c.dir, k, suite, self()+" run"+c.build.vm.Same()+" -src "+words.Quote(src.Dir))
		},
	})
	if werr := mutants.WriteTable(cio.Out, t); err == nil {
		err = werr
	}
	if c.json != "" {
		w := table[0].Write
		if table[0].standard {
			w = func(write func(io.Writer) error) error { return write(cio.Out) }
		}
		if werr := w(func(w io.Writer) error { return json.NewEncoder(w).Encode(t) }); err == nil {
			err = werr
		}
	}
	fmt.Fprintf(cio.Out, "logs: %s\n", c.dir)
	if err != nil {
		return err
	}
	if !t.OK() {
		return &front.Error{Code: result.ExitFail}
	}
	return nil
}

// testMutant runs one suite on one built kernel; command is the beginning of one
// that does it again.
func testMutant(ctx context.Context, m *runner.Machine, src suiterun.Source, dir string, a *kbuild.Artifact, suite, command string) (result.Job, error) {
	var none result.Job
	k, err := m.OpenKernel(ctx, a.Vmlinux, a.ModulesDir, a.Config)
	if err != nil {
		return none, err
	}
	s, err := suiterun.New(m).Suites(ctx, src, []string{suite})
	if err != nil {
		return none, err
	}
	sub, err := os.MkdirTemp(mustExist(dir), suite+"-")
	if err != nil {
		return none, err
	}
	run, err := suiterun.New(m).RunMatrix(ctx, suiterun.Matrix{
		Kernels: []*machine.Kernel{k}, Suites: s, Dir: sub, Command: command,
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
