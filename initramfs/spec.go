// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/kimage"
	"github.com/kvmrun/kvmrun/suites"
)

// Spec says what goes into an archive. Only Init is required.
type Spec struct {
	// Init is the host path of the program that becomes /init, static or
	// dynamic.
	Init string
	// Arch is the guest's architecture as Go names it (amd64, arm64). Programs
	// of another one are an error. Empty means the host's.
	Arch string
	// Files are put into the guest; ELF files with their interpreter and
	// shared libraries. They replace files that Build makes by itself (below
	// /etc); two different ones for one guest path are an error.
	Files []File
	// Dirs are directories to make (mode 0755), absolute guest paths.
	Dirs []string
	// Symlinks maps absolute guest paths to the links' targets.
	Symlinks map[string]string
	// Kernel is the kernel's file (a bzImage or vmlinux), from which Release and
	// ModulesDir are found where they are empty: lib/modules/RELEASE beside the
	// kernel, as in an unpacked package, or in /lib/modules.
	Kernel string
	// ModulesDir is the host's lib/modules/RELEASE of the guest's kernel. Where
	// there is none all Modules count as built in.
	ModulesDir string
	// Modules are loaded by the agent, in this order, each after what it
	// depends on; names or aliases as modprobe takes them, or paths of module
	// files on the host (IsModuleFile). Built-in ones are left out. The drivers of the agent's own ports need not be listed.
	Modules []string
	// Release is the kernel's release (uname -r). A ModulesDir of another
	// release is an error. Empty means unknown.
	Release string
	// Busybox is the directory that package busybox made: its commands are put
	// on the guest's PATH, and its shell at /bin/sh. Empty means none.
	Busybox string
	// Config is the kernel's .config, for suites.GuestConfigFile. Nil means
	// unknown.
	Config []byte
}

// File is one file of the guest.
type File struct {
	// Host is the file's path on the host; symbolic links are followed. When
	// it is empty the content is Data.
	Host string
	Data []byte
	// Guest is the absolute path in the guest. Empty means the path Host.
	Guest string
	// Runs says that the file is to be executed: an ELF file that the guest
	// cannot run is then an error, otherwise data like any other.
	Runs bool
	// Mode is the file's permission bits, set-user-ID and so on included. Zero
	// means those of Host, or 0644 for Data.
	Mode fs.FileMode
}

// ModulesFile lists what the agent has to load, one absolute guest path a line,
// in order. A line that begins with '?' names a soft dependency
// (modprobe.d(5)): that it cannot be loaded is no fault.
const ModulesFile = "/etc/kvmrun/modules"

// BusyboxList is the file in Busybox's directory that lists the commands' names, one a
// line; BusyboxBinary the program itself.
const (
	BusyboxList   = "commands"
	BusyboxBinary = "bb"
)

// agentModules are the drivers without which the agent cannot talk to the
// host: on some stock kernels (Debian's 6.1) they are modules.
var agentModules = []string{"virtio_pci", "virtio_console"}

// archiveName is the archive's name in its cache entry.
const archiveName = "initramfs.cpio"

// formatVersion changes whenever the same table of contents would be written
// in another way.
const formatVersion = "kvmrun initramfs 1"

// Options say how an archive is made, not what is in it. The zero value will do.
type Options struct {
	// CacheDir is kvmrun's cache directory, which is made when it is missing. Empty
	// means the user's, $XDG_CACHE_HOME/kvmrun.
	CacheDir string
	// Progress, when not nil, is called with one line before anything that takes
	// long, and about damaged entries of the cache.
	Progress func(line string)
}

// Build returns the path of the archive for s, making it when the cache has none.
// Archives are bounded in number: a file that a machine has been started with may be
// removed an hour later.
//
// Each unusable input is an error that names it; when there are several, all of
// them are reported (errors.Join).
func Build(ctx context.Context, s Spec, o Options) (string, error) {
	c, progress, err := o.open()
	if err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	if s.Init == "" {
		return "", errors.New("build initramfs: no init program given")
	}
	t, err := plan(ctx, s, c, progress)
	if err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	dir, hit, err := c.Get(ctx, "initramfs", t.hash(), func(ctx context.Context, tmp string) error {
		return t.writeFile(ctx, filepath.Join(tmp, archiveName))
	})
	if err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	if !hit {
		c.Trim("initramfs", keepArchives, keepFor)
	}
	return filepath.Join(dir, archiveName), nil
}

// Hash returns a name for the content of the archive that Build would make for s, in
// hexadecimal digits, without making it. Init may be empty: what is in the archive
// because of it does not count then.
//
// Errors are those of Build.
func Hash(ctx context.Context, s Spec, o Options) (string, error) {
	c, progress, err := o.open()
	if err != nil {
		return "", fmt.Errorf("hash initramfs: %w", err)
	}
	t, err := plan(ctx, s, c, progress)
	if err != nil {
		return "", fmt.Errorf("hash initramfs: %w", err)
	}
	return t.hash(), nil
}

// Overlay writes an archive, of the same format as Build's, of what a machine that
// was booted with Build's archive for base lacks or has otherwise than one for s.
// Unpacked there it makes the files the same, but for those that only base has. It
// returns the number of bytes.
//
// With an empty Init of s the machine keeps its own. With an empty one of base, that of
// s is always written: which base has is not known.
//
// Errors are those of Build, and those of w.
func Overlay(ctx context.Context, w io.Writer, s, base Spec, o Options) (int64, error) {
	c, progress, err := o.open()
	if err != nil {
		return 0, fmt.Errorf("make overlay of an initramfs: %w", err)
	}
	t, err := plan(ctx, s, c, progress)
	if err != nil {
		return 0, fmt.Errorf("make overlay of an initramfs: %w", err)
	}
	b, err := plan(ctx, base, c, progress)
	if err != nil {
		return 0, fmt.Errorf("make overlay of an initramfs: its base: %w", err)
	}
	t.paths() // adds parents
	for _, p := range b.paths() {
		if n := t.nodes[p]; n != nil && n.same(b.nodes[p]) {
			delete(t.nodes, p)
		}
	}
	n, err := t.write(ctx, w, slices.Sorted(maps.Keys(t.nodes)))
	if err != nil {
		return n, fmt.Errorf("make overlay of an initramfs: %w", err)
	}
	return n, nil
}

// open returns the cache, and a Progress that is not nil.
func (o Options) open() (*cache.Cache, func(string), error) {
	progress := o.Progress
	if progress == nil {
		progress = func(string) {}
	}
	c, err := cache.OpenUser(o.CacheDir, progress)
	return c, progress, err
}

// Every change of a test binary makes another archive, of 10 to 30 MB. These
// are as many as the kernels, suites and branches that somebody works with
// within some days; one that a running VM was given is a few minutes old.
const (
	keepArchives = 50
	keepFor      = time.Hour
)

// plan resolves s into a tree.
func plan(ctx context.Context, s Spec, c *cache.Cache, progress func(string)) (*tree, error) {
	if s.Arch == "" {
		s.Arch = runtime.GOARCH
	}
	machine, err := machineOf(s.Arch)
	if err != nil {
		return nil, err
	}
	if s.Kernel != "" {
		if err := s.fromKernel(ctx, c); err != nil {
			return nil, err
		}
	}
	t := newTree(c)
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}

	for _, d := range s.Dirs {
		add(t.dir(d, 0o755))
	}
	for _, guest := range sortedKeys(s.Symlinks) {
		add(t.symlink(guest, s.Symlinks[guest], fmt.Sprintf("symlink to %s", s.Symlinks[guest])))
	}
	if s.Config != nil {
		add(t.data(suites.GuestConfigFile, s.Config, 0o644, "kernel configuration"))
	}

	libs := newLibraries(machine, s.Arch)
	if s.Init != "" {
		if err := t.hostFile("/init", s.Init, 0o755); err != nil {
			add(fmt.Errorf("init: %w", err))
		} else {
			add(libs.needInit(s.Init))
		}
	}
	for _, f := range s.Files {
		guest := f.Guest
		if guest == "" {
			guest = f.Host
		}
		if f.Host == "" {
			if f.Guest == "" {
				add(errors.New("file without host and guest path"))
				continue
			}
			mode := f.Mode
			if mode == 0 {
				mode = 0o644
			}
			add(t.data(guest, f.Data, mode, "given content"))
			continue
		}
		if err := t.hostFile(guest, f.Host, f.Mode); err != nil {
			add(err)
			continue
		}
		add(libs.need(f.Host, guest, f.Runs))
	}
	if s.Busybox != "" {
		add(addBusybox(t, s.Busybox))
	}
	add(addModules(ctx, t, s, progress))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	// Everything below gives way to what was asked for.
	libs.addTo(t)
	addDefaults(t)
	if err := errors.Join(t.err(), t.check(t.paths())); err != nil {
		return nil, err
	}
	return t, nil
}

// fromKernel fills in what the kernel's file says.
func (s *Spec) fromKernel(ctx context.Context, c *cache.Cache) error {
	img, err := kimage.Open(s.Kernel)
	if err != nil {
		return err
	}
	if s.ModulesDir, err = img.ModulesDir(ctx, c, s.ModulesDir); err != nil {
		return err
	}
	if s.Release == "" {
		s.Release, err = img.Release(ctx, c)
	}
	return err
}

// addDefaults adds what every guest has.
func addDefaults(t *tree) {
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		t.ownSymlink("/"+d, "usr/"+d)
		t.ownDir("/usr/"+d, 0o755)
	}
	for _, d := range []string{"/dev", "/etc", "/mnt", "/proc", "/run", "/sys", "/var", "/var/log"} {
		t.ownDir(d, 0o755)
	}
	t.ownDir("/root", 0o700)
	t.ownDir("/tmp", 0o777|fs.ModeSticky)
	t.ownSymlink("/var/run", "../run")
	t.ownSymlink("/var/tmp", "../tmp")
	t.ownSymlink("/etc/mtab", "../proc/self/mounts")

	t.ownData("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	t.ownData("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")
	t.ownData("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n")
	t.ownData("/etc/hosts", "127.0.0.1 localhost kvmrun\n::1 localhost\n")
	t.ownData("/etc/hostname", "kvmrun\n")

	// The kernel opens /dev/console for init before anything is mounted
	// (init/main.c: console_on_rootfs); the others serve kernels without
	// devtmpfs. Numbers: Documentation/admin-guide/devices.txt.
	t.device("/dev/console", 0o600, 5, 1)
	t.device("/dev/tty", 0o666, 5, 0)
	t.device("/dev/ptmx", 0o666, 5, 2)
	t.device("/dev/null", 0o666, 1, 3)
	t.device("/dev/zero", 0o666, 1, 5)
	t.device("/dev/full", 0o666, 1, 7)
	t.device("/dev/random", 0o666, 1, 8)
	t.device("/dev/urandom", 0o666, 1, 9)
	t.device("/dev/kmsg", 0o644, 1, 11)
}

// addBusybox adds the shell and its tools.
func addBusybox(t *tree, dir string) error {
	list, err := readSmall(filepath.Join(dir, BusyboxList))
	if err != nil {
		return fmt.Errorf("read busybox command list: %w", err)
	}
	if err := t.hostFile("/usr/bin/bb", filepath.Join(dir, BusyboxBinary), 0o755); err != nil {
		return fmt.Errorf("busybox: %w", err)
	}
	for _, name := range append(strings.Fields(string(list)), "sh") {
		t.ownSymlink("/usr/bin/"+name, "bb")
	}
	return nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
