// SPDX-License-Identifier: Apache-2.0

package busybox

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // sh.go.in
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/shipped"
)

// The module that everything comes from. A test compares version and hash with
// this module's go.mod and go.sum.
const (
	urootPath    = "github.com/u-root/u-root"
	urootVersion = "v0.16.0"
	urootSum     = "h1:wY40O83MBVks97+Is0WlFlOPSwKQMIrWP9R1IsrExg8="
)

// makebb is gobusybox's command. Within u-root's module its version is the one
// of u-root's go.mod.
const makebb = "github.com/u-root/gobusybox/src/cmd/makebb"

// formatVersion changes whenever the same inputs are built in another way.
const formatVersion = "1"

// kind is the cache's name for what is built here.
const kind = "busybox"

// commands are the directories of u-root's cmds/core that are built: what a
// test or a person at a shell expects, without daemons, boot loaders and
// anything that would end the machine behind the agent's back.
var commands = []string{
	"base64", "basename", "blkid", "cat", "chmod", "chroot", "cmp", "comm", "cp", "cpio", "date", "dd", "df",
	"dirname", "dmesg", "du", "echo", "false", "find", "free", "gosh", "grep", "gzip", "head", "hexdump",
	"hostname", "id", "insmod", "ip", "kill", "ln", "losetup", "ls", "lsmod", "md5sum", "mkdir", "mkfifo",
	"mknod", "mktemp", "more", "mount", "mv", "netcat", "netstat", "nohup", "pidof", "ping", "printenv", "ps",
	"pwd", "readlink", "realpath", "rm", "rmmod", "seq", "shasum", "sleep", "sort", "strace", "strings", "stty",
	"sync", "tail", "tar", "tee", "time", "timeout", "touch", "tr", "true", "truncate", "tty", "umount", "uname",
	"uniq", "unshare", "uptime", "wc", "which", "xargs", "yes",
}

// shSource makes the program a POSIX shell where it is called "sh".
//
//go:embed sh.go.in
var shSource string

// Build returns the directory with the program and its list of commands for
// this machine's architecture, building it in the cache when it is missing.
// The options' progress gets a line before each step that takes long.
//
// What was installed with this program needs nothing to be built. Without that and
// without a Go toolchain it is content with any build in the cache, and fails
// otherwise.
func Build(ctx context.Context, o initramfs.Options) (string, error) {
	beside, err := shipped.Dir()
	if beside != "" {
		return filepath.Join(beside, shipped.Busybox), nil
	}
	if err != nil && o.Progress != nil {
		o.Progress(err.Error())
	}
	c, err := cache.OpenUser(o.CacheDir, o.Progress)
	if err != nil {
		return "", fmt.Errorf("build the guest's shell: %w", err)
	}
	return build(ctx, c, "go", o.Progress)
}

func build(ctx context.Context, c *cache.Cache, goCmd string, progress func(string)) (string, error) {
	if progress == nil {
		progress = func(string) {}
	}
	prefix := keyPrefix()
	bin, err := exec.LookPath(goCmd)
	if err != nil {
		if dir := anyBuild(c, prefix); dir != "" {
			return dir, nil
		}
		return "", fmt.Errorf("build the guest's shell: no Go toolchain: %w (install Go, https://go.dev/dl, and put it on PATH, or install kvmrun by make install, which brings them along)", err)
	}
	version, err := goVersion(ctx, bin)
	if err != nil {
		return "", fmt.Errorf("build the guest's shell: %w", err)
	}
	dir, _, err := c.Get(ctx, kind, prefix+cacheName(version), func(ctx context.Context, tmp string) error {
		progress("building the guest's shell and tools from u-root " + urootVersion + " (once; takes a minute or two)")
		return (&builder{goCmd: bin, progress: progress}).build(ctx, tmp)
	})
	if err != nil {
		return "", fmt.Errorf("build the guest's shell: %w", err)
	}
	return dir, nil
}

// keyPrefix is the part of the cache's key that does not depend on the
// toolchain.
func keyPrefix() string {
	inputs := sha256.Sum256([]byte(formatVersion + urootSum + shSource + strings.Join(commands, " ")))
	return fmt.Sprintf("uroot-%s-%s-%x-", urootVersion, runtime.GOARCH, inputs[:8])
}

// anyBuild finds a build of the same things by whatever toolchain.
func anyBuild(c *cache.Cache, prefix string) string {
	list, err := c.List()
	if err != nil {
		return ""
	}
	for i := len(list) - 1; i >= 0; i-- { // most recently used first
		if e := list[i]; e.Kind == kind && strings.HasPrefix(e.Key, prefix) {
			if dir, ok := c.Lookup(e.Kind, e.Key); ok {
				return dir
			}
		}
	}
	return ""
}

// cacheName replaces what a cache key cannot have.
func cacheName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._+~-", r) {
			return r
		}
		return '_'
	}, s)
}

// goVersion returns the toolchain's version. The file VERSION in GOROOT says it
// without running anything, which would take longer than all else on the way
// to a warm start.
func goVersion(ctx context.Context, bin string) (string, error) {
	if real, err := filepath.EvalSymlinks(bin); err == nil {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(real)), "VERSION"))
		if first, _, _ := strings.Cut(string(text), "\n"); err == nil && strings.HasPrefix(first, "go") {
			return strings.TrimSpace(first), nil
		}
	}
	b := &builder{goCmd: bin}
	out, err := b.run(ctx, command{name: bin, args: []string{"env", "GOVERSION"}})
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(out)), nil
}

// builder runs the go command.
type builder struct {
	goCmd    string
	progress func(string)
}

func (b *builder) build(ctx context.Context, tmp string) error {
	work, err := os.MkdirTemp(tmp, "work-") // its disk is the cache's
	if err != nil {
		return err
	}
	src, err := b.download(ctx, work)
	if err != nil {
		return err
	}
	// In u-root's module its go.mod and go.sum decide about everything.
	module := []string{"GO111MODULE=on", "GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED=0"}
	root, err := b.run(ctx, command{dir: src, env: module, name: b.goCmd, args: []string{"env", "GOROOT"}})
	if err != nil {
		return err
	}
	goroot := strings.TrimSpace(string(root))
	module = append(module, "GOROOT="+goroot)

	b.progress("building the guest's shell: gobusybox")
	generator := filepath.Join(work, "makebb")
	if _, err := b.run(ctx, command{dir: src, env: module, name: b.goCmd, args: []string{"build", "-o", generator, makebb}}); err != nil {
		return err
	}

	b.progress(fmt.Sprintf("building the guest's shell: sources of %d commands", len(commands)))
	gen := filepath.Join(work, "gen")
	args := []string{"-g", "-gen-dir", gen}
	for _, c := range commands {
		args = append(args, urootPath+"/cmds/core/"+c)
	}
	// GBB_PATH and UROOT_SOURCE would replace the pinned sources.
	env := append([]string{"GBB_PATH=", "UROOT_SOURCE=", "GBBDEBUG="}, module...)
	if _, err := b.run(ctx, command{dir: src, env: env, name: generator, args: args}); err != nil {
		return err
	}
	main := filepath.Join(gen, "src/bb.u-root.com/bb")
	if err := os.WriteFile(filepath.Join(main, "sh.go"), []byte(shSource), 0o600); err != nil {
		return err
	}

	b.progress("building the guest's shell: compiling")
	// gobusybox's sources are laid out for GOPATH. -trimpath and an empty build
	// ID make the result the same everywhere.
	env = []string{"GO111MODULE=off", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOPATH=" + gen, "GOROOT=" + goroot, "GOTOOLCHAIN=local"}
	bb := filepath.Join(tmp, initramfs.BusyboxBinary)
	if _, err := b.run(ctx, command{dir: main, env: env, name: filepath.Join(goroot, "bin/go"), args: []string{"build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", bb, "."}}); err != nil {
		return err
	}
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tmp, initramfs.BusyboxList), []byte(strings.Join(commands, "\n")+"\n"), 0o600)
}

// download fetches u-root's module, unless it is in the module cache, and
// returns its directory there.
func (b *builder) download(ctx context.Context, work string) (string, error) {
	// Outside any module, so that nobody's go.mod has a say.
	out, err := b.run(ctx, command{
		dir:  work,
		env:  []string{"GO111MODULE=on", "GOFLAGS=", "GOWORK=off"},
		name: b.goCmd, args: []string{"mod", "download", "-json", urootPath + "@" + urootVersion},
	})
	var m struct{ Dir, Sum, Error string }
	if jerr := json.Unmarshal(out, &m); jerr != nil && err == nil {
		err = fmt.Errorf("go mod download: %w", jerr)
	}
	switch {
	case m.Error != "":
		return "", fmt.Errorf("fetch %s@%s: %s (the module proxy must be reachable: see go help goproxy)", urootPath, urootVersion, m.Error)
	case err != nil:
		return "", err
	case m.Sum != urootSum:
		return "", fmt.Errorf("fetch %s@%s: its hash is %s, not %s: refusing to use it", urootPath, urootVersion, m.Sum, urootSum)
	}
	return m.Dir, nil
}

type command struct {
	dir  string
	env  []string // in addition to, or replacing, the process's own
	name string
	args []string
}

// maxOutput bounds what an error message quotes.
const maxOutput = 4 << 10

func (b *builder) run(ctx context.Context, c command) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.name, c.args...)
	cmd.Dir = c.dir
	cmd.Env = append(cmd.Environ(), c.env...)
	// The go command runs compilers: all of them must end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// Pdeathsig goes by the thread that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		return stdout.Bytes(), context.Cause(ctx)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return stdout.Bytes(), fmt.Errorf("run %s: %w", c.name, err)
	}
	text := append(bytes.TrimSpace(stdout.Bytes()), '\n')
	text = bytes.TrimSpace(append(text, stderr.Bytes()...))
	if len(text) > maxOutput {
		text = append([]byte("..."), text[len(text)-maxOutput:]...)
	}
	return stdout.Bytes(), fmt.Errorf("run %s %s: %w: %s", filepath.Base(c.name), c.args[0], err, text)
}
