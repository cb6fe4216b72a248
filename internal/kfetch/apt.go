// SPDX-License-Identifier: Apache-2.0

package kfetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pkg is one version of a package as apt's lists describe it
// (deb-control(5)).
type pkg struct {
	name, version, arch string
	bytes               int64 // of the package file
	depends             string
}

// file is a name for the package's content: a package version is never
// published twice with different content.
func (p pkg) file() string {
	return p.name + "_" + strings.ReplaceAll(p.version, ":", "+") + "_" + p.arch
}

// apt runs the machine's package tools.
type apt struct {
	config string // APT_CONFIG, or "" for the machine's own
}

// killDelay is how long a tool may take to end after it was told to, before
// its output is given up.
const killDelay = 5 * time.Second

// run runs a tool in dir and returns what it printed to stdout.
func (a apt) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	// LC_ALL: messages are looked at, see explain.
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if a.config != "" {
		cmd.Env = append(cmd.Env, "APT_CONFIG="+a.config)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// apt starts helpers for its transports, dpkg-deb one for unpacking: all of
	// them end with the context, and with this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &toolError{name: name, args: args, stderr: stderr.String(), err: err}
	}
	return stdout.Bytes(), nil
}

// toolError is a tool that failed.
type toolError struct {
	name   string
	args   []string
	stderr string
	err    error
}

// maxShown bounds the lines of a tool's messages in an error.
const maxShown = 4

func (e *toolError) Error() string {
	var shown []string
	for line := range strings.SplitSeq(e.stderr, "\n") {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "E: "); ok && len(shown) < maxShown {
			shown = append(shown, rest)
		}
	}
	if len(shown) == 0 {
		lines := strings.Split(strings.TrimSpace(e.stderr), "\n")
		shown = lines[max(0, len(lines)-maxShown):]
	}
	return fmt.Sprintf("%s: %v: %s", e.name, e.err, strings.Join(shown, "; "))
}

// Unwrap finds a full disk in the tool's messages, so that package cache can
// name the cure.
func (e *toolError) Unwrap() []error {
	if strings.Contains(e.stderr, syscall.ENOSPC.Error()) || strings.Contains(e.stderr, "No space left on device") {
		return []error{e.err, syscall.ENOSPC}
	}
	return []error{e.err}
}

// missing returns the names of the tools that are not installed.
func (a apt) missing() []string {
	var names []string
	for _, name := range []string{"apt-cache", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(name); err != nil {
			names = append(names, name)
		}
	}
	return names
}

// search returns the versions of all packages whose names match, in no order.
func (a apt) search(ctx context.Context, prefix string, name *regexp.Regexp) ([]pkg, error) {
	out, err := a.run(ctx, "", "apt-cache", "pkgnames", prefix)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); name.MatchString(line) {
			names = append(names, line)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	// pkgnames also lists names that only occur in other packages' relations.
	// show fails when all names are such, and prints what it has otherwise.
	out, err = a.run(ctx, "", "apt-cache", append([]string{"show", "--"}, names...)...)
	var te *toolError
	if errors.As(err, &te) && strings.Contains(te.stderr, "No packages found") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []pkg
	for _, p := range parsePackages(string(out)) {
		// A version that is only installed cannot be downloaded: it has no
		// Filename, which leaves bytes at 0.
		if name.MatchString(p.name) && p.bytes > 0 {
			found = append(found, p)
		}
	}
	return found, nil
}

// parsePackages reads paragraphs of fields as apt-cache show prints them.
func parsePackages(text string) []pkg {
	var list []pkg
	seen := map[pkg]bool{}
	for para := range strings.SplitSeq(text, "\n\n") {
		var p pkg
		var size int64
		file := false
		for line := range strings.SplitSeq(para, "\n") {
			field, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch field {
			case "Package":
				p.name = value
			case "Version":
				p.version = value
			case "Architecture":
				p.arch = value
			case "Depends":
				p.depends = value
			case "Filename":
				file = true
			case "Size":
				size, _ = strconv.ParseInt(value, 10, 64)
			}
		}
		if file {
			p.bytes = size
		}
		if p.name != "" && p.version != "" && !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	return list
}

// download gets the package files into dir, which must be empty, and returns
// their paths. progress is called with the bytes that have arrived.
func (a apt) download(ctx context.Context, dir string, pkgs []pkg, progress func(done int64)) ([]string, error) {
	args := []string{
		"download", "-q",
		// Even if the machine's configuration allows it.
		"-o", "APT::Get::AllowUnauthenticated=false",
		"-o", "Acquire::AllowWeakRepositories=false",
		"-o", "Acquire::Retries=2",
		"--",
	}
	for _, p := range pkgs {
		args = append(args, p.name+":"+p.arch+"="+p.version)
	}
	stop := watch(dir, progress)
	_, err := a.run(ctx, dir, "apt-get", args...)
	stop()
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	if len(paths) != len(pkgs) {
		return nil, fmt.Errorf("apt-get download: %d files for %d packages", len(paths), len(pkgs))
	}
	return paths, nil
}

// watchPeriod is how often a download's size is looked at.
const watchPeriod = 200 * time.Millisecond

// watch reports the size of the files in dir until the returned function is
// called, which reports a last time and waits for the end.
func watch(dir string, progress func(done int64)) (stop func()) {
	if progress == nil {
		return func() {}
	}
	report := func() {
		var sum int64
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
				sum += fi.Size()
			}
		}
		progress(sum)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(watchPeriod)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				report()
			case <-done:
				report()
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// unpack unpacks a package file into dir.
func (a apt) unpack(ctx context.Context, file, dir string) error {
	_, err := a.run(ctx, "", "dpkg-deb", "-x", file, dir)
	return err
}

// untar unpacks a compressed source archive into dir, without its topmost
// directory.
func (a apt) untar(ctx context.Context, file, dir string) error {
	tool := map[string]string{".xz": "xz", ".bz2": "bzip2", ".gz": "gzip", ".zst": "zstd"}[filepath.Ext(file)]
	if tool != "" {
		if _, err := exec.LookPath(tool); err != nil {
			names := map[string]string{"xz": "xz-utils"}
			name := names[tool]
			if name == "" {
				name = tool
			}
			return fmt.Errorf("%s is not installed (try: apt-get install %s)", tool, name)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// -o: files of root stay the user's, also when that is root.
	_, err := a.run(ctx, "", "tar", "-x", "-o", "-f", file, "-C", dir, "--strip-components=1")
	return err
}
