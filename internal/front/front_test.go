// SPDX-License-Identifier: Apache-2.0

package front_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/vmtest"
)

// TestWhatAVMTakes: the front knows no VMs, and what it says of them is true.
func TestWhatAVMTakes(t *testing.T) {
	vm := front.VM{Accel: "auto", CPUs: vmtest.MaxCPUs}
	assert.NilError(t, vm.Check())
	vm.CPUs++
	assert.ErrorContains(t, vm.Check(), fmt.Sprintf("a VM has %d at most", vmtest.MaxCPUs))
	for _, a := range front.Choices("accel") {
		assert.Check(t, is.Contains([]vmtest.Accel{vmtest.AccelAuto, vmtest.AccelKVM, vmtest.AccelTCG}, vmtest.Accel(a)))
	}
	assert.DeepEqual(t, front.Choices("vmcore"), []string{string(vmtest.DumpELF), string(vmtest.DumpKdump)})
	assert.Check(t, is.Nil(front.Choices("memory")))
}

// TestSameFlags: the words of flags that were given give the same values again,
// from any directory.
func TestSameFlags(t *testing.T) {
	type groups struct {
		vm      front.VM
		kernels front.Kernels
		policy  front.Policy
	}
	set := func(g *groups) *flag.FlagSet {
		fs := flag.NewFlagSet("x", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		g.vm.Register(fs)
		g.kernels.Register(fs, false)
		g.policy.Register(fs)
		return fs
	}
	var a groups
	fs := set(&a)
	args := []string{"-memory", "2G", "-cpus=3", "-qemu", "./q", "-cache", "it's a cache", "-j", "2", "-hang", "90s", "-keep-going", "-strict=false",
		"-allow", "a b", "-allow", "/c", "-fault", "failslab,nth=3", "-vmcore=kdump-zlib", "-modules", "m", "-accel", "tcg",
		"-append", "lsm=landlock,bpf  x", "-append", `y="a b"`}
	assert.NilError(t, front.Parse(fs, args, "x", ""))
	text := ""
	fs.Visit(func(f *flag.Flag) { text += front.Same(f, "=") })
	wd, err := os.Getwd()
	assert.NilError(t, err)
	assert.Equal(t, text, " -accel=tcg -allow='"+wd+"/a b' -allow=/c -append='lsm=landlock,bpf x y=\"a b\"' -cache='"+wd+`/it'\''s a cache' -cpus=3 -fault=failslab,nth=3 -hang=1m30s -j=2`+
		" -keep-going=true -memory=2048 -modules="+wd+"/m -qemu="+wd+"/q -strict=false -vmcore=kdump-zlib")
	assert.Equal(t, a.vm.Same(), " -accel tcg -memory 2048 -cpus 3 -append 'lsm=landlock,bpf x y=\"a b\"' -qemu "+wd+"/q -cache '"+wd+`/it'\''s a cache'`)
	assert.Equal(t, a.kernels.Same(), " -modules "+wd+"/m")
}

// TestAppend: parameters are divided as the kernel does it, and what kvmrun needs is
// refused in every spelling.
func TestAppend(t *testing.T) {
	var p front.Params
	for _, s := range []string{"", "  a=1\tb ", `"c=x y" d="e f"g`, "--x panic_on_warn=1 tsc-x"} {
		assert.NilError(t, p.Set(s))
	}
	assert.DeepEqual(t, p, front.Params{"a=1", "b", `"c=x y"`, `d="e f"g`, "--x", "panic_on_warn=1", "tsc-x"})
	for in, want := range map[string]string{
		"x init=/bin/sh":            "init=/bin/sh: kvmrun's agent is /init",
		`"init=/bin/sh x"`:          "kvmrun's agent is /init",
		`in"it"=/x`:                 "kvmrun's agent is /init",
		"console=":                  "first serial port",
		"ignore-loglevel=0":         "first serial port",
		"console_msg_format=syslog": "first serial port",
		"sysctl.kernel.panic=0":     "must end its VM",
		"printk.time=0":             "only what has printk's time in front",
		"printk.devkmsg=off":        "the marks around each test",
		"log-buf-len=4K":            "what is logged",
		"a -- b":                    "what follows it would go to /init",
		"tsc=unstable":              "the guest's clock",
		`a="b`:                      "a double quote has no end",
		"a\nb":                      `'\n' is no printable ASCII character`,
		"é":                         "is no printable ASCII character",
		strings.Repeat("x", 990):    "bytes of kernel parameters: there is room for 1024 beside",
	} {
		before := p.String()
		assert.Check(t, is.ErrorContains(p.Set(in), want), in)
		assert.Equal(t, p.String(), before)
	}
	assert.NilError(t, p.Contradict("s", []string{"a=1", "z"}))
	assert.Error(t, p.Contradict("s", []string{"panic-on-warn=0"}), "-append panic_on_warn=1: suite s needs panic-on-warn=0")
}

// TestKernelNames resolves what only one of the front ends can be asked for, and
// what no test can fetch.
func TestKernelNames(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, f := range []string{filepath.Join(first, "both"), filepath.Join(second, "both"), filepath.Join(second, "one")} {
		assert.NilError(t, os.WriteFile(f, nil, 0o600))
	}
	offline := errors.New("offline")
	r := front.Resolver{
		Dirs: []string{first, second}, Why: "two",
		IsRef:    func(n string) bool { return len(n) > 3 && n[:4] == "dis:" },
		CheckRef: func(n string) error { return map[string]error{"dis:bad": errors.New("bad version")}[n] },
		Fetch: func(_ context.Context, ref string) (string, error) {
			return "/cache/" + ref, map[string]error{"dis:gone": offline}[ref]
		},
	}
	for name, want := range map[string]string{
		"both": filepath.Join(first, "both"), "one": filepath.Join(second, "one"), filepath.Join(second, "both"): filepath.Join(second, "both"), "dis:6": "/cache/dis:6",
	} {
		got, err := r.Kernel(t.Context(), name)
		assert.NilError(t, err)
		assert.Equal(t, got, want)
	}
	for name, want := range map[string]string{
		"none":    "kernel none: no such file or directory; tried " + first + "/none, " + second + "/none: two;\nname a bzImage",
		"dis:bad": "bad version",
		"x:1":     `"x" is no distribution`,
	} {
		_, err := r.Kernel(t.Context(), name)
		assert.ErrorContains(t, err, want)
		assert.Check(t, front.IsUsage(err), name)
	}
	_, err := r.Kernel(t.Context(), "dis:gone")
	assert.Check(t, errors.Is(err, offline) && !front.IsUsage(err), "a fetch's error is not the user's")
	assert.Equal(t, r.File("one"), filepath.Join(second, "one"))
	assert.Equal(t, r.File("none"), "none")
	assert.Equal(t, r.File(""), "")
	_, err = front.Resolver{}.Kernel(t.Context(), "debian:6.12")
	assert.Check(t, front.IsUsage(err), "%v", err)
}

// TestStatus holds the table of exit statuses.
func TestStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
		say  string
	}{
		{nil, result.ExitPass, ""},
		{fmt.Errorf("wrapped: %w", flag.ErrHelp), result.ExitPass, ""},
		{front.Usagef("bad \x1b[31m"), result.ExitUsage, "kvmrun: bad \\x1b[31m\n"},
		{front.Fail(errors.New("no")), result.ExitFail, "kvmrun: no\n"},
		{&front.Error{Code: 77}, 77, ""},
		{errors.New("oh"), result.ExitInfra, "kvmrun: oh\n"},
		{front.Usagef("write: %w", syscall.ENOSPC), result.ExitInfra, "kvmrun: write: no space left on device\n"},
		{front.Usage(context.Canceled), result.ExitInfra, "kvmrun: context canceled\n"},
	} {
		var b bytes.Buffer
		assert.Check(t, is.Equal(front.Status(&b, c.err), c.want), "%v", c.err)
		assert.Check(t, is.Equal(b.String(), c.say))
	}
}
