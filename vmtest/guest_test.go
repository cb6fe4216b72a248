// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"github.com/ulikunitz/xz"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/vmtest"
)

// The test binary runs as a process of its own when helperEnv is set; see
// TestParentDies.
const helperEnv = "KVMRUN_VMTEST_HELPER"

// work is a directory for what all tests share.
var work string

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper()
	}
	var err error
	if work, err = os.MkdirTemp("", "vmtest"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(work); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// vmlinuz is the kernel to test with, "" for none.
func vmlinuz() string { return os.Getenv("KVMRUN_KERNEL") }

// kernel returns the unpacked kernel, because that is how it is booted in
// production, or the file itself where this simple unpacking does not do.
var kernel = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile(vmlinuz())
	if err != nil {
		return "", err
	}
	// Documentation/arch/x86/boot.rst: setup_sects, payload_offset and
	// payload_length; the payload ends with its unpacked size.
	const setupSects, payload = 0x1f1, 0x248
	if len(b) < 0x300 {
		return vmlinuz(), nil
	}
	off := (int(b[setupSects])+1)*512 + int(binary.LittleEndian.Uint32(b[payload:]))
	size := int(binary.LittleEndian.Uint32(b[payload+4:]))
	if off+size > len(b) || size < 8 {
		return vmlinuz(), nil
	}
	b = b[off : off+size-4]
	if !bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return vmlinuz(), nil
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		return "", err
	}
	defer d.Close()
	out, err := d.DecodeAll(b, nil)
	if err != nil {
		return "", err
	}
	path := filepath.Join(work, "vmlinux")
	return path, os.WriteFile(path, out, 0o644)
})

// guestInit builds the guest's init.
var guestInit = sync.OnceValues(func() ([]byte, error) {
	path := filepath.Join(work, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build guest: %w: %s", err, out)
	}
	return os.ReadFile(path)
})

// transport are the modules of virtio ports and disks in an order of loading;
// kernels differ in which of them are built in.
var transport = []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_console"}

// initrd makes an initramfs of the guest's init, the transport as far as it is
// in modules, and further kernel modules, which are loaded in this order.
func initrd(tb testing.TB, modules ...string) string {
	tb.Helper()
	code, err := guestInit()
	assert.NilError(tb, err)
	list := []cpio.Record{
		cpio.StaticFile("init", string(code), 0o755),
		cpio.Directory("modules", 0o755),
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1), // init's standard output
	}
	var need []string
	for _, m := range transport {
		if findModule(tb, m) != "" {
			need = append(need, m)
		}
	}
	for i, m := range append(need, modules...) {
		list = append(list, cpio.StaticFile(fmt.Sprintf("modules/%02d-%s", i, m), string(module(tb, m)), 0o644))
	}
	path := filepath.Join(tb.TempDir(), "initrd")
	f, err := os.Create(path)
	assert.NilError(tb, err)
	w := cpio.Newc.Writer(f)
	assert.NilError(tb, cpio.WriteRecords(w, list))
	assert.NilError(tb, cpio.WriteTrailer(w))
	assert.NilError(tb, f.Close())
	return path
}

// findModule returns the path of a module of the tested kernel, "" when it has
// none of that name.
func findModule(tb testing.TB, name string) (found string) {
	tb.Helper()
	release := strings.TrimPrefix(filepath.Base(vmlinuz()), "vmlinuz-")
	root := filepath.Join(filepath.Dir(vmlinuz()), "..", "lib", "modules", release, "kernel", "drivers")
	if _, err := os.Stat(root); err != nil { // as Debian has it since 13
		root = filepath.Join(filepath.Dir(vmlinuz()), "..", "usr", "lib", "modules", release, "kernel", "drivers")
	}
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if base, _, _ := strings.Cut(filepath.Base(path), "."); base == name && strings.Contains(path, ".ko") {
			found = path
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	return found
}

// module reads a kernel module.
func module(tb testing.TB, name string) []byte {
	tb.Helper()
	found := findModule(tb, name)
	if found == "" {
		tb.Skipf("the kernel has no module %s below ../lib/modules or ../usr/lib/modules: use Debian's cloud kernel", name)
	}
	b, err := os.ReadFile(found)
	assert.NilError(tb, err)
	if strings.HasSuffix(found, ".xz") {
		r, err := xz.NewReader(bytes.NewReader(b))
		assert.NilError(tb, err)
		b, err = io.ReadAll(r)
		assert.NilError(tb, err)
	}
	return b
}

// needKernel skips where no kernel is given, and otherwise returns a machine
// whose init does what the first parameter says.
func needKernel(tb testing.TB, do string, params ...string) vmtest.Config {
	tb.Helper()
	needQEMU(tb)
	if vmlinuz() == "" {
		tb.Skip("KVMRUN_KERNEL is not set: set it to the path of a vmlinuz, or run make test")
	}
	k, err := kernel()
	assert.NilError(tb, err)
	return vmtest.Config{
		Kernel:      k,
		Initrd:      initrd(tb),
		Cmdline:     append([]string{"vmtest.do=" + do}, params...),
		ConsoleFile: filepath.Join(tb.TempDir(), "console"),
	}
}

func needQEMU(tb testing.TB) {
	tb.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		tb.Skip("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")
	}
}

// start starts the machine and ends it with the test.
func start(tb testing.TB, ctx context.Context, c vmtest.Config) *vmtest.VM { //nolint:revive // tb first, as everywhere in tests
	tb.Helper()
	vm, err := vmtest.Start(ctx, c)
	assert.NilError(tb, err)
	tb.Cleanup(func() {
		if err := vm.Close(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			b, _ := os.ReadFile(c.ConsoleFile)
			tb.Logf("command line: %q\nexit: %+v\nconsole: %s", vm.Args(), vm.Wait(), b[max(0, len(b)-4000):])
		}
	})
	return vm
}

// watcher is a Console writer that keeps everything and tells when a text has
// come.
type watcher struct {
	text []byte
	seen chan struct{}

	mu  sync.Mutex
	all bytes.Buffer
}

// watch waits for text, "" meaning the first byte.
func watch(text string) *watcher { return &watcher{text: []byte(text), seen: make(chan struct{})} }

func (w *watcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	had := w.all.Len() > 0 && bytes.Contains(w.all.Bytes(), w.text)
	w.all.Write(b)
	if !had && bytes.Contains(w.all.Bytes(), w.text) {
		close(w.seen)
	}
	return len(b), nil
}

func (w *watcher) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.all.Bytes())
}

// await waits for the text; a machine that ends without it fails the test.
func (w *watcher) await(tb testing.TB, vm *vmtest.VM) {
	tb.Helper()
	select {
	case <-w.seen:
	case <-vm.Done():
		select {
		case <-w.seen:
		default:
			tb.Fatalf("the machine ended (%s) without %q on its console", vm.Wait(), w.text)
		}
	}
}

var errBroken = errors.New("broken writer")

// brokenWriter fails after its first write.
type brokenWriter struct{ calls int }

func (w *brokenWriter) Write(b []byte) (int, error) {
	w.calls++
	if w.calls > 1 {
		return 0, errBroken
	}
	return len(b), nil
}
