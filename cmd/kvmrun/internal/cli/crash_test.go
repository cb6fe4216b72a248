// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/result"
)

const (
	crashBanner = "Linux version 6.99.0-test (me@here) (gcc) #1 SMP Mon Jan  1 00:00:00 UTC 2024"
	crashSource = `extern void call(int);
static inline __attribute__((always_inline)) void inlined(int x)
{
	call(x);
}
__attribute__((noinline)) void victim(int x)
{
	inlined(x);
	call(x + 1);
}
__attribute__((noinline)) void call(int x) { __asm__ volatile("" : : "r"(x) : "memory"); }
void _start(void) { victim(1); }
const char linux_banner[] = BANNER;
`
)

// smallKernel compiles something that passes for a vmlinux and returns its path,
// the return address of victim's first call, victim's size and the build-id.
func smallKernel(t *testing.T, release string) (vmlinux, sym, id string) {
	t.Helper()
	for _, n := range []string{"gcc", "ld", "nm", "readelf", "strip"} {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("%s is missing (Debian: apt-get install gcc binutils)", n)
		}
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		c := exec.Command(name, args...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		assert.NilError(t, err, "%s %q: %s", name, args, out)
		return string(out)
	}
	assert.NilError(t, os.MkdirAll(filepath.Join(dir, "init"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "init/main.c"), []byte(crashSource), 0o600))
	args := []string{"-c", "-g", "-O1", "-fno-optimize-sibling-calls", "-fno-toplevel-reorder", "-ffreestanding", "-fno-pic", "-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-o", "main.o", "init/main.c",
		fmt.Sprintf("-DBANNER=%q", strings.Replace(crashBanner, "6.99.0-test", release, 1)+"\n")}
	text := "0xffff800080000000"
	if runtime.GOARCH == "amd64" {
		args = append(args, "-mcmodel=kernel", "-mno-red-zone", "-fcf-protection=none")
		text = "0xffffffff81000000"
	}
	run("gcc", args...)
	run("ld", "-static", "--build-id=sha1", "-Ttext="+text, "-o", "vmlinux", "main.o")
	addrs := map[string]uint64{}
	for _, l := range strings.Split(run("nm", "vmlinux"), "\n") {
		if f := strings.Fields(l); len(f) == 3 {
			n, err := strconv.ParseUint(f[0], 16, 64)
			assert.NilError(t, err)
			addrs[f[2]] = n
		}
	}
	size := addrs["call"] - addrs["victim"]
	// The instruction behind the first call of victim.
	ret, after := uint64(0), false
	for _, l := range strings.Split(run("objdump", "-d", "vmlinux"), "\n") {
		at, _, ok := strings.Cut(strings.TrimSpace(l), ":\t")
		n, err := strconv.ParseUint(at, 16, 64)
		if !ok || err != nil || n < addrs["victim"] || ret != 0 {
			continue
		}
		if after {
			ret = n - addrs["victim"]
		}
		after = strings.Contains(l, "<call>")
	}
	m := regexp.MustCompile(`Build ID: ([0-9a-f]+)`).FindStringSubmatch(run("readelf", "-n", "vmlinux"))
	assert.Assert(t, m != nil && ret > 0 && ret < size)
	return filepath.Join(dir, "vmlinux"), fmt.Sprintf("victim+%#x/%#x", ret, size), m[1]
}

func crashLog(banner, sym, id string) string {
	return fmt.Sprintf(`[    0.000000] %s
[    1.000000] something else
[    2.000000] Kernel panic - not syncing: sysrq triggered crash
[    2.000001] CPU: 0 UID: 0 PID: 91 Comm: sh Not tainted 6.99.0-test #1 %s
[    2.000002] Call Trace:
[    2.000003]  <TASK>
[    2.000004]  panic+0x2d6/0x2f0
[    2.000005]  %s
[    2.000006]  </TASK>
[    2.000007] Kernel Offset: disabled
[    2.000008] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---
`, banner, id, sym)
}

// crash runs kvmrun crash with a log on standard input.
func crash(t *testing.T, log io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(w, log) // the reader may give up first
		_ = w.Close()
	}()
	var out, errs bytes.Buffer
	code = Run(context.Background(), append([]string{"crash"}, args...), IO{In: r, Out: &out, Err: &errs})
	assert.NilError(t, r.Close())
	<-copied
	return code, out.String(), errs.String()
}

func TestCrashSymbolized(t *testing.T) {
	vmlinux, sym, id := smallKernel(t, "6.99.0-test")
	for name, log := range map[string]string{
		"plain":       crashLog(crashBanner, sym, ""),
		"build-id":    crashLog(crashBanner, sym, id),
		"CR LF":       strings.ReplaceAll(crashLog(crashBanner, sym, ""), "\n", "\r\n"),
		"no boot":     crashLog("hello", sym, id),
		"no last end": strings.TrimRight(crashLog(crashBanner, sym, ""), "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := crash(t, strings.NewReader(log), "-vmlinux", vmlinux)
			assert.Equal(t, code, result.ExitFail, "%s", errs)
			assert.Assert(t, strings.Contains(out, "  | [    2.000005]  inlined init/main.c:4 [inline]\n  | [    2.000005]  "+sym+" init/main.c:8\n"), "%s", out)
			assert.Assert(t, strings.Contains(out, " panic+0x2d6/0x2f0\n"), "%s", out)
			assert.Assert(t, strings.Contains(errs, `"panic"`), "%s", errs)
		})
	}
	code, out, _ := crash(t, strings.NewReader(crashLog(crashBanner, sym, id)), "-json", "-vmlinux", vmlinux)
	assert.Equal(t, code, result.ExitFail)
	var r oops.Report
	assert.NilError(t, json.Unmarshal([]byte(out), &r))
	assert.Equal(t, len(r.Stack), 3, "%s", out)
	assert.Equal(t, fmt.Sprintf("%s %s:%d %t", r.Stack[1].Func, r.Stack[1].File, r.Stack[1].Line, r.Stack[1].Inline), "inlined init/main.c:4 true")
	assert.Equal(t, fmt.Sprintf("%s %s:%d %t", r.Stack[2].Func, r.Stack[2].File, r.Stack[2].Line, r.Stack[2].Inline), "victim init/main.c:8 false")
	assert.Assert(t, strings.Contains(out, `"file":"init/main.c","line":4`) && strings.Contains(out, `"inline":true`), "%s", out)

	// Without reports the vmlinux does not matter.
	code, out, errs := crash(t, strings.NewReader("nothing\n"), "-vmlinux", vmlinux)
	assert.Equal(t, code, result.ExitPass)
	assert.Equal(t, out+errs, "")
}

func TestCrashOtherKernel(t *testing.T) {
	vmlinux, sym, id := smallKernel(t, "6.99.0-test")
	other := strings.Repeat("0123456789", 4)
	refused := func(log string, words ...string) {
		t.Helper()
		for _, flags := range [][]string{nil, {"-json"}} {
			code, out, errs := crash(t, strings.NewReader(log), append(flags, "-vmlinux", vmlinux)...)
			assert.Equal(t, code, result.ExitUsage)
			assert.Equal(t, out, "")
			for _, w := range words {
				assert.Assert(t, strings.Contains(errs, w), "%s", errs)
			}
		}
	}
	refused(crashLog(crashBanner, sym, other), id, other, "of another build")
	refused(crashLog(strings.Replace(crashBanner, "2024", "2025", 1), sym, ""), id, "2024", "2025")
	refused(strings.Replace(crashLog("hello", sym, ""), "tainted 6.99.0-test", "tainted 6.98.0", 1), "6.98.0", "6.99.0-test")

	// Of a log with several kernels each report is taken for its own.
	first := strings.Replace(crashLog(crashBanner, sym, ""), "6.99.0-test", "6.99.0-test", 1)
	code, out, errs := crash(t, strings.NewReader(first+strings.Replace(crashBanner, "2024", "2025", 1)+"\n[    1.000000] fine\n"), "-vmlinux", vmlinux)
	assert.Equal(t, code, result.ExitFail, "%s", errs)
	assert.Assert(t, strings.Contains(out, "init/main.c:8"), "%s", out)
}

func TestCrashBadVmlinux(t *testing.T) {
	vmlinux, sym, id := smallKernel(t, "6.99.0-test")
	dir := t.TempDir()
	stripped := filepath.Join(dir, "stripped")
	assert.NilError(t, exec.Command("strip", "-g", "-o", stripped, vmlinux).Run())
	text := filepath.Join(dir, "text")
	assert.NilError(t, os.WriteFile(text, []byte("not a kernel\n"), 0o600))
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"-vmlinux", stripped}, "CONFIG_DEBUG_INFO"},
		{[]string{"-vmlinux", text}, "not a kernel"},
		{[]string{"-vmlinux", filepath.Join(dir, "nothing")}, "no such file"},
		{[]string{"-vmlinux", vmlinux, "-modules", filepath.Join(dir, "nothing")}, "no such file"},
		{[]string{"-modules", dir}, "need -vmlinux"},
		{[]string{"-kernel-offset", "0"}, "need -vmlinux"},
	} {
		code, out, errs := crash(t, strings.NewReader(crashLog(crashBanner, sym, id)), row.args...)
		assert.Equal(t, code, result.ExitUsage, "%q", row.args)
		assert.Equal(t, out, "")
		assert.Assert(t, strings.Contains(errs, row.want), "%q: %s", row.args, errs)
	}
}

// generator makes an endless log of what next returns.
type generator struct {
	next func() []byte
	left int64
	rest []byte
}

func (g *generator) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, io.EOF
	}
	if len(g.rest) == 0 {
		g.rest = g.next()
	}
	n := copy(p, g.rest[:min(int64(len(g.rest)), g.left)])
	g.rest, g.left = g.rest[n:], g.left-int64(n)
	return n, nil
}

// TestCrashHugeLog streams 2 GiB: ordinary lines, then one without end, with a
// report before and behind each. What the command keeps must not grow.
func TestCrashHugeLog(t *testing.T) {
	if testing.Short() {
		t.Skip("-short is set, and the log has 2 GiB: run without it")
	}
	vmlinux, sym, id := smallKernel(t, "6.99.0-test")
	report := crashLog("hello", sym, id)
	lines := bytes.Repeat([]byte("[    5.123456] usb 1-1: new high-speed USB device number 7 using xhci_hcd, and so on and so forth\n"), 10000)
	endless := bytes.Repeat([]byte("no end in sight "), 1<<16)
	// A report with the time of an earlier one is that one, printed again.
	at := func(second, log string) io.Reader {
		return strings.NewReader(strings.ReplaceAll(log, "[    2.", "[    "+second+"."))
	}
	log := io.MultiReader(
		strings.NewReader(report), &generator{next: func() []byte { return lines }, left: int64(1<<30) / int64(len(lines)) * int64(len(lines))},
		at("7", report), &generator{next: func() []byte { return endless }, left: 1 << 30},
		at("8", "\n"+report))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	code, out, errs := crash(t, log, "-vmlinux", vmlinux)
	runtime.ReadMemStats(&after)
	assert.Equal(t, code, result.ExitFail, "%s", errs)
	assert.Equal(t, strings.Count(out, "kernel panic: sysrq triggered crash"), 3, "%s", out)
	assert.Equal(t, strings.Count(out, "init/main.c:8"), 3)
	// Sys never shrinks: it holds the peak.
	assert.Assert(t, after.Sys-before.Sys < 64<<20, "memory grew by %d MiB", (after.Sys-before.Sys)>>20)
}

// TestCrashRealKernel crashes the kernel that KVMRUN_DEBUG_KERNEL names, and
// reads its log back with that very file.
func TestCrashRealKernel(t *testing.T) {
	vmlinux := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if vmlinux == "" {
		t.Skip("KVMRUN_DEBUG_KERNEL is not set: set it to a vmlinux with debug information that boots in QEMU")
	}
	dir := t.TempDir()
	kvmrun := filepath.Join(dir, "kvmrun")
	out, err := exec.Command("go", "build", "-o", kvmrun, "github.com/kvmrun/kvmrun/cmd/kvmrun").CombinedOutput()
	assert.NilError(t, err, "%s", out)
	logs := filepath.Join(dir, "logs")
	c := exec.Command(kvmrun, "exec", "-cache", filepath.Join(dir, "cache"), "-o", logs, "-kernel", vmlinux, "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
	text, err := c.CombinedOutput()
	assert.Assert(t, err != nil, "the kernel survived: %s", text)
	f, err := os.Open(filepath.Join(logs, "console.log"))
	assert.NilError(t, err, "%s", text)
	defer f.Close()
	code, stdout, stderr := crash(t, f, "-vmlinux", vmlinux)
	assert.Equal(t, code, result.ExitFail, "%s", stderr)
	for _, want := range []string{
		`sysrq_handle_crash\+0x[0-9a-f]+/0x[0-9a-f]+ drivers/tty/sysrq\.c:\d+\n`,
		`__handle_sysrq(?:\.cold)?\+0x[0-9a-f]+/0x[0-9a-f]+ drivers/tty/sysrq\.c:\d+\n`,
		`vfs_write\+0x[0-9a-f]+/0x[0-9a-f]+ fs/read_write\.c:\d+\n`,
	} {
		assert.Assert(t, regexp.MustCompile(want).MatchString(stdout), "no %s in\n%s", want, stdout)
	}
	assert.Equal(t, stderr, "")
}

// TestCrashAllow: what an allow-list names is shown as such and does not count.
func TestCrashAllow(t *testing.T) {
	log := "[    1.000000] WARNING: CPU: 0 PID: 7 at mm/x.c:1 broken+0x1/0x2\n[    1.000000] RIP: 0010:broken+0x1/0x2\n" +
		"[    1.000000] Call Trace:\n[    1.000000]  <TASK>\n[    1.000000]  caller+0x1/0x2\n[    1.000000]  </TASK>\n" +
		"[    1.000000] ---[ end trace 0000000000000000 ]---\n"
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	known := file("known", "title: WARNING in brok* | reason: quirk | link: https://bugs/1 | expires: 9999-01-01\n")
	other := file("other", "title: WARNING in y | reason: quirk | link: https://bugs/1 | expires: 9999-01-01\n")

	code, out, errs := crash(t, strings.NewReader(log), "-allow", known, "-allow", other)
	assert.Equal(t, code, result.ExitPass)
	assert.Equal(t, out, "WARNING in broken\n  allowed      quirk (https://bugs/1), until 9999-01-01\n\n")
	assert.Equal(t, errs, "kvmrun: allow-list "+other+":1: never matched: title WARNING in y\n")

	code, out, _ = crash(t, strings.NewReader(log), "-json", "-allow", known)
	assert.Equal(t, code, result.ExitPass)
	assert.Assert(t, strings.Contains(out, `"suppressed":true`), out)

	code, out, _ = crash(t, strings.NewReader(log), "-json", "-allow", other)
	assert.Equal(t, code, result.ExitFail)
	assert.Assert(t, strings.Contains(out, `"suppressed":false`), out)

	bad := file("bad", "title: x\n")
	code, _, errs = crash(t, strings.NewReader(log), "-allow", bad)
	assert.Equal(t, code, result.ExitUsage)
	assert.Assert(t, strings.Contains(errs, bad+":1: reason is missing"), errs)
}

// TestCrashSuppressedIsKept: each report says for itself whether it counts: one
// that an allow-list names, a program's crash, and one that neither excuses.
func TestCrashSuppressedIsKept(t *testing.T) {
	dir := t.TempDir()
	log, allow := filepath.Join(dir, "log"), filepath.Join(dir, "allow")
	const goCrash = "panic: runtime error: x\n\ngoroutine 1 [running]:\nmain.main()\n"
	const first, second = "[    5.000000] BUG: workqueue lockup - pool cpus=0\n", "[    6.000000] unregister_netdevice: waiting for lo to become free. Usage count = 2\n"
	assert.NilError(t, os.WriteFile(allow, []byte("title: BUG: workqueue lockup | reason: known | link: https://bugs/1 | expires: 2099-01-31\n"), 0o644))
	for _, c := range []struct {
		text string
		want []bool
		code int
	}{
		{first + goCrash, []bool{true, true}, 0},
		{goCrash + first, []bool{true, true}, 0},
		{first + goCrash + second, []bool{true, true, false}, 1},
		{second + first, []bool{false, true}, 1},
	} {
		assert.NilError(t, os.WriteFile(log, []byte(c.text), 0o644))
		code, out, errs := crash(t, strings.NewReader(""), "-json", "-allow", allow, log)
		assert.Equal(t, code, c.code, "%s%s", out, errs)
		var got []bool
		for line := range strings.Lines(out) {
			var r struct{ Suppressed bool }
			assert.NilError(t, json.Unmarshal([]byte(line), &r))
			got = append(got, r.Suppressed)
		}
		assert.DeepEqual(t, got, c.want)
	}
}
