// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/initramfs/busybox"
	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

// machine is a booted guest whose /init is this test binary.
type machine struct {
	*client
	vm      *vmtest.VM
	console string
}

func boot(t testing.TB, s initramfs.Spec, c vmtest.Config) *machine {
	t.Helper()
	m := start(t, s, c)
	p := m.vm.Port
	m.client = newClient(t, p(wire.PortControl), p(wire.PortStdin), p(wire.PortStdout), p(wire.PortStderr), func() string {
		return m.vm.Wait().String()
	})
	return m
}

// filesDisk is a disk for wire.Run.Files, of 1 GiB as every one in these tests.
func filesDisk(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, f.Close()) })
	assert.NilError(t, f.Truncate(1<<30))
	return f
}

// TestVMFiles gives a machine its program after the freeze.
func TestVMFiles(t *testing.T) {
	base := initramfs.Spec{ModulesDir: modulesDir(t), Modules: []string{"virtio_blk"}, Files: []initramfs.File{
		{Data: []byte("of the boot"), Guest: "/etc/replaced"}, {Data: []byte("stays"), Guest: "/etc/stays"},
	}}
	disk := func(f *os.File) []vmtest.Disk {
		return []vmtest.Disk{{File: f, Serial: wire.FilesDisk, ReadOnly: true}}
	}
	m := boot(t, base, vmtest.Config{Freezable: true, Disks: disk(filesDisk(t))})
	assert.NilError(t, m.w.Send(wire.Message{Freeze: &wire.Freeze{}}))
	assert.Assert(t, m.next(t).Frozen != nil)
	tmpl, err := m.vm.Freeze(context.Background())
	assert.NilError(t, err)
	defer func() { assert.NilError(t, tmpl.Close()) }()
	for i, modules := range [][]string{{"virtio_blk"}, {"virtio_blk", "dm-verity"}} {
		s := base
		s.Init, s.Modules = self, modules
		program := fmt.Sprintf("/tmp/below/program-%d", i)
		replaced := fmt.Sprintf("of fork %d", i)
		s.Files = []initramfs.File{
			{Host: self, Guest: program, Runs: true}, {Data: []byte(replaced), Guest: "/etc/replaced"}, base.Files[1],
		}
		f := filesDisk(t)
		n, err := initramfs.Overlay(context.Background(), f, s, withInit(base), initramfs.Options{CacheDir: openCache(t).Root()})
		assert.NilError(t, err)
		console := filepath.Join(t.TempDir(), "console.log")
		vm, err := vmtest.Fork(context.Background(), tmpl, vmtest.ForkConfig{ConsoleFile: console, Disks: disk(f)})
		assert.NilError(t, err)
		c := connect(vm.Port(wire.PortControl), vm.Port(wire.PortStdin), vm.Port(wire.PortStdout), vm.Port(wire.PortStderr), func() string {
			return vm.Wait().String()
		})
		assert.NilError(t, c.w.Send(wire.Message{Thaw: &wire.Thaw{UnixNS: time.Now().UnixNano(), Seed: make([]byte, wire.SeedSize)}}))
		show := func(file string) string {
			r := wire.Run{Argv: []string{program, file}, Env: []string{helperEnv + "=show"}, Files: n}
			n = 0 // from now on they are there
			res := c.run(t, r)
			assert.Equal(t, res.exited.Code, 0, "%+v %s", res.exited, res.err)
			assert.Equal(t, len(res.done.Warnings), 0, "%q", res.done.Warnings)
			return res.out
		}
		assert.Equal(t, show("/etc/replaced"), replaced)
		assert.Equal(t, show("/etc/stays"), "stays")
		assert.Equal(t, strings.Contains(show("/proc/modules"), "dm_verity "), i == 1)
		// As in a machine that was booted with it: no tmpfs hides the program.
		res := c.run(t, wire.Run{Argv: []string{program}, Env: []string{helperEnv + "=mounts"}})
		assert.Assert(t, !strings.Contains(res.out, " /tmp "), res.out)
		assert.NilError(t, vm.Close())
		c.copied.Wait()
	}
}

// withInit is the Spec as start boots it.
func withInit(s initramfs.Spec) initramfs.Spec {
	s.Init = self
	return s
}

// start boots without waiting for the agent.
func start(t testing.TB, s initramfs.Spec, c vmtest.Config) *machine {
	t.Helper()
	if c.Kernel == "" {
		c.Kernel = kernel(t)
	}
	if s.Init == "" {
		exe, err := os.Executable()
		assert.NilError(t, err)
		s.Init = exe
	}
	if dirs := modulesDirs(t); s.ModulesDir == "" && len(dirs) == 1 {
		s.ModulesDir = dirs[0] // the ports' driver may be a module
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	var err error
	c.Initrd, err = initramfs.Build(ctx, s, initramfs.Options{CacheDir: openCache(t).Root(), Progress: func(l string) { t.Log(l) }})
	assert.NilError(t, err)
	if c.Ports == nil {
		c.Ports = wire.Ports
	}
	c.ConsoleFile = filepath.Join(t.TempDir(), "console.log")
	c.Accel = vmtest.AccelTCG
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 768
	}
	vm, err := vmtest.Start(ctx, c)
	assert.NilError(t, err)
	m := &machine{vm: vm, console: c.ConsoleFile}
	t.Cleanup(func() {
		assert.NilError(t, vm.Close())
		if m.client != nil {
			m.copied.Wait()
		}
		if t.Failed() {
			t.Logf("kernel log:\n%s", m.log(t))
		}
	})
	return m
}

// shutdown powers off and checks that the machine did.
func (m *machine) shutdown(t testing.TB) {
	t.Helper()
	assert.NilError(t, m.w.Send(wire.Message{Shutdown: &wire.Shutdown{}}))
	exit := m.vm.Wait()
	assert.Equal(t, exit.Cause, vmtest.PowerOff, "%+v", exit)
}

func (m *machine) log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(m.console)
	assert.NilError(t, err)
	return string(b)
}

// machineCases need a machine of their own.
var machineCases = []agentCase{
	{"Set up", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("machine"))
		assert.Equal(t, res.out, "host=kvmrun\nfiles=524288\nlo=<nil>\ndevkmsg=on\nlevel=8\nshm=<nil>\n")
		res = c.run(t, helperRun("mounts"))
		for _, m := range append(earlyMounts, otherMounts...) {
			assert.Assert(t, cmp.Contains(res.out, " "+m.target+" "+m.fstype+" "))
		}
	}},
	{"No descriptors inherited", func(t *testing.T, c *client) {
		out := c.run(t, helperRun("info")).out
		// 3 and 4 are where Go's runtime reads its CPU limit.
		_, fds, _ := strings.Cut(out, "fds=")
		fds, _, _ = strings.Cut(fds, "\n")
		for _, f := range strings.Fields(fds) {
			assert.Assert(t, f == "0=/dev/null" || f == "1=pipe" || f == "2=pipe" || strings.Contains(f, "=/sys/fs/cgroup/"), fds)
		}
	}},
	{"Mounts and processes are cleared away", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("mount", "/tmp/a", "/tmp/b c", "/tmp/a/d", "/mnt"))
		assert.Equal(t, res.out, "")
		assert.Equal(t, len(res.done.Warnings), 0, "%q", res.done.Warnings)
		res = c.run(t, helperRun("mounts"))
		assert.Assert(t, !strings.Contains(res.out, "/tmp/") && !strings.Contains(res.out, "/mnt"), res.out)
	}},
	{"Ports are the agent's", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("ports"))
		assert.Equal(t, strings.Count(res.out, "device or resource busy"), len(wire.Ports), res.out)
		assert.Equal(t, strings.Count(res.out, "\n"), len(wire.Ports))
	}},
	{"Signals to init", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("killinit"))
		assert.Equal(t, res.out, "")
		res = c.run(t, helperRun("print", "still there"))
		assert.Equal(t, res.out, "still there\n")
	}},
	{"A quiet console", func(t *testing.T, c *client) {
		assert.Equal(t, c.run(t, helperRun("quiet")).out, "")
	}},
	{"False marks in the kernel log", func(t *testing.T, c *client) {
		res := c.run(t, helperRun("kmsg", "kvmrun: end nonce-0", strings.Repeat("long", 200), "\x01\x1b[2J", "<0>"+wire.FatalMark+"not really"))
		assert.Equal(t, res.out, "")
		assert.Equal(t, res.exited.Code, 0)
	}},
}

// TestVMAgent runs all cases in one machine, one program after the other.
func TestVMAgent(t *testing.T) {
	m := boot(t, initramfs.Spec{}, vmtest.Config{})
	t.Logf("ready: %+v", m.ready)
	assert.Equal(t, m.ready.Version, wire.Version)
	assert.Equal(t, len(m.ready.Warnings), 0, "%q", m.ready.Warnings)
	for _, test := range slices.Concat(machineCases, agentCases, holdCases) {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, m.client) }) {
			t.Fatal("the machine's state is not known after a failure")
		}
	}
	m.shutdown(t)
	log := m.log(t)
	for i, nonce := range m.nonces {
		_, after, found := strings.Cut(log, wire.EndMark(nonce+"\r\n"))
		assert.Assert(t, found, "run %d", i+1)
		log = after
	}
}

// TestVMOneProcessor: blocking reads must not keep the agent from the rest.
func TestVMOneProcessor(t *testing.T) {
	m := boot(t, initramfs.Spec{}, vmtest.Config{CPUs: 1})
	for _, test := range agentCases {
		switch test.name {
		case "Streams are apart", "Signals", "Much output", "Input that nobody reads", "Outlived by a flood", "Terminal input":
			t.Run(test.name, func(t *testing.T) { test.run(t, m.client) })
		}
	}
	m.shutdown(t)
}

func TestVMHostGone(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("busy=%v", busy), func(t *testing.T) {
			m := boot(t, initramfs.Spec{}, vmtest.Config{})
			if busy {
				m.start(t, helperRun("block"))
				m.waitFor(t, "ready\n")
			}
			assert.NilError(t, m.vm.Port(wire.PortControl).Close())
			assert.Equal(t, m.vm.Wait().Cause, vmtest.PowerOff)
		})
	}
}

func TestVMWithoutPorts(t *testing.T) {
	for _, names := range [][]string{{}, {wire.PortControl, "other"}} {
		t.Run(strings.Join(names, " "), func(t *testing.T) {
			m := start(t, initramfs.Spec{}, vmtest.Config{Ports: names})
			assert.Equal(t, m.vm.Wait().Cause, vmtest.PowerOff)
			log := m.log(t)
			_, last, ok := strings.Cut(log, wire.FatalMark)
			assert.Assert(t, ok, log)
			want := wire.PortControl
			if len(names) > 0 {
				want = wire.PortStdin
			}
			assert.Assert(t, strings.Contains(last, want) && strings.Contains(last, "CONFIG_VIRTIO_CONSOLE=y"), last)
		})
	}
}

// modulesDirs are the directories that may belong to the kernel under test.
func modulesDirs(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(filepath.Dir(os.Getenv("KVMRUN_KERNEL")), "../lib/modules/*"))
	assert.NilError(t, err)
	return dirs
}

func modulesDir(t *testing.T) string {
	t.Helper()
	dirs := modulesDirs(t)
	if len(dirs) != 1 {
		t.Skipf("needs the kernel's modules in ../lib/modules/RELEASE beside KVMRUN_KERNEL, found %d (unpack the kernel's whole package)", len(dirs))
	}
	return dirs[0]
}

func TestVMModules(t *testing.T) {
	dir := modulesDir(t)
	m := boot(t, initramfs.Spec{ModulesDir: dir, Modules: []string{"loop", "dm-verity", "ext4"}}, vmtest.Config{})
	assert.Equal(t, len(m.ready.Warnings), 0, "%q", m.ready.Warnings)
	for _, name := range []string{"loop", "dm_verity", "dm_mod"} {
		assert.Assert(t, cmp.Contains(m.ready.Modules, name))
	}
	res := m.run(t, wire.Run{Argv: []string{self, "/proc/modules"}, Env: []string{helperEnv + "=show"}})
	assert.Assert(t, cmp.Contains(res.out, "dm_verity "))
	m.shutdown(t)
}

// TestVMShell is u-root's shell as system(3) calls it.
func TestVMShell(t *testing.T) {
	kernel(t) // do not build anything only to skip
	user, err := os.UserCacheDir()
	assert.NilError(t, err)
	// Where kvmrun itself keeps it: building it takes a minute.
	c, err := cache.Open(filepath.Join(user, "kvmrun"))
	assert.NilError(t, err)
	dir, err := busybox.Build(context.Background(), initramfs.Options{CacheDir: c.Root(), Progress: func(l string) { t.Log(l) }})
	assert.NilError(t, err)
	m := boot(t, initramfs.Spec{Busybox: dir}, vmtest.Config{})
	for _, test := range []struct {
		argv []string
		out  string
		code int
	}{
		{[]string{"/bin/sh", "-c", "ip link set dev lo up"}, "", 0},
		{[]string{"sh", "-c", "echo a b | wc -w && cat /etc/hostname; exit 3"}, "2\nkvmrun\n", 3},
		{[]string{"sh", "-c", "false"}, "", 1},
		{[]string{"sh", "-c", "no-such-command"}, "", 127},
		{[]string{"sh", "-c", "cd /etc && for i in hosts passwd; do ls $i; done"}, "hosts\npasswd\n", 0},
		{[]string{"ip", "netns"}, "", 1},
		{[]string{"uname", "-s"}, "Linux\n", 0},
	} {
		r := wire.Run{Argv: test.argv}
		res := m.run(t, r)
		if test.argv[0] == "ip" {
			continue // only that it can be found
		}
		assert.Equal(t, res.exited.Code, test.code, "%q: %s%s", test.argv, res.out, res.err)
		assert.Equal(t, res.out, test.out, "%q: %s", test.argv, res.err)
	}
	// By the bare name in argv[0], as system(3) does it.
	r := helperRun("system", "echo from system && ip addr show dev lo")
	res := m.run(t, r)
	assert.Assert(t, cmp.Contains(res.out, "from system"), res.err)
	assert.Assert(t, cmp.Contains(res.out, "127.0.0.1"), res.err)
	assert.Equal(t, res.exited.Code, 0)
	m.shutdown(t)
}
