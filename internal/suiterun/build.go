// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/internal/shipped"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/internal/words"
)

// Describe asks a test binary what it is.
func Describe(ctx context.Context, binary string) (Suite, error) {
	s := Suite{Binary: binary}
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = append(os.Environ(), wire.DescribeEnv+"=1")
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err == nil {
		err = s.Spec.Validate()
	}
	if err != nil {
		return s, fmt.Errorf("ask %s for its suite: %w; is it a test binary whose TestMain calls testmain.Run?", binary, err)
	}
	return s, nil
}

// Source finds Go packages with suites and builds their test binaries once.
type Source struct {
	Dir string // a directory of the module
	// Shipped has the test binaries of suites that were installed with this
	// program, for what the module has not; empty for none.
	Shipped string
}

// FindSource looks for the module of dir, upwards, and for the suites that were
// installed with this program. One of both will do.
func FindSource(dir string) (Source, error) {
	s := Source{}
	beside, stale := shipped.Dir()
	if beside != "" {
		s.Shipped = filepath.Join(beside, shipped.Suites)
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			s.Dir = d
			return s, nil
		}
		if d == filepath.Dir(d) {
			if s.Shipped != "" {
				return s, nil
			}
			err := fmt.Errorf("find the suites' source: no go.mod in %s or above; run in a checkout of kvmrun, install kvmrun with its suites (make install), or name test binaries: -suite ./ext4.test", dir)
			return s, errors.Join(err, stale)
		}
	}
}

// Names returns the module's suites: the directories below suites/ that have
// tests.
//
// Without any, they are those that were installed with this program.
func (s Source) Names() ([]string, error) {
	var files []string
	if s.Dir != "" {
		files, _ = filepath.Glob(filepath.Join(s.Dir, "suites", "*", "main_test.go"))
	}
	if len(files) == 0 && s.Shipped != "" {
		tests, _ := filepath.Glob(filepath.Join(s.Shipped, "*.test")) // sorted
		var out []string
		for _, t := range tests {
			out = append(out, strings.TrimSuffix(filepath.Base(t), ".test"))
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("find suites: no suites/*/main_test.go in %s", s.Dir)
	}
	var out []string
	for _, f := range files {
		out = append(out, filepath.Base(filepath.Dir(f)))
	}
	sort.Strings(out)
	return out, nil
}

// has says whether the module has the suite's source.
func (s Source) has(name string) bool {
	return s.Dir != "" && isFile(filepath.Join(s.Dir, "suites", name, "main_test.go"))
}

// Suites builds (when the source has changed) and describes suites, given by
// name, as "./package/dir", or as a test binary's path.
func (m Runner) Suites(ctx context.Context, src Source, names []string) ([]Suite, error) {
	var pkgs []string
	out := make([]Suite, len(names))
	for i, n := range names {
		if isFile(n) {
			abs, err := filepath.Abs(n)
			if err != nil {
				return nil, err
			}
			out[i].Binary = abs
			continue
		}
		if !strings.HasPrefix(n, ".") && !filepath.IsAbs(n) {
			known, err := src.Names()
			if err != nil {
				return nil, err
			}
			if !contains(known, n) {
				return nil, fmt.Errorf("no suite %q; there are: %s%s", n, strings.Join(known, ", "), words.Nearest(n, known))
			}
			if !src.has(n) {
				out[i].Binary = filepath.Join(src.Shipped, n+".test")
				continue
			}
			n = "./suites/" + n
		}
		pkgs = append(pkgs, n)
		out[i].Binary = filepath.Base(n) + ".test"
	}
	dir := ""
	if len(pkgs) > 0 {
		var err error
		if dir, err = m.buildTests(ctx, src, pkgs); err != nil {
			return nil, err
		}
	}
	errs := make([]error, len(out))
	var wg sync.WaitGroup
	for i := range out {
		if !filepath.IsAbs(out[i].Binary) {
			out[i].Binary = filepath.Join(dir, out[i].Binary)
		}
		wg.Go(func() {
			out[i], errs[i] = Describe(ctx, out[i].Binary)
			if out[i].Given = names[i]; isFile(names[i]) {
				out[i].Given = out[i].Binary
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func isFile(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular()
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// buildTests compiles test binaries into the cache. The entry's key is made of
// the names, sizes and times of the module's files, so that an unchanged tree
// costs a few milliseconds; what really changed is go's own cache's business.
func (m Runner) buildTests(ctx context.Context, src Source, pkgs []string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), src.Dir, pkgs, os.Getenv("CGO_ENABLED"), os.Getenv("GOFLAGS"))
	err := filepath.WalkDir(src.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); p != src.Dir && (strings.HasPrefix(n, ".") || n == "testdata" || n == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		i, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			fmt.Fprintln(h, p, i.Size(), i.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("look at the suites' source: %w", err)
	}
	dir, hit, err := m.Cache.Get(ctx, "suites", fmt.Sprintf("%x", h.Sum(nil)[:16]), func(ctx context.Context, tmp string) error {
		m.Say("compiling %s", strings.Join(pkgs, " "))
		cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-c",
			// As go test links what it runs itself: without symbols, which
			// stack traces do not need and the guest would have to unpack.
			"-ldflags=-s -w", "-o", tmp + "/"}, pkgs...)...)
		cmd.Dir = src.Dir
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		// The go command runs compilers: all of them must end with it, and it
		// with us.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		// Pdeathsig goes by the thread that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Run(); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("compile the suites: %w", context.Cause(ctx))
			}
			if errors.Is(err, exec.ErrNotFound) {
				return errors.New("compile the suites: no go command in PATH; install Go, or name test binaries: -suite ./ext4.test")
			}
			if bytes.Contains(out.Bytes(), []byte(syscall.ENOSPC.Error())) {
				err = errors.Join(err, syscall.ENOSPC) // nothing is wrong with the suites
			}
			return fmt.Errorf("compile the suites: %w\n%s", err, out.Bytes())
		}
		return nil
	})
	if err == nil && !hit {
		// Every change of the source leaves one behind, and go's own cache
		// makes an old one again in seconds.
		m.Cache.Trim("suites", 10, time.Hour)
	}
	return dir, err
}
