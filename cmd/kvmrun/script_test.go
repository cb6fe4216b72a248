// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"gotest.tools/v3/golden"

	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/result"
)

// TestScripts runs testdata/script. A script whose name begins with vm- needs a
// kernel. With -update, files that a cmp compares with are rewritten.
func TestScripts(t *testing.T) {
	for _, s := range []struct {
		name, glob string
		needKernel bool
	}{{"host", "host-*.txtar", false}, {"vm", "vm-*.txtar", true}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if s.needKernel {
				kernel(t)
			}
			files, err := filepath.Glob(filepath.Join("testdata/script", s.glob))
			if err != nil || len(files) == 0 {
				t.Fatal("no scripts", err)
			}
			testscript.Run(t, testscript.Params{
				Files:               files,
				Setup:               func(e *testscript.Env) error { return setup(e, s.needKernel) },
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
				UpdateScripts:       golden.FlagUpdate(),
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"status":   statusCmd,
					"truncate": truncateCmd,
					"arm64":    arm64Cmd,
					"tap":      tapCmd,
					"verdict":  verdictCmd,
					"normal":   normalCmd,
				},
			})
		})
	}
}

func setup(e *testscript.Env, needKernel bool) error {
	e.Setenv("KVMRUN", shared.kvmrun)
	e.Setenv("KVMRUN_KERNEL", "")
	e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, ".cache"))
	e.Setenv("GITHUB_STEP_SUMMARY", "")
	// As root, kvmrun runs QEMU as nobody's user, and scripts have QEMUs of their own.
	for dir := e.WorkDir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	src, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	e.Setenv("SRC", src)
	if !needKernel {
		return nil
	}
	// Go's own caches: some scripts compile.
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			return fmt.Errorf("go env %s: %w", name, err)
		}
		e.Setenv(name, strings.TrimSpace(string(out)))
	}
	k := os.Getenv("KVMRUN_KERNEL")
	e.Setenv("KERNEL", k)
	release, err := kernelRelease()
	if err != nil {
		return err
	}
	e.Setenv("RELEASE", release)
	for name, tool := range map[string]string{"QEMU": "qemu-system-x86_64"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			return err
		}
		e.Setenv(name, path)
	}
	e.Setenv("KVMRUN_KERNEL", k)
	for name, f := range map[string]func() (string, error){"XDG_CACHE_HOME": cacheHome, "PROG": prog, "SAMPLE": sample} {
		v, err := f()
		if err != nil {
			return err
		}
		e.Setenv(name, v)
	}
	return nil
}

// statusCmd is exec for a certain exit status: status 3 kvmrun ...
func statusCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	have := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit := new(exec.ExitError)
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		have = code(exit.ProcessState)
	}
	if have != want {
		ts.Fatalf("exit status %d, want %d", have, want)
	}
}

// truncateCmd copies the first bytes of a file: truncate BYTES FROM TO.
func truncateCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: truncate BYTES FROM TO")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b[:min(n, len(b))], 0o644))
}

// arm64Cmd writes the header of an arm64 kernel
// (Documentation/arch/arm64/booting.rst): arm64 FILE.
func arm64Cmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: arm64 FILE")
	}
	b := make([]byte, 1<<20)
	copy(b, "MZ")
	copy(b[56:], "ARM\x64")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// tapCmd reads TAP back and prints, as stdout of the script, an outline of it
// into a file: tap FILE|stdout OUT.
func tapCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tap FILE OUT")
	}
	p := ktap.NewParser(ktap.Config{})
	if _, err := p.Write([]byte(ts.ReadFile(args[0]))); err != nil {
		ts.Fatalf("%v", err)
	}
	doc := p.Finish()
	var b strings.Builder
	fmt.Fprintln(&b, doc.Version)
	outline(&b, doc, "")
	for _, p := range doc.AllProblems() {
		fmt.Fprintln(&b, "problem:", p)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(b.String()), 0o644))
}

func outline(b *strings.Builder, d *ktap.Doc, indent string) {
	fmt.Fprintf(b, "%splan %d\n", indent, d.Planned)
	for _, t := range d.Tests {
		fmt.Fprintf(b, "%s%s %s\n", indent, t.Status(), t.Label())
		if t.Sub != nil {
			outline(b, t.Sub, indent+"  ")
		}
	}
}

// verdictCmd prints what matters of a result file: verdict FILE OUT.
func verdictCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: verdict FILE OUT")
	}
	var run result.Run
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &run))
	var b strings.Builder
	for _, j := range run.Jobs {
		fmt.Fprintf(&b, "%s: %s: %s\n", j.Suite, j.Verdict, j.Reason)
		for _, c := range j.Cases {
			fmt.Fprintf(&b, "  %s %s\n", c.Status, c.Name)
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(b.String()), 0o644))
}

// normalCmd rewrites a file with the script's directories and the kernel
// replaced by their variables' names: normal FILE.
func normalCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: normal FILE OUT")
	}
	s := ts.ReadFile(args[0])
	for _, name := range []string{"WORK", "KERNEL", "SRC", "RELEASE"} {
		if v := ts.Getenv(name); v != "" {
			s = strings.ReplaceAll(s, v, "$"+name)
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(s), 0o644))
}
