// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/bisect"
)

// realSource is a kernel's source tree for tests that build kernels, which takes
// an hour or so when nothing of it is in the cache.
func realSource(t *testing.T) string {
	t.Helper()
	src := os.Getenv("KVMRUN_KERNEL_SRC")
	if src == "" {
		t.Skip("KVMRUN_KERNEL_SRC is not set: name the directory of a kernel's source, as .ci/kernels all does")
	}
	return src
}

// importer writes a repository for git fast-import(1).
type importer struct {
	w     *bufio.Writer
	src   string
	files map[string]string // changed ones, as they are now on the branch
	mark  int
}

func (i *importer) file(mode, name string, text []byte) {
	fmt.Fprintf(i.w, "M %s inline %s\ndata %d\n", mode, name, len(text))
	_, _ = i.w.Write(text) // Flush says
	fmt.Fprintln(i.w)
}

// commit adds one to a branch; from and merge are marks, 0 for none.
func (i *importer) commit(branch, subject string, from, merge int, changes map[string]string) int {
	i.mark++
	who := fmt.Sprintf("A. U. Thor <author@example.org> %d +0000", 1700000000+i.mark)
	fmt.Fprintf(i.w, "commit refs/heads/%s\nmark :%d\nauthor %s\ncommitter %s\ndata %d\n%s\n", branch, i.mark, who, who, len(subject), subject)
	if from > 0 {
		fmt.Fprintf(i.w, "from :%d\n", from)
	}
	if merge > 0 {
		fmt.Fprintf(i.w, "merge :%d\n", merge)
	}
	for name, text := range changes {
		i.files[name] = text
		i.file("100644", name, []byte(text))
	}
	return i.mark
}

// text is a file's text as the branch has it.
func (i *importer) text(t *testing.T, name string) string {
	t.Helper()
	if s, ok := i.files[name]; ok {
		return s
	}
	text, err := os.ReadFile(filepath.Join(i.src, name))
	assert.NilError(t, err)
	return string(text)
}

// all is the first commit: the source as it is.
func (i *importer) all(t *testing.T) int {
	t.Helper()
	mark := i.commit("main", "linux", 0, 0, nil)
	assert.NilError(t, filepath.WalkDir(i.src, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, mode := strings.TrimPrefix(p, i.src+"/"), "100644"
		fi, err := d.Info()
		if err != nil {
			return err
		}
		var text []byte
		if fi.Mode()&fs.ModeSymlink != 0 {
			mode = "120000"
			var to string
			to, err = os.Readlink(p)
			text = []byte(to)
		} else {
			if fi.Mode()&0o111 != 0 {
				mode = "100755"
			}
			text, err = os.ReadFile(p)
		}
		if err == nil {
			i.file(mode, name, text)
		}
		return err
	}))
	return mark
}

const (
	harmless = "\nint kvmrun_change_%[1]d(void);\nint kvmrun_change_%[1]d(void)\n{\n\treturn %[1]d;\n}\n"
	comment  = "\n/* A comment, and nothing else. */\n"
	noBuild  = "\nint kvmrun_broken(void) { return }\n"
	noBoot   = "\n#include <linux/init.h>\n#include <linux/panic.h>\nstatic int __init kvmrun_no_boot(void)\n{\n\tpanic(\"kvmrun: does not boot\");\n}\nearly_initcall(kvmrun_no_boot);\n"
	splat    = "\n#include <linux/init.h>\n#include <linux/bug.h>\nstatic noinline int __init %[1]s(void)\n{\n\tWARN_ON(1);\n\treturn 0;\n}\nlate_initcall(%[1]s);\n"
)

// realRepo makes a repository with some two dozen commits, of which one brings a
// bug of the landlock suite's mutants in, and others break the build or the boot,
// or have another bug. It is the same every time, and in the same place, so that
// what was built of it helps.
func realRepo(t *testing.T, src, dir string) {
	t.Helper()
	assert.NilError(t, os.RemoveAll(dir))
	git(t, dir, "init", "-q", "--bare", dir)
	cmd := exec.Command("git", "-c", "core.compression=0", "-c", "pack.compression=0", "fast-import", "--quiet")
	cmd.Env = append(os.Environ(), "GIT_DIR="+dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	i := &importer{w: bufio.NewWriterSize(in, 1<<20), src: src, files: map[string]string{}}
	base := i.all(t)
	change := func(subject, name, add string) int {
		return i.commit("main", subject, 0, 0, map[string]string{name: i.text(t, name) + add})
	}
	restore := func(subject, name, text string) { i.commit("main", subject, 0, 0, map[string]string{name: text}) }
	nth := 0
	fine := func() int {
		nth++
		return change(fmt.Sprint("lib: change ", nth), "lib/ctype.c", fmt.Sprintf(harmless, nth))
	}
	const split, cmdline, side = "lib/argv_split.c", "lib/cmdline.c", "lib/kasprintf.c"
	one := fine()
	i.commit("main", "Documentation: say something", 0, 0, map[string]string{"Documentation/kvmrun.rst": "Something.\n"})
	fine()
	was := i.text(t, split)
	change("lib: break the build", split, noBuild)
	fine()
	restore("lib: mend the build", split, was)
	text := i.text(t, side)
	i.commit("side", "lib: side 1", one, 0, map[string]string{side: text + fmt.Sprintf(harmless, 101)})
	second := i.commit("side", "lib: side 2", 0, 0, map[string]string{side: text + fmt.Sprintf(harmless, 102)})
	i.commit("main", "Merge branch 'side'", 0, second, map[string]string{side: i.text(t, side)})
	change("lib: comment", "lib/ctype.c", comment)
	was = i.text(t, cmdline)
	change("lib: another bug", cmdline, fmt.Sprintf(splat, "kvmrun_other_bug"))
	fine()
	restore("lib: no other bug", cmdline, was)
	change("lib: break the boot", cmdline, noBoot)
	fine()
	restore("lib: mend the boot", cmdline, was)
	fine()
	for n := range 4 {
		change(fmt.Sprintf("lib: comment %d before", n+1), "lib/ctype.c", comment)
	}
	i.commit("main", culpritSubject, 0, 0, mutated(t, src, "L4-family-mismatch-denied.patch", "security/landlock/net.c"))
	change("landlock: comment", "security/landlock/net.c", comment)
	fine()
	was = i.text(t, split)
	change("lib: break the build again", split, noBuild)
	fine()
	restore("lib: mend the build again", split, was)
	fine()
	fine()
	fmt.Fprintf(i.w, "reset refs/tags/good\nfrom :%d\n\nreset refs/tags/bad\nfrom :%d\n\n", base, i.mark)
	assert.NilError(t, i.w.Flush())
	assert.NilError(t, in.Close())
	assert.NilError(t, cmd.Wait(), "%s", said.Bytes())
}

const culpritSubject = "landlock: simplify the check of addresses"

// mutated is a file with a mutant of the landlock suite.
func mutated(t *testing.T, src, patch, name string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(src, name))
	assert.NilError(t, err)
	file := filepath.Join(t.TempDir(), "file")
	assert.NilError(t, os.WriteFile(file, text, 0o644))
	out, err := exec.Command("patch", "-s", file, filepath.Join("../../suites/landlock/mutants", patch)).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	text, err = os.ReadFile(file)
	assert.NilError(t, err)
	return map[string]string{name: string(text)}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "GIT_DIR="+dir)
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "git %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

// realBisect runs kvmrun with the user's own cache: what it builds is wanted again.
func realBisect(t *testing.T, dir string, args ...string) bisect.Report {
	t.Helper()
	cmd := exec.Command(shared.kvmrun, append([]string{"bisect", "-o", dir, "-module", "../.."}, args...)...)
	cmd.Stderr = os.Stderr // it takes long: show what it does
	out, err := cmd.Output()
	t.Logf("%s", out)
	assert.NilError(t, err)
	var r bisect.Report
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	assert.NilError(t, err)
	assert.NilError(t, json.Unmarshal(text, &r))
	return r
}

// TestBisectRealCommits bisects kernels built from source.
func TestBisectRealCommits(t *testing.T) {
	src := realSource(t)
	cache, err := os.UserCacheDir()
	assert.NilError(t, err)
	repo := filepath.Join(cache, "kvmrun", "bisect", "test.git")
	assert.NilError(t, os.MkdirAll(filepath.Dir(repo), 0o755))
	defer os.RemoveAll(repo)
	realRepo(t, src, repo)
	dir := filepath.Join(t.TempDir(), "commits")
	// One VM at a time, on whatever machine: the path taken is the same then.
	question := []string{"-j", "1", "-src", repo, "-good", "good", "-bad", "bad", "-profile", "lean", "-suite", "landlock", "-run", "^TestAddressFamilyMismatch$"}
	r := realBisect(t, dir, question...)
	assert.Equal(t, r.Result.Kind, bisect.Culprit)
	assert.Equal(t, r.Result.Found[0].Subject, culpritSubject)
	assert.Assert(t, r.Result.Confirmed)
	last := r.Observations[len(r.Observations)-1]
	assert.Equal(t, last.Phase, bisect.Revert)
	assert.Equal(t, last.Word, bisect.Good)
	assert.Equal(t, r.Result.Runs[bisect.Infra], 0)
	// What changes nothing that is compiled is built and not run.
	at, same := map[string]string{}, 0
	for _, o := range r.Observations {
		if o.Word == bisect.Same {
			same++
			assert.Assert(t, at[o.Kernel] != "" && at[o.Kernel] != o.Point)
		} else if o.Phase == bisect.Narrow && o.Kernel != "" {
			assert.Assert(t, at[o.Kernel] == "" || at[o.Kernel] == o.Point, "%s was run, whose kernel is that of %s", o.Point, at[o.Kernel])
			at[o.Kernel] = o.Point
		}
	}
	// All that the history has in store was met: the search is the same each time.
	skipped := slices.Collect(maps.Values(r.Result.Skipped))
	assert.Assert(t, slices.Contains(skipped, bisect.BootFailed) && slices.Contains(skipped, bisect.BuildFailed), "%v", skipped)
	assert.Assert(t, same > 0)
	// All of it again: nothing is built.
	r = realBisect(t, filepath.Join(t.TempDir(), "again"), question...)
	assert.Equal(t, r.Result.Found[0].Subject, culpritSubject)
	for _, o := range r.Observations {
		assert.Assert(t, o.Word == bisect.BuildFailed || o.Build == 0, "%s was built again", o.Point)
	}
	gitBisects(t, repo)
}

// gitBisects lets git's own driver ask the same, in a clone that is always in the
// same place, so that what was built of it helps.
func gitBisects(t *testing.T, repo string) {
	t.Helper()
	clone := strings.TrimSuffix(repo, ".git")
	assert.NilError(t, os.RemoveAll(clone))
	defer os.RemoveAll(clone)
	module, err := filepath.Abs("../..")
	assert.NilError(t, err)
	inClone := func(args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Dir = clone
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, os.Stderr), os.Stderr // it takes long: show what it does
		assert.NilError(t, cmd.Run(), "git %v", args)
		return out.String()
	}
	git(t, repo, "clone", "-q", "--shared", "--branch", "main", repo, clone)
	inClone("bisect", "start", "bad", "good")
	out := inClone("bisect", "run", shared.kvmrun, "bisect-step", "-src", ".", "-module", module, "-profile", "lean",
		"-suite", "landlock", "-run", "^TestAddressFamilyMismatch$")
	assert.Assert(t, strings.Contains(out, "is the first bad commit") && strings.Contains(out, culpritSubject), out)
	log := inClone("bisect", "log")
	assert.Assert(t, strings.Contains(log, "git bisect skip"), log) // on the way are a break of the build and one of the boot
}

// TestBisectRealConfigs finds the option that makes a kernel complain.
func TestBisectRealConfigs(t *testing.T) {
	src := realSource(t)
	dir := t.TempDir()
	good, err := exec.Command(shared.kvmrun, "kernel", "config", "-src", src, "-profile", "lean").Output()
	assert.NilError(t, err)
	bad := bytes.Clone(good)
	for _, o := range []string{"CONFIG_CRC4", "CONFIG_CRC7", "CONFIG_CRC8", "CONFIG_CRC_ITU_T"} {
		off := []byte("# " + o + " is not set\n")
		assert.Assert(t, bytes.Contains(bad, off), "%s is on, or not there", o)
		bad = bytes.Replace(bad, off, []byte(o+"=y\n"), 1)
	}
	name := filepath.Join(src, "lib/cmdline.c")
	text, err := os.ReadFile(name)
	assert.NilError(t, err)
	with := filepath.Join(dir, "b", "lib/cmdline.c")
	assert.NilError(t, os.MkdirAll(filepath.Dir(with), 0o755))
	assert.NilError(t, os.WriteFile(with, append(text, "\n#ifdef CONFIG_CRC7"+fmt.Sprintf(splat, "kvmrun_option")+"#endif\n"...), 0o644))
	patch, err := exec.Command("diff", "-u", "--label", "a/lib/cmdline.c", "--label", "b/lib/cmdline.c", name, with).Output()
	assert.ErrorContains(t, err, "exit status 1") // they differ
	for n, b := range map[string][]byte{"good.config": good, "bad.config": bad, "option.patch": patch} {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, n), b, 0o644))
	}
	r := realBisect(t, filepath.Join(dir, "configs"), "-configs", filepath.Join(dir, "good.config"), filepath.Join(dir, "bad.config"), "-src", src,
		"-patch", filepath.Join(dir, "option.patch"), "-suite", "landlock", "-run", "^TestAddressFamilyMismatch$", "-symptom", "WARNING in kvmrun_option", "-p", "1")
	assert.Equal(t, r.Result.Kind, bisect.Options)
	assert.Equal(t, len(r.Result.Found), 1)
	assert.Equal(t, r.Result.Found[0].ID, "CONFIG_CRC7")
}
