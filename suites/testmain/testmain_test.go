// SPDX-License-Identifier: Apache-2.0

package testmain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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

const sample = "./testdata/sample"

func needKernel(t *testing.T) string {
	t.Helper()
	k := os.Getenv("KVMRUN_KERNEL")
	if k == "" {
		t.Skip("KVMRUN_KERNEL is not set: name a kernel, as make test does")
	}
	return k
}

type outcome struct {
	stdout, stderr string
	code           int
}

func goTest(t *testing.T, env []string, args ...string) outcome {
	t.Helper()
	cmd := exec.Command("go", append([]string{"test"}, args...)...)
	cmd.Env = append(os.Environ(), "KVMRUN_KERNEL=")
	cmd.Env = append(cmd.Env, env...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcome{o.String(), e.String(), cmd.ProcessState.ExitCode()}
}

// times are what differs between two runs of the same tests.
var times = regexp.MustCompile(`\(cached\)|\(?\d+\.\d+s\)?|\d+(\.\d+)? ns/op|^\s*\d+\s|"Elapsed":[0-9.e-]+|"Time":"[^"]*",|goroutine \d+|0x[0-9a-f]+|\+0x[0-9a-f]+|cpu: .*|(?m)^\d{4}/.*$`)

func normal(s string) string {
	s = times.ReplaceAllString(s, "T")
	return regexp.MustCompile(`BenchmarkNothing(-\d+)?\s+\d+\s+T`).ReplaceAllString(s, "BenchmarkNothing N T")
}

// TestOutputIsGoTests compares go test in the VM with go test on this host,
// letter by letter but for times.
func TestOutputIsGoTests(t *testing.T) {
	kernel := needKernel(t)
	const good = "^(Test[^Z].*|Example[^_].*)$" // others end the process
	for _, c := range []struct {
		name string
		args []string
	}{
		{"isolated", []string{"-isolate", "test", "-v", "-run", good}},
		{"isolated, json", []string{"-isolate", "test", "-json", "-run", "TestSub|TestPass|ExamplePrint"}},
		{"isolated, fails", []string{"-isolate", "test", "-j", "1", "-run", "TestZFail|TestPass"}},
		{"isolated, failfast", []string{"-isolate", "test", "-v", "-failfast", "-run", "TestZFail|TestZZAfter"}},
		{"quiet", []string{"-run", good}},
		{"verbose", []string{"-v", "-run", good}},
		{"json", []string{"-json", "-run", good}},
		{"short, skip and count", []string{"-v", "-short", "-skip", "TestSub", "-count", "2", "-run", good}},
		{"no match", []string{"-run", "TestNothingHasThisName"}},
		{"own flag", []string{"-v", "-run", "TestWord", "-args", "-word", "hello world"}},
		{"fails", []string{"-run", "TestZFail|TestPass"}},
		{"failfast", []string{"-v", "-failfast", "-run", "TestZFail|TestCover"}},
		{"exit in a test", []string{"-v", "-run", "TestZExit"}},
		{"killed", []string{"-run", "TestZSignal"}},
		{"bench", []string{"-run", "^$", "-bench", ".", "-benchtime", "10x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{sample}, c.args...)
			plain := args
			for i, a := range args { // which a plain test binary does not know
				if a == "-isolate" {
					plain = slices.Concat(args[:i], slices.DeleteFunc(slices.Clone(args[i+2:]), func(a string) bool { return a == "-j" || a == "1" }))
				}
			}
			want := goTest(t, []string{"SAMPLE_PLAIN=1"}, plain...)
			with := []string{sample, "-kernel", kernel}
			got := goTest(t, nil, append(with, c.args...)...)
			if c.args[len(c.args)-1] == "hello world" { // -args ends go test's own flags
				got = goTest(t, []string{"KVMRUN_KERNEL=" + kernel}, args...)
			}
			assert.Equal(t, got.code, want.code, "%s%s", got.stdout, got.stderr)
			// But for the command to repeat what failed.
			again := regexp.MustCompile(`(?m)^kvmrun: again: .*\n`)
			assert.Check(t, is.Equal(len(again.FindAllString(got.stdout, -1)), got.code))
			got.stdout = again.ReplaceAllString(got.stdout, "")
			assert.Check(t, is.Equal(normal(got.stdout), normal(want.stdout)))
			assert.Check(t, is.Equal(normal(got.stderr), normal(want.stderr)))
		})
	}
}

// TestIsolatedTestsDoNotSeeEachOther, whatever the others do: end the binary, the
// VM or the kernel.
func TestIsolatedTestsDoNotSeeEachOther(t *testing.T) {
	kernel := needKernel(t)
	logs := t.TempDir()
	got := goTest(t, nil, sample, "-kernel", kernel, "-isolate", "test", "-logs", logs, "-v",
		"-run", "^(TestZExit|TestZSignal|TestZPanic|TestZPanicKernel|TestZPowerOff|TestZZAfter)$")
	assert.Equal(t, got.code, 1)
	for _, want := range []string{
		"--- FAIL: TestZPanic ", "panic: oh",
		"kvmrun: the test binary ended during this test: exit status 7",
		"kvmrun: the test binary was ended by signal 9 during this test",
		"kvmrun: the kernel died during this test: kernel panic: sysrq triggered crash",
		"kvmrun: the VM ended during this test: power-off",
		"--- PASS: TestZZAfter",
	} {
		assert.Check(t, is.Contains(got.stdout, want))
	}
	assert.Equal(t, strings.Count(got.stdout, "=== RUN "), 6)
	files, err := os.ReadDir(logs)
	assert.NilError(t, err)
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	assert.DeepEqual(t, names, []string{"console.log", "replay.json"})
	b, err := os.ReadFile(filepath.Join(logs, "console.log"))
	assert.NilError(t, err)
	assert.Equal(t, bytes.Count(b, []byte("Linux version")), 1)
	assert.Equal(t, bytes.Count(b, []byte("kvmrun: forked as")), 6)
}

func TestIsolationIsRefused(t *testing.T) {
	kernel := needKernel(t)
	for want, args := range map[string][]string{
		"use none, suite or test":               {"-isolate", "everything"},
		"-coverprofile does not work with that": {"-isolate", "test", "-coverprofile", filepath.Join(t.TempDir(), "c")},
		"-bench does not work with that":        {"-isolate", "test", "-bench", "."},
	} {
		got := goTest(t, nil, append([]string{sample, "-kernel", kernel}, args...)...)
		assert.Equal(t, got.code, 1)
		assert.Check(t, is.Contains(got.stdout+got.stderr, want))
	}
}

func TestPanicPrintsTheStack(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, nil, sample, "-kernel", kernel, "-run", "TestZPanic$")
	assert.Equal(t, got.code, 1)
	for _, want := range []string{"--- FAIL: TestZPanic", "panic: oh", "sample_test.go:", "FAIL\tgithub.com/kvmrun"} {
		assert.Check(t, is.Contains(got.stdout, want))
	}
}

func TestTimeoutNamesTheTest(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, nil, sample, "-kernel", kernel, "-run", "TestZHang", "-timeout", "3s")
	assert.Equal(t, got.code, 1)
	assert.Check(t, is.Contains(got.stdout, "panic: test timed out after 3s"))
	assert.Check(t, is.Contains(got.stdout, "TestZHang"))
}

// build compiles the sample as go test does.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "sample.test")
	out, err := exec.Command("go", "test", "-c", "-o", bin, sample).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	return bin
}

// TestExitStatuses looks at the test binary itself: go test shows 1 for all of
// them.
func TestExitStatuses(t *testing.T) {
	kernel := needKernel(t)
	bin := build(t)
	for _, c := range []struct {
		args string
		code int
		say  string
	}{
		{"-kernel " + kernel + " -main-exit 9", 9, "TestMain says no"},
		{"-kernel /no/such/kernel", 2, "no such file"},
		{"-kernel " + kernel + " -test.fuzz Fuzz", 2, "fuzzing"},
		{"-kernel " + kernel + " -accel nonsense", 2, "-accel"},
		{"-kernel " + kernel + " -test.run TestZPanicKernel", 1, "sysrq triggered crash"},
	} {
		out, err := exec.Command(bin, strings.Fields(c.args)...).CombinedOutput()
		code := 0
		if e := new(exec.ExitError); errors.As(err, &e) {
			code = e.ExitCode()
		}
		assert.Check(t, is.Equal(code, c.code), "%s: %s", c.args, out)
		assert.Check(t, is.Contains(string(out), c.say))
	}
}

// TestProfilesComeBack checks the files a test binary writes.
func TestProfilesComeBack(t *testing.T) {
	kernel := needKernel(t)
	dir := t.TempDir()
	cover, cpu := filepath.Join(dir, "cover.out"), filepath.Join(dir, "cpu.out")
	got := goTest(t, nil, sample, "-kernel", kernel, "-run", "TestCover", "-coverprofile", cover, "-cpuprofile", cpu, "-o", filepath.Join(dir, "sample.test"))
	assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
	assert.Check(t, is.Contains(got.stdout, "coverage: 66.7% of statements"))
	b, err := os.ReadFile(cover)
	assert.NilError(t, err)
	assert.Check(t, is.Contains(string(b), "testdata/sample/sample.go:9."))
	st, err := os.Stat(cpu)
	assert.NilError(t, err)
	assert.Check(t, st.Size() > 0)
	left, err := filepath.Glob(filepath.Join(dir, ".kvmrun-*"))
	assert.NilError(t, err)
	assert.Check(t, is.Len(left, 0))
}

func TestWithoutAKernelNothingIsTested(t *testing.T) {
	got := goTest(t, nil, sample)
	assert.Equal(t, got.code, 0)
	assert.Check(t, is.Contains(got.stdout, "[no tests to run]"))
	got = goTest(t, nil, sample, "-v", "-run", "TestPass")
	assert.Check(t, is.Contains(got.stdout, "--- SKIP: TestPass"))
	assert.Check(t, is.Contains(got.stdout, "run: go test ./suites/... -kernel bzImage"))
	assert.Check(t, !strings.Contains(got.stdout, "to stdout"), "a test ran on the host")
	got = goTest(t, nil, sample, "-bench", ".")
	assert.Check(t, !strings.Contains(got.stdout, "ns/op"), "a benchmark ran on the host")
}

func TestMissingOptionSkipsTheSuiteByName(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, []string{"SAMPLE_KCONFIG=NO_SUCH_OPTION"}, sample, "-kernel", kernel, "-v", "-run", "TestPass")
	assert.Equal(t, got.code, 1, "%s", got.stderr)
	assert.Check(t, is.Contains(got.stdout, "where that is wanted, say -allow-nothing"))
	got = goTest(t, []string{"SAMPLE_KCONFIG=NO_SUCH_OPTION"}, sample, "-kernel", kernel, "-v", "-run", "TestPass", "-allow-nothing")
	assert.Equal(t, got.code, 0, "%s", got.stderr)
	assert.Check(t, is.Contains(got.stdout, "needs CONFIG_NO_SUCH_OPTION"))
	assert.Check(t, is.Contains(got.stdout, "--- SKIP: TestPass"))
}

func TestSkipMustBeEarned(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, nil, sample, "-kernel", kernel, "-run", "TestZSkip")
	assert.Equal(t, got.code, 1)
	assert.Check(t, is.Contains(got.stdout, "skip not earned"))
}

// TestKernelFailuresFail runs tests that pass, or end the VM, on a kernel that
// fails.
func TestKernelFailuresFail(t *testing.T) {
	kernel := needKernel(t)
	for _, c := range []struct {
		test string
		want []string
	}{
		{"TestZPanicKernel", []string{"kernel-failed", "Kernel panic - not syncing: sysrq triggered crash", "during TestZPanicKernel", "kernel log: "}},
		{"TestZSplat", []string{"KASAN: slab-use-after-free Read in sample_function", "during TestZSplat"}},
		{"TestZReset", []string{"no-end-marker", "kernel log: "}},
		{"TestZPowerOff", []string{"no-end-marker", "kernel log: "}},
	} {
		t.Run(c.test, func(t *testing.T) {
			got := goTest(t, nil, sample, "-kernel", kernel, "-run", c.test+"$")
			assert.Equal(t, got.code, 1)
			for _, w := range c.want {
				assert.Check(t, is.Contains(got.stdout+got.stderr, w))
			}
			assert.Check(t, !strings.Contains(got.stdout, "\nok "), "%s", got.stdout)
		})
	}
}

// TestAgain: the command that go test prints for a splat gives it again, by go
// test and by a test binary alone, with the flags that decided.
func TestAgain(t *testing.T) {
	kernel := needKernel(t)
	again := regexp.MustCompile(`(?m)^kvmrun: again: (.*)$`)
	splat := regexp.MustCompile(`(?m)^kvmrun: kernel splat during TestZSplat .*$`)
	check := func(out string, want ...string) {
		t.Helper()
		line, first := again.FindStringSubmatch(out), splat.FindString(out)
		assert.Assert(t, line != nil && first != "", "%s", out)
		for _, w := range append(want, " -hang=9m0s", "GOGC=77", "-word='hello world'", "'^TestZSplat$'") {
			assert.Check(t, is.Contains(line[1], w))
		}
		cmd := exec.Command("sh", "-c", line[1])
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "KVMRUN_KERNEL=/nonexistent", "GOGC=")
		second, _ := cmd.CombinedOutput()
		assert.Equal(t, cmd.ProcessState.ExitCode(), 1, "%s", second)
		assert.Equal(t, splat.FindString(string(second)), first)
		assert.Check(t, !bytes.Contains(second, []byte("to stdout")), "another test ran: %s", second)
	}
	// The package's directory is not here: go test goes there.
	got := goTest(t, []string{"GOGC=77"}, sample, "-kernel", kernel, "-hang", "9m", "-short", "-tags", "some,tags", "-run", "TestPass|TestZSplat$", "-word", "hello world")
	check(got.stdout+got.stderr, "go test ", " -short=true", " -tags=some,tags")

	cmd := exec.Command(build(t), "-kernel", kernel, "-hang", "9m", "-test.short", "-test.run", "TestPass|TestZSplat$", "-word", "hello world")
	cmd.Env = append(os.Environ(), "GOGC=77")
	out, _ := cmd.CombinedOutput()
	check(string(out), "/sample.test ", " -test.short=true", " -test.run ")
}

// TestAgainWithoutSplat: so does the command for a test that only fails, or that
// ends the process, and it names the failed ones alone.
func TestAgainWithoutSplat(t *testing.T) {
	kernel := needKernel(t)
	again := regexp.MustCompile(`(?m)^kvmrun: again: (.*)$`)
	for _, c := range []struct{ run, only, failure string }{
		{"TestPass|TestZFail$", " '^TestZFail$'", "--- FAIL: TestZFail"},
		{"TestPass|TestZSignal$", " '^TestZSignal$'", "signal: "},
		{"TestPass|TestZExit$", " '^TestZExit$'", "FAIL"},
	} {
		got := goTest(t, nil, sample, "-kernel", kernel, "-run", c.run)
		out := got.stdout + got.stderr
		assert.Check(t, is.Equal(got.code, 1))
		assert.Check(t, is.Contains(out, c.failure))
		lines := again.FindAllStringSubmatch(out, -1)
		assert.Assert(t, is.Len(lines, 1), "%s", out)
		assert.Check(t, strings.HasSuffix(lines[0][1], c.only), "%s", lines[0][1])
		if c.only != " '^TestZFail$'" {
			continue
		}
		cmd := exec.Command("sh", "-c", lines[0][1])
		cmd.Dir = t.TempDir()
		second, _ := cmd.CombinedOutput()
		assert.Check(t, is.Equal(cmd.ProcessState.ExitCode(), 1), "%s", second)
		assert.Check(t, bytes.Contains(second, []byte(c.failure)) && !bytes.Contains(second, []byte("to stdout")), "%s", second)
	}
}

// TestBadFlags: go test refuses what kvmrun does, with the same words.
func TestBadFlags(t *testing.T) {
	bin := build(t)
	for _, c := range [][]string{{"-j", "-1"}, {"-hang", "-1s"}} {
		cmd := exec.Command(bin, append([]string{"-kernel", "none"}, c...)...)
		out, _ := cmd.CombinedOutput()
		assert.Check(t, is.Equal(cmd.ProcessState.ExitCode(), 2))
		assert.Check(t, is.Contains(string(out), fmt.Sprintf("invalid value %q for flag %s: must not be negative", c[1], c[0])))
	}
}

// TestKernelNames: go test knows the names of kernels that kvmrun knows.
func TestKernelNames(t *testing.T) {
	kernel := needKernel(t)
	dir := t.TempDir()
	assert.NilError(t, os.Symlink(kernel, filepath.Join(dir, "bzImage")))
	bin := build(t)
	names := []string{dir}
	// The kernel to test with is in the cache when it was fetched.
	if v := regexp.MustCompile(`deb-kernel/.*/vmlinuz-(\d+\.\d+)`).FindStringSubmatch(kernel); v != nil {
		names = append(names, "debian:"+v[1])
	}
	for _, n := range names {
		out, err := exec.Command(bin, "-kernel", n, "-test.run", "TestPass$").CombinedOutput()
		assert.NilError(t, err, "%s: %s", n, out)
		assert.Check(t, is.Contains(string(out), "to stdout"))
	}
	for name, want := range map[string]string{
		"fedora:40":               `"fedora" is no distribution whose kernels can be fetched`,
		"https://example.com/bz":  "download it yourself",
		"debian:nonsense":         "debian:nonsense",
		"no/such/kernel":          "no such file or directory; tried ",
		filepath.Dir(dir) + "/no": "no such file",
	} {
		out, err := exec.Command(bin, "-kernel", name).CombinedOutput()
		var exit *exec.ExitError
		assert.Assert(t, errors.As(err, &exit) && exit.ExitCode() == 2, "%s: %v: %s", name, err, out)
		assert.Check(t, is.Contains(string(out), want))
		assert.Check(t, bytes.Count(out, []byte("\n")) <= 5, "%s", out)
	}
}

// TestTheRestRunsInAFreshVM: what comes after a test that killed the kernel is
// run, every test ends once, and the run has failed.
func TestTheRestRunsInAFreshVM(t *testing.T) {
	kernel := needKernel(t)
	const run = "TestPass$|TestZPanicKernel$|TestZPowerOff$|TestZZAfter$"
	logs := t.TempDir()
	got := goTest(t, nil, sample, "-kernel", kernel, "-v", "-run", run, "-logs", logs)
	assert.Equal(t, got.code, 1)
	// All VMs are forked from one that was booted once.
	for name, forked := range map[string]int{"console.log": 1, "console-2.log": 1, "console-3.log": 1} {
		text, err := os.ReadFile(filepath.Join(logs, name))
		assert.NilError(t, err)
		assert.Check(t, is.Equal(bytes.Count(text, []byte("kvmrun: forked as")), forked), name)
		assert.Check(t, is.Equal(bytes.Count(text, []byte("Linux version")), 1), name)
	}
	var lines []string
	for _, l := range strings.Split(got.stdout, "\n") {
		// TestZPowerOff prints PASS itself, which may or may not get out.
		if strings.HasPrefix(l, "=== RUN") || strings.HasPrefix(l, "---") || l == "FAIL" {
			lines = append(lines, regexp.MustCompile(` \(.*`).ReplaceAllString(l, ""))
		}
	}
	assert.DeepEqual(t, lines, []string{
		"=== RUN   TestPass", "--- PASS: TestPass",
		"=== RUN   TestZPanicKernel", "--- FAIL: TestZPanicKernel",
		"=== RUN   TestZPowerOff", "--- FAIL: TestZPowerOff",
		"=== RUN   TestZZAfter", "--- PASS: TestZZAfter",
		"FAIL", "FAIL",
	})
	assert.Check(t, is.Contains(got.stdout, "the kernel died during this test: kernel panic: sysrq triggered crash"))
	assert.Check(t, is.Contains(got.stdout, "the VM ended during this test: power-off"))

	got = goTest(t, nil, sample, "-kernel", kernel, "-json", "-run", run)
	verdicts := map[string][]string{}
	for _, l := range strings.Split(got.stdout, "\n") {
		var e struct{ Action, Test string }
		if json.Unmarshal([]byte(l), &e) == nil && e.Test != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			verdicts[e.Test] = append(verdicts[e.Test], e.Action)
		}
	}
	assert.DeepEqual(t, verdicts, map[string][]string{
		"TestPass": {"pass"}, "TestZPanicKernel": {"fail"}, "TestZPowerOff": {"fail"}, "TestZZAfter": {"pass"},
	})

	got = goTest(t, nil, sample, "-kernel", kernel, "-v", "-run", run, "-keep-going")
	assert.Equal(t, got.code, 1)
	assert.Check(t, !strings.Contains(got.stdout, "still here"), "-keep-going started another VM")
	assert.Check(t, is.Contains(got.stdout, "--- FAIL: TestZZAfter (0.00s)\n    kvmrun: not run: the run ended before"))
}

// TestTheRestRunsAfterAHang: a test that hangs takes nobody with it.
func TestTheRestRunsAfterAHang(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, nil, sample, "-kernel", kernel, "-v", "-run", "TestPass$|TestZStop$|TestZZAfter$", "-hang", "5s")
	assert.Equal(t, got.code, 1)
	assert.Check(t, is.Contains(got.stdout, "--- PASS: TestPass"))
	assert.Check(t, is.Contains(got.stdout, "--- FAIL: TestZStop"))
	assert.Check(t, is.Contains(got.stdout, "the VM was given up during this test: nothing was said for 5s, in TestZStop"))
	assert.Check(t, is.Contains(got.stdout, "--- PASS: TestZZAfter"))
	assert.Check(t, is.Contains(got.stdout+got.stderr, "hung: nothing was said for 5s"))
}

// TestAVMThatEndsFailsTheRun, though nothing in a log says so and all other
// tests passed.
func TestAVMThatEndsFailsTheRun(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, nil, sample, "-kernel", kernel, "-run", "TestZPowerOff$|TestZZAfter$")
	assert.Equal(t, got.code, 1)
	assert.Check(t, !strings.Contains(got.stdout, "\nok "), "%s", got.stdout)
}

// TestExpectedSplats makes a real kernel complain, as announced and otherwise.
func TestExpectedSplats(t *testing.T) {
	kernel := needKernel(t)
	const suite = "./testdata/expect"
	got := goTest(t, nil, suite, "-kernel", kernel, "-v", "-run", "TestExpected|TestFresh")
	assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
	assert.Check(t, is.Contains(got.stdout, "kernel splat, as expected: EXT4-fs error in trigger_test_error"))
	assert.Check(t, is.Contains(got.stdout, "--- PASS: TestFresh"))

	got = goTest(t, nil, suite, "-kernel", kernel, "-run", "TestOther")
	assert.Equal(t, got.code, 1)
	assert.Check(t, is.Contains(got.stdout, "kernel splat during this test: EXT4-fs error in trigger_test_error"))
	assert.Check(t, is.Contains(got.stdout, `no kernel splat titled "WARNING in .*" came during this test`))
	assert.Check(t, is.Contains(got.stdout+got.stderr, "kernel-failed: EXT4-fs error in trigger_test_error"))
}

func TestAllowList(t *testing.T) {
	kernel := needKernel(t)
	allow := filepath.Join(t.TempDir(), "allow")
	write := func(expires string) {
		assert.NilError(t, os.WriteFile(allow, []byte(
			"title: KASAN: * in sample_function | reason: made up | link: https://bugs/1 | expires: "+expires+"\n"+
				"title: WARNING in nobody | reason: gone | link: https://bugs/2 | expires: 9999-01-01\n"), 0o600))
	}
	write("9999-12-31")
	got := goTest(t, nil, sample, "-kernel", kernel, "-v", "-run", "TestZSplat$", "-allow", allow)
	assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
	all := got.stdout + got.stderr
	assert.Check(t, is.Contains(all, "kernel splat, allowed: KASAN: slab-use-after-free Read in sample_function: made up (https://bugs/1), until 9999-12-31"))
	assert.Check(t, is.Contains(all, "allow:2: never matched: title WARNING in nobody"))

	write("2020-01-01")
	got = goTest(t, nil, sample, "-kernel", kernel, "-run", "TestZSplat$", "-allow", allow)
	assert.Equal(t, got.code, 1)
	assert.Check(t, is.Contains(got.stdout+got.stderr, "allow:1: expired on 2020-01-01 and not applied"))

	got = goTest(t, nil, sample, "-kernel", kernel, "-run", "TestZSplat$", "-allow", "/no/such/file")
	assert.Equal(t, got.code, 1)
	assert.Check(t, is.Contains(got.stdout+got.stderr, "-allow: open /no/such/file"))
}

func TestHostileOutput(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, nil, sample, "-kernel", kernel, "-v", "-run", "TestZHostile")
	assert.Equal(t, got.code, 0, "%.2000s", got.stdout[max(0, len(got.stdout)-2000):])
	assert.Check(t, strings.Count(got.stdout, "x") >= 3<<20, "output was lost")
}

// TestOutputHeldOpen: a process left behind must not keep the run from ending.
func TestOutputHeldOpen(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, nil, sample, "-kernel", kernel, "-v", "-run", "TestZDaemon$")
	assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
}

func TestRelativeKernel(t *testing.T) {
	got := goTest(t, nil, sample, "-kernel", "no/such/bzImage")
	assert.Equal(t, got.code, 1)
	out := got.stdout + got.stderr
	assert.Check(t, is.Contains(out, "no such file"))
	// Package directory and module root were tried.
	assert.Check(t, is.Contains(out, "testdata/sample/no/such/bzImage"))
	root, err := filepath.Abs("../..")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(out, filepath.Join(root, "no/such/bzImage")))
}

func TestListNeedsNoVM(t *testing.T) {
	got := goTest(t, nil, sample, "-kernel", "/no/such/kernel", "-list", "Test[PS]")
	assert.Equal(t, got.code, 0)
	assert.Check(t, is.Contains(got.stdout, "TestPass\nTestSub\n"))
}

func TestDescribe(t *testing.T) {
	cmd := exec.Command(build(t))
	cmd.Env = append(os.Environ(), "KVMRUN_DESCRIBE=1")
	out, err := cmd.Output()
	assert.NilError(t, err)
	var d struct {
		Spec  struct{ Name string }
		Tests []string
	}
	assert.NilError(t, json.Unmarshal(out, &d), "%s", out)
	assert.Equal(t, d.Spec.Name, "sample")
	assert.Check(t, is.Contains(fmt.Sprint(d.Tests), "TestPass"))
}
