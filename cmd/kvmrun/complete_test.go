// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestCompletion asks kvmrun what the shells' scripts ask it: all but the last
// word are there, the last has been begun.
func TestCompletion(t *testing.T) {
	t.Parallel()
	const files, noFiles = ":0", ":4" // cobra's ShellCompDirective
	for _, c := range []struct {
		line string // with a bar for the end of the last word
		want []string
	}{
		{"exe|", []string{"exec\trun one program in a VM", noFiles}},
		{"kernel fe|", []string{"fetch\tfetch a distribution's kernel into the cache", noFiles}},
		{"help kernel |", []string{"fetch", "build", "config", "check", "info", "list", "prune", noFiles}},
		{"run -ac|", []string{"-accel\twhat runs the guest: kvm, tcg, or auto for kvm where it works", noFiles}},
		{"run --ac|", []string{"--accel\twhat runs the guest: kvm, tcg, or auto for kvm where it works", noFiles}},
		{"run -keep-going -ac|", []string{"-accel\twhat runs the guest: kvm, tcg, or auto for kvm where it works", noFiles}},
		{"run -kernel -x -ac|", []string{"-accel\twhat runs the guest: kvm, tcg, or auto for kvm where it works", noFiles}},
		{"run -accel |", []string{"auto", "kvm", "tcg", noFiles}},
		{"run -accel=|", []string{"auto", "kvm", "tcg", noFiles}},
		{"run -isolate=none -isolate |", []string{"none", "suite", "test", noFiles}},
		{"exec -vmcore=|", []string{"elf", "kdump-zlib", noFiles}},
		{"mutants -profile |", []string{"lean", "debug", "kasan", noFiles}},
		{"run -kernel |", []string{files}},
		{"run -nosuchflag=|", []string{files}},
		{"tap |", []string{files}},
		{"completion |", []string{"bash", "zsh", "fish", noFiles}},
		// The program's words are its own.
		{"exec -kernel x -- prog -|", []string{files}},
		{"exec -kernel x prog -|", []string{files}},
	} {
		args := strings.Split(strings.TrimSuffix(c.line, "|"), " ")
		got := finish(t, exec.Command(shared.kvmrun, append([]string{"__complete"}, args...)...))
		have := strings.Split(strings.TrimSpace(got.stdout), "\n")
		if strings.HasPrefix(c.line, "mutants") { // the profiles may become more
			for _, w := range c.want {
				assert.Check(t, is.Contains(have, w), c.line)
			}
			continue
		}
		assert.Check(t, is.DeepEqual(have, c.want), c.line)
	}
}

// TestShellsTakeTheCompletion has each shell that is here read its script, and bash
// complete by it.
func TestShellsTakeTheCompletion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	assert.NilError(t, os.Symlink(must(t, func() (string, error) { return filepath.Abs(shared.kvmrun) }), filepath.Join(dir, "kvmrun")))
	for _, shell := range []string{"bash", "zsh", "fish"} {
		got := finish(t, exec.Command(shared.kvmrun, "completion", shell))
		assert.Equal(t, got.code, 0, "%s", got.stderr)
		assert.Assert(t, is.Contains(got.stdout, "kvmrun"))
		script := filepath.Join(dir, shell)
		assert.NilError(t, os.WriteFile(script, []byte(got.stdout), 0o600))
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("%s is not here to read its script: install it (Debian: apt-get install %s)", shell, shell)
			continue
		}
		out, err := exec.Command(shell, "-n", script).CombinedOutput()
		assert.Check(t, err == nil && len(out) == 0, "%s: %s", shell, out)
	}
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash is not here to complete anything: install it")
	}
	// What the package bash-completion says of the line, which may not be here.
	const library = `_get_comp_words_by_ref() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
__kvmrun_init_completion() { COMPREPLY=(); _get_comp_words_by_ref; }
`
	for line, want := range map[string]string{"kvmrun run -ac": "-accel", "kvmrun run --panic": "--panic-on-warn", "kvmrun kernel pr": "prune", "kvmrun run -accel tc": "tcg"} {
		words := strings.Fields(line)
		cmd := exec.Command("bash", "-c", ". ./bash\n"+library+`COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
COMP_TYPE=9; __start_kvmrun; printf '%s\n' "${COMPREPLY[@]%% *}"`, "bash")
		cmd.Args = append(cmd.Args, words...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		got := finish(t, cmd)
		assert.Check(t, is.Equal(strings.TrimSpace(got.stdout), want), "%s: %s", line, got.stderr)
		for shell, script := range completes {
			if _, err := exec.LookPath(shell); err != nil {
				continue
			}
			cmd := exec.Command(shell, "-c", script, line)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "LINE="+line)
			got := finish(t, cmd)
			first, _, _ := strings.Cut(got.stdout, "\n")
			word, _, _ := strings.Cut(strings.ReplaceAll(first, ":", "\t"), "\t")
			assert.Check(t, is.Equal(word, want), "%s: %s: %s%s", shell, line, got.stdout, got.stderr)
		}
	}
}

// completes have a shell print what it offers for $LINE, the best first: fish by its
// own command, zsh by what of that which the script hands to its widget begins as the
// word does: the widget needs a terminal.
var completes = map[string]string{
	"fish": `source fish; complete -C "$LINE"`,
	"zsh": `compdef() { : }
_describe() { print -rl -- ${(M)completions:#${words[-1]}*} }
_files() { : }
. ./zsh; words=(${=LINE}); CURRENT=$#words; _kvmrun`,
}

// TestManPages: every command has one, with its help's text, and groff has nothing
// to complain about.
func TestManPages(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	got := finish(t, exec.Command(shared.kvmrun, "man", dir))
	assert.Equal(t, got.code, 0, "%s", got.stderr)
	assert.Equal(t, got.stdout+got.stderr, "")
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	assert.NilError(t, err)
	assert.Assert(t, len(pages) > 20)
	_, err = exec.LookPath("groff")
	if err != nil {
		t.Log("groff is not here to read the pages: install it (Debian: apt-get install groff-base)")
	}
	for _, p := range pages {
		text, err := os.ReadFile(p)
		assert.NilError(t, err)
		name := strings.TrimSuffix(filepath.Base(p), ".1")
		assert.Check(t, is.Contains(string(text), ".SH NAME\n"+name+` \- `))
		if _, err := exec.LookPath("groff"); err != nil {
			continue
		}
		out, err := exec.Command("groff", "-man", "-ww", "-z", "-Tutf8", p).CombinedOutput()
		assert.Check(t, err == nil && len(out) == 0, "%s: %s", p, out)
	}
	if _, err := exec.LookPath("groff"); err != nil {
		return
	}
	out, err := exec.Command("groff", "-man", "-Tascii", "-P-cbou", filepath.Join(dir, "kvmrun-exec.1")).Output()
	assert.NilError(t, err)
	help := finish(t, exec.Command(shared.kvmrun, "help", "exec")).stdout
	page := strings.Join(strings.Fields(string(out)), " ")
	description, _, _ := strings.Cut(help, "\nFlags:")
	_, description, _ = strings.Cut(description, "\n")
	assert.Check(t, is.Contains(page, strings.Join(strings.Fields(description), " ")))
	assert.Check(t, is.Contains(page, "-fault SPEC inject the fault SPEC, or those in @FILE"))
}
