// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// BuildError is a make that failed.
type BuildError struct {
	// First is the first error of a compiler, linker or make, with file and
	// line as printed; "" if none was recognised.
	First string
	// Context are the lines that follow it, at most six.
	Context []string
	// Log is the path of the complete output.
	Log string
	// NoSpace says that the disk was full.
	NoSpace bool
	Err     error // of the process
}

func (e *BuildError) Error() string {
	first := e.First
	if first == "" {
		first = "make gave no reason that could be recognised: " + e.Err.Error()
	}
	for _, l := range e.Context {
		first += "\n  " + l
	}
	if e.NoSpace {
		first += "\nthe disk is full (kvmrun kernel prune frees space; XDG_CACHE_HOME moves the cache)"
	}
	return fmt.Sprintf("build kernel: %s\nfull log: %s", first, e.Log)
}

// Unwrap makes errors.Is find ErrBuild, or ENOSPC with ErrHost.
func (e *BuildError) Unwrap() []error {
	if e.NoSpace {
		return []error{ErrHost, unix.ENOSPC, e.Err}
	}
	return []error{ErrBuild, e.Err}
}

// variables are the make variables of this request.
func (r *request) variables(t *tree) []string {
	// Paths in debug information are relative to the source's root: the same in
	// every cache, and what people call the files.
	prefixes := "-fdebug-prefix-map=" + t.src() + "/= -fdebug-prefix-map=" + t.obj() + "=."
	vars := []string{
		"O=" + t.obj(), "ARCH=" + r.srcarch,
		"KCFLAGS=" + prefixes, "KAFLAGS=" + prefixes,
	}
	cc := r.CC
	if r.LLVM != "" {
		vars = append(vars, "LLVM="+r.LLVM)
		if cc == "" {
			cc = "clang"
		}
	}
	if r.CrossCompile != "" {
		vars = append(vars, "CROSS_COMPILE="+r.CrossCompile)
	}
	if cc == "" {
		cc = r.CrossCompile + "gcc"
	}
	if r.ccache() {
		vars = append(vars, "CC=ccache "+cc, "HOSTCC=ccache "+hostCC(r))
	} else if r.CC != "" {
		vars = append(vars, "CC="+cc)
	}
	return vars
}

func hostCC(r *request) string {
	if r.LLVM != "" {
		return "clang"
	}
	return "gcc"
}

func (r *request) ccache() bool {
	return !r.NoCcache && !strings.Contains(r.CC, "ccache") && lookPath(r.env, "ccache") != ""
}

// make runs make in a tree. Its output goes to log and watch. When ctx ends,
// make is asked to stop (it removes the targets it was working on), and killed
// if it does not; killed says so.
func (r *request) make(ctx context.Context, t *tree, version string, w io.Writer, args ...string) (killed bool, err error) {
	argv := append([]string{"-C", t.src(), fmt.Sprintf("-j%d", r.Jobs)}, r.variables(t)...)
	cmd := exec.Command("make", append(argv, args...)...) //nolint:noctx // ctx is handled below: SIGINT first
	if path := lookPath(r.env, "make"); path != "" {
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Dir = t.dir
	cmd.Env = append(append([]string{}, r.env...),
		// Constant, so that only what was changed is compiled again and equal
		// sources give equal kernels. uname -v begins with the version.
		"KBUILD_BUILD_USER=kvmrun", "KBUILD_BUILD_HOST=kvmrun",
		"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
		"KBUILD_BUILD_VERSION="+version,
		"CCACHE_BASEDIR="+t.dir, "CCACHE_NOHASHDIR=1",
	)
	cmd.Stdout, cmd.Stderr = w, w
	// The lock must live as long as the last compiler does.
	cmd.ExtraFiles = []*os.File{t.lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("run make: %w", err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGINT)
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			killed = true
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		}
	})
	err = cmd.Wait()
	close(done)
	wg.Wait()
	// Nothing of the group may outlive make and write on.
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	if ctx.Err() != nil {
		return killed, ctx.Err()
	}
	return killed, err
}

var (
	compileRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:In file included from )?(.+?):(\d+)(?::(\d+))?: (?:fatal )?error: (.*)$`)
	})
	linkRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?:undefined reference to|multiple definition of|ld: error|ld\.lld: error|: relocation truncated)`)
	})
	otherRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:ERROR: |error: |Error: |.*\*\*\* |.*: [Ee]rror:|.*Kconfig:\d+: )`)
	})
	objectRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^  (?:CC|AS|HOSTCC|LDS|VDSO|RUSTC)(?: \[M\])?\s+\S+`)
	})
	fullRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`No space left on device`) })
)

// watcher reads make's output: it counts objects, finds the first error, and
// writes everything to the log.
type watcher struct {
	log  io.Writer
	trim string // prefix of paths not worth showing

	mu      sync.Mutex
	part    []byte
	objects int
	first   string
	rank    int // 3 compiler, 2 linker, 1 anything else
	context []string
	noSpace bool
	logErr  error
}

// maxPart bounds a line without end.
const maxPart = 64 << 10

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.log.Write(p); err != nil && w.logErr == nil {
		w.logErr = err // a full disk will stop make soon enough
		w.noSpace = w.noSpace || errors.Is(err, unix.ENOSPC)
	}
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			if len(w.part)+len(p) <= maxPart {
				w.part = append(w.part, p...)
			}
			return n, nil
		}
		w.line(string(append(w.part, p[:i]...)))
		w.part, p = w.part[:0], p[i+1:]
	}
}

func (w *watcher) line(l string) {
	if objectRE().MatchString(l) {
		w.objects++
		return
	}
	if fullRE().MatchString(l) {
		w.noSpace = true
	}
	rank := 0
	switch {
	case compileRE().MatchString(l):
		rank = 3
	case linkRE().MatchString(l):
		rank = 2
	case otherRE().MatchString(l):
		rank = 1
	}
	l = strings.ReplaceAll(l, w.trim, "")
	switch {
	case rank > w.rank:
		w.first, w.rank, w.context = l, rank, nil
	case w.rank > 0 && rank == 0 && len(w.context) < 6 && strings.HasPrefix(l, " "):
		w.context = append(w.context, l)
	}
}

func (w *watcher) counted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.objects
}

// failure makes a BuildError of what was seen.
func (w *watcher) failure(log string, err error) *BuildError {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &BuildError{First: w.first, Context: w.context, Log: log, NoSpace: w.noSpace, Err: err}
}

// report prints progress until stop is closed.
func (r *request) report(w *watcher, expected int, stop <-chan struct{}) {
	if r.Progress == nil {
		return
	}
	start := time.Now()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			r.say("%s", progressLine(w.counted(), expected, time.Since(start)))
		}
	}
}

func progressLine(done, expected int, elapsed time.Duration) string {
	of := ""
	if expected > 0 {
		of = fmt.Sprintf(" of about %d (%d%%)", max(expected, done), min(99, 100*done/expected))
	}
	return fmt.Sprintf("built %d%s objects in %s", done, of, elapsed.Round(time.Second))
}
