// SPDX-License-Identifier: Apache-2.0

// Package kit is the guest-side test kit of the suites: needs and earned
// skips, helper processes, disks and kernel-log marks. It runs inside the VM
// only and imports no host code.
//
// Capabilities, landlock domains, securebits and fail-nth belong to a task,
// and the Go runtime has many. A test that changes them does so in a helper
// process: the test binary started again, running one function of the suite's
// [Helpers] on its locked main thread, and dying with it.
//
// The functions may be called from several tests at once.
package kit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/internal/marks"
)

// HelperEnv names the helper in a helper process's environment.
const HelperEnv = "KVMRUN_HELPER"

// Helpers are a suite's helper functions by name. A helper gets the caller's
// input as JSON and returns a value that is sent back as JSON, or an error,
// which fails the calling test.
type Helpers map[string]func(in json.RawMessage) (out any, err error)

// The main goroutine has to be locked before main starts, or a helper may find
// itself on another thread than the process's first, the one /proc/PID/status
// and the group leader's credentials describe.
func init() {
	if os.Getenv(HelperEnv) != "" {
		runtime.LockOSThread()
	}
}

type reply struct {
	Out json.RawMessage
	Err string
}

// helperFD is where a helper writes its reply: the first of exec.Cmd's
// ExtraFiles, opened before the helper confines itself.
const helperFD = 3

// RunHelper runs the helper that the environment names and exits, or returns
// when this is not a helper process. testmain calls it before anything else.
func (h Helpers) RunHelper() {
	name := os.Getenv(HelperEnv)
	if name == "" {
		return
	}
	out := os.NewFile(helperFD, "reply")
	fn := h[name]
	if fn == nil {
		fmt.Fprintf(os.Stderr, "kit: no helper %q in this suite\n", name)
		os.Exit(2)
	}
	var r reply
	var in bytes.Buffer
	_, err := in.ReadFrom(os.Stdin)
	if err == nil {
		var v any
		v, err = fn(in.Bytes())
		if err == nil {
			r.Out, err = json.Marshal(v)
		}
	}
	if err != nil {
		r.Err = err.Error()
	}
	b, err := json.Marshal(r)
	if err == nil {
		_, err = out.Write(b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kit: send the helper's reply:", err)
		os.Exit(2)
	}
	os.Exit(0)
}

// Helper is a prepared call of a helper process.
type Helper struct {
	Name string
	In   any
	// Cmd may be changed before Run (SysProcAttr, Env, ExtraFiles after the
	// first); Stdin, Args and ExtraFiles[0] belong to the kit.
	Cmd *exec.Cmd

	r *os.File
}

// NewHelper prepares a helper process of this suite. The caller must Run it.
func NewHelper(t testing.TB, name string, in any) *Helper {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatalf("encode input of helper %s: %v", name, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatalf("make reply pipe: %v", err)
	}
	t.Cleanup(func() { _ = r.Close(); _ = w.Close() })
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), HelperEnv+"="+name, "GODEBUG=asyncpreemptoff=1")
	cmd.Stdin = bytes.NewReader(b)
	cmd.ExtraFiles = []*os.File{w}
	return &Helper{Name: name, In: in, Cmd: cmd, r: r}
}

// Run runs the helper, decodes its reply into out (unless nil) and returns the
// helper's own error. A helper that dies without a reply fails the test.
func (h *Helper) Run(t testing.TB, out any) error {
	t.Helper()
	var stderr bytes.Buffer
	if h.Cmd.Stderr == nil {
		h.Cmd.Stderr = &stderr
	}
	if err := h.Cmd.Start(); err != nil {
		t.Fatalf("start helper %s: %v", h.Name, err)
	}
	_ = h.Cmd.ExtraFiles[0].Close()
	var b bytes.Buffer
	_, rerr := b.ReadFrom(h.r)
	werr := h.Cmd.Wait()
	var r reply
	if err := json.Unmarshal(b.Bytes(), &r); rerr != nil || err != nil {
		t.Fatalf("helper %s gave no reply (%v), ended with: %v\n%s", h.Name, err, werr, stderr.String())
	}
	if stderr.Len() > 0 {
		t.Logf("helper %s: %s", h.Name, strings.TrimSpace(stderr.String()))
	}
	if r.Err != "" {
		return fmt.Errorf("helper %s: %s", h.Name, r.Err)
	}
	if out != nil {
		if err := json.Unmarshal(r.Out, out); err != nil {
			t.Fatalf("decode reply of helper %s: %v", h.Name, err)
		}
	}
	return nil
}

// Call runs a helper and returns its reply; any error fails the test.
func Call[Out any](t testing.TB, name string, in any) Out {
	t.Helper()
	var out Out
	if err := NewHelper(t, name, in).Run(t, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

var kernel = struct {
	once    sync.Once
	config  suites.Config
	release string
}{}

func load() {
	kernel.once.Do(func() {
		if b, err := os.ReadFile(suites.GuestConfigFile); err == nil {
			kernel.config = suites.ParseConfig(b)
		}
		var u unix.Utsname
		if unix.Uname(&u) == nil {
			kernel.release = unix.ByteSliceToString(u.Release[:])
		}
	})
}

// Config returns the running kernel's configuration, nil where the host did
// not know it. The map must not be changed.
func Config() suites.Config { load(); return kernel.config }

// Release returns what uname -r prints.
func Release() string { load(); return kernel.release }

// earned remembers the tests that were skipped for a stated reason.
var earned sync.Map

// skip skips the test for a reason that suites.Spec.Earned understands.
func skip(t testing.TB, reason string) {
	t.Helper()
	earned.Store(t.Name(), true)
	t.Skip(reason)
}

// SkipEarned says whether the test was skipped by one of this package's
// functions. A test that skips by itself stopped testing, and nobody knows why.
func SkipEarned(t testing.TB) bool {
	_, ok := earned.Load(t.Name())
	return ok
}

// NeedKconfig skips the test unless the kernel has every option, given as
// "SYMBOL" or "SYMBOL=y". Where the configuration is not known the test runs.
func NeedKconfig(t testing.TB, needs ...string) {
	t.Helper()
	for _, n := range needs {
		if c := Config(); !c.Has(n) {
			skip(t, suites.KconfigReason(n, c[strings.TrimSuffix(n, "=y")]))
		}
	}
}

// NeedLinux skips the test on a kernel older than min ("6.7"); why names what
// came with it.
func NeedLinux(t testing.TB, min, why string) {
	t.Helper()
	if suites.CompareRelease(Release(), min) < 0 {
		skip(t, suites.LinuxReason(min, Release(), why))
	}
}

// NeedFeature skips the test unless err, the outcome of probing for it, is
// nil. The suite's Spec must list the name under Features.
func NeedFeature(t testing.TB, name string, err error) {
	t.Helper()
	if err != nil {
		skip(t, suites.FeatureReason(name, err.Error()))
	}
}

// NotShort skips a slow test under -short.
func NotShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		skip(t, suites.ShortReason())
	}
}

// Disk returns the device of the disk that the Spec calls name.
func Disk(t testing.TB, name string) string {
	t.Helper()
	serials, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range serials {
		b, err := os.ReadFile(s)
		if err == nil && strings.TrimSpace(string(b)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(s))
		}
	}
	t.Fatalf("no disk with serial %q among %v: is virtio_blk loaded and the disk in the suite's Spec?", name, serials)
	return ""
}

// expected are the titles of the splats that tests expect, by test.
var expected = struct {
	sync.Mutex
	titles map[string][]string
}{titles: map[string][]string{}}

// ExpectSplat says that the test is about to make the kernel print a splat. It
// must be called before that happens; title is a regular expression for the
// splat's whole title ("WARNING in lkdtm_WARNING"), or one of its other titles.
//
// Such a splat fails neither the test nor the run. The test fails if it does
// not come, and every other splat fails it as always. Tests after this one run
// in a fresh VM where they would after any splat; a kernel that dies of it
// fails the test all the same.
func ExpectSplat(t testing.TB, title string) {
	t.Helper()
	if _, err := regexp.Compile(title); err != nil {
		t.Fatalf("expect a kernel splat: %v", err)
	}
	mark := wire.ExpectMark(marks.Nonce(), t.Name(), title)
	if len(mark) > wire.MaxExpectMark {
		t.Fatalf("expect a kernel splat: the names of test and splat take %d bytes, more than %d", len(mark), wire.MaxExpectMark)
	}
	// The host reads it in the kernel log, before the splat.
	if err := os.WriteFile("/dev/kmsg", []byte("<0>"+mark+"\n"), 0); err != nil {
		t.Fatalf("expect a kernel splat: %v", err)
	}
	expected.Lock()
	defer expected.Unlock()
	expected.titles[t.Name()] = append(expected.titles[t.Name()], title)
}

// ExpectedSplats returns what the test of that name and its subtests expect.
func ExpectedSplats(test string) []string {
	expected.Lock()
	defer expected.Unlock()
	var out []string
	for name, titles := range expected.titles {
		if name == test || strings.HasPrefix(name, test+"/") {
			out = append(out, titles...)
		}
	}
	slices.Sort(out)
	return out
}
