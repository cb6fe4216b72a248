// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// fronts are the two front ends with the same flags: kvmrun run, and the test
// binary that go test makes of a suite.
func fronts(t *testing.T) map[string]func(args ...string) *exec.Cmd {
	t.Helper()
	binary := must(t, sample)
	return map[string]func(args ...string) *exec.Cmd{
		"kvmrun run": func(args ...string) *exec.Cmd {
			return exec.Command(shared.kvmrun, append([]string{"run", "-suite", binary}, args...)...)
		},
		"go test": func(args ...string) *exec.Cmd { return exec.Command(binary, args...) },
	}
}

// TestFrontEndsAgree: both front ends know the same flags of VMs, policies and
// kernels, describe them in the same words, take the same values and the same
// names of kernels, and refuse others with the same message and status.
func TestFrontEndsAgree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, f := range []string{"empty", "boot/vmlinuz-1", "build/bzImage", "tree/arch/x86/boot/bzImage", "nothing/x"} {
		assert.NilError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o600))
	}
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "old.allow"), []byte("title: x\n"), 0o600))
	both := fronts(t)

	texts := map[string]map[string]string{}
	for name, command := range both {
		cmd := command("-h")
		cmd.Dir = dir
		out := finish(t, cmd)
		assert.Equal(t, out.code, 0)
		texts[name] = map[string]string{}
		for _, m := range regexp.MustCompile(`(?m)^  -(\S+)(?: \S+)?\n((?:    \t.*\n)+)`).FindAllStringSubmatch(out.stdout+out.stderr, -1) {
			texts[name][m[1]] = m[2]
		}
	}
	// These choose tests, or where results go, and are each front end's own.
	for _, own := range []string{"suite", "run", "skip", "short", "count", "timeout", "tap", "json", "junit", "o", "src"} {
		assert.Check(t, texts["kvmrun run"][own] != "", own)
		delete(texts["kvmrun run"], own)
	}
	for _, own := range []string{"logs", "word", "main-exit"} {
		assert.Check(t, texts["go test"][own] != "", own)
		delete(texts["go test"], own)
	}
	for f := range texts["go test"] {
		if strings.HasPrefix(f, "test.") {
			delete(texts["go test"], f)
		}
	}
	tried := map[string]bool{}
	for _, c := range []struct {
		args, want string
	}{
		{"-accel xen", "-accel xen: want kvm, tcg or auto"},
		{"-memory 2K", `invalid value "2K" for flag -memory: want a number of MiB, or a size as 512M or 2G`},
		{"-memory -5", "must not be negative"},
		{"-memory 900000000", "-memory 900000000: this host has "},
		{"-cpus 300", "-cpus 300: a VM has 255 at most"},
		{"-cpus many", "want a whole number"},
		{"-append console=tty0 -kernel empty", "for flag -append: console=tty0: kvmrun reads the kernel's log from the first serial port"},
		{"-append panic=0", "panic=0: a kernel that panics must end its VM at once"},
		{"-append rdinit=/bin/sh", "rdinit=/bin/sh: kvmrun's agent is /init"},
		{"-append x=\"", "a double quote has no end"},
		{"-qemu", "flag needs an argument: -qemu"},
		{"-cache", "flag needs an argument: -cache"},
		{"-j -1", "must not be negative"},
		{"-j", "flag needs an argument: -j"},
		{"-hang 5", "give a unit, as 5s or 5m"},
		{"-hang -2m", "must not be negative"},
		{"-isolate everything", "-isolate: isolation \"everything\" is not known: use none, suite or test"},
		{"-boot hot", "-boot hot: want auto, cold or warm"},
		{"-keep-going=maybe", "invalid boolean value \"maybe\" for -keep-going"},
		{"-panic-on-warn=7", "invalid boolean value"},
		{"-strict=no", "invalid boolean value"},
		{"-allow-nothing=no", "invalid boolean value"},
		{"-allow none -kernel empty", "-allow: open none: no such file or directory"},
		{"-allow old.allow -kernel empty", "-allow: "},
		{"-vmcore=tar", "want elf or kdump-zlib"},
		{"-fault failslap", `unknown kind "failslap"; did you mean failslab`},
		{"-fault @none.plan", "read a plan of faults: open none.plan: no such file"},
		{"-kernl x", "flag provided but not defined: -kernl; nearest: kernel"},
		{"-kernel empty -kernel nothing", ""}, // many for run, one for go test
		{"-kernel=", "kernel: the name is empty; name a bzImage"},
		{"-kernel none", "/none: no such file or directory; name a bzImage or vmlinux file, the directory of a build, or debian:6.12"},
		{"--kernel=none", "/none: no such file or directory"},
		{"-kernel /none", "kernel /none: no such file or directory"},
		{"-kernel empty", "/empty: "},
		{"-kernel build", "/build/bzImage: "},
		{"-kernel tree", "/tree/arch/x86/boot/bzImage: "},
		{"-kernel boot", "kernel boot: is a directory, and not that of a build"},
		{"-kernel nothing", "is a directory"},
		{"-kernel fedora:40", `"fedora" is no distribution whose kernels can be fetched`},
		{"-kernel debian:", "debian:: names no version"},
		{"-kernel ubuntu:x/y", "ubuntu:x/y"},
		{"-kernel https://example.com/bzImage", "download it yourself"},
		{"-modules m -kconfig c -kernel none", "/none: no such file"},
		// What is right is no reason to refuse: the kernel is, which comes last.
		{"-accel tcg -memory 300 -cpus 2 -append slub_debug=FZPU -append a.b=1 -qemu q -cache c -j 1 -hang 9m -isolate suite -keep-going -panic-on-warn " +
			"-strict -allow-nothing -vmcore=kdump-zlib -fault failslab,nth=3 -kernel none", "/none: no such file"},
		{"--memory=2G -boot cold --isolate=test -vmcore -keep-going=false -kernel none", "/none: no such file"},
	} {
		for _, m := range regexp.MustCompile(`(?:^| )--?([a-z][a-z-]*)`).FindAllStringSubmatch(c.args, -1) {
			tried[m[1]] = true
		}
		if c.want == "" {
			continue
		}
		t.Run(c.args, func(t *testing.T) {
			said := map[string]string{}
			for name, command := range both {
				cmd := command(strings.Fields(c.args)...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "KVMRUN_KERNEL=")
				text, _, _ := strings.Cut(refused(t, cmd, c.want).stderr, "\nusage: ")
				said[name] = strings.TrimSpace(strings.Replace(text, "kvmrun: run: ", "kvmrun: ", 1))
			}
			assert.Check(t, is.Equal(said["go test"], said["kvmrun run"]))
		})
	}
	for f, text := range texts["kvmrun run"] {
		assert.Check(t, tried[f], "-%s: no row of the table tries it", f)
		switch f {
		case "kernel":
			text = strings.Replace(text, "; may be given several times", "", 1)
		case "fault":
			assert.Check(t, is.Contains(texts["go test"][f], "inject the fault SPEC, or those in @FILE"))
			text = texts["go test"][f] // one has the grammar above
		}
		assert.Check(t, is.Equal(texts["go test"][f], text), "-%s", f)
	}
	for f := range texts["go test"] {
		assert.Check(t, texts["kvmrun run"][f] != "", "-%s is not known to kvmrun run", f)
	}
}

// TestFrontEndsMakeTheSameMachine runs a test by both front ends with what go test
// did not have: the machine is the one that was asked for, and the policy applied.
func TestFrontEndsMakeTheSameMachine(t *testing.T) {
	t.Parallel()
	k := kernel(t)
	names := []string{k}
	// The kernel to test with is in the user's cache when it was fetched.
	if v := regexp.MustCompile(`deb-kernel/.*/vmlinuz-(\d+\.\d+)`).FindStringSubmatch(k); v != nil {
		user, err := userCache()
		assert.NilError(t, err)
		names = append(names, "debian:"+v[1]+" -cache "+user.Root())
	}
	for name, command := range fronts(t) {
		run := "-test.run"
		logs := "-logs"
		if name == "kvmrun run" {
			run, logs = "-run", "-o"
		}
		do := func(t *testing.T, env string, args ...string) outcome {
			cmd := command(append(args, run, "^TestPass$")...)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+must(t, cacheHome), "GITHUB_STEP_SUMMARY=", env)
			return finish(t, cmd)
		}
		for _, k := range names {
			t.Run(name+" "+filepath.Base(k), func(t *testing.T) {
				t.Parallel()
				qemu, err := exec.LookPath("qemu-system-x86_64")
				assert.NilError(t, err)
				dir := filepath.Join(t.TempDir(), "logs")
				got := do(t, "", slices.Concat([]string{"-kernel"}, strings.Fields(k), []string{"-memory", "0.3G", logs, dir})...)
				assert.Equal(t, got.code, 2, "%s", got.stderr)
				got = do(t, "", slices.Concat([]string{"-kernel"}, strings.Fields(k), []string{"-memory", "301M", "-cpus", "2", "-qemu", qemu, logs, dir})...)
				assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
				var text []byte
				assert.NilError(t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
					if err == nil && filepath.Base(p) == "console.log" {
						text, err = os.ReadFile(p)
					}
					return err
				}))
				assert.Check(t, strings.Contains(string(text), "Booting Node 0 Processor 1"))
				// All but half a MiB, which the firmware has.
				memory := regexp.MustCompile(`Memory: \d+K/(\d+)K available`).FindSubmatch(text)
				assert.Assert(t, memory != nil)
				assert.Check(t, is.Regexp(`^307...$`, string(memory[1])))
			})
		}
		t.Run(name+" refuses", func(t *testing.T) {
			t.Parallel()
			got := do(t, "SAMPLE_KCONFIG=NO_SUCH_OPTION", "-kernel", k, "-strict")
			assert.Check(t, is.Equal(got.code, 1))
			assert.Check(t, is.Contains(got.stderr, "kvmrun: -strict: "+k+": suite sample needs CONFIG_NO_SUCH_OPTION\n"))
			got = do(t, "", "-kernel", k, "-memory", "30")
			assert.Check(t, is.Equal(got.code, 2))
			assert.Check(t, is.Contains(got.stderr, "kvmrun: -memory: suite sample: "))
			got = do(t, "", "-kernel", k, "-qemu", "qemu-system-none")
			assert.Check(t, is.Equal(got.code, 3))
			assert.Check(t, is.Contains(got.stdout+got.stderr, "qemu-system-none"))
		})
	}
}
