// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
)

var ctx = context.Background()

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	assert.NilError(t, os.WriteFile(path, data, 0o600))
	return path
}

func openCache(t testing.TB) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	return c
}

func mustOpen(t testing.TB, path string) *Image {
	t.Helper()
	img, err := Open(path)
	assert.NilError(t, err)
	return img
}

var wantDetails = &Details{
	Banner: testBanner, Release: testRelease, Compiler: "gcc (Foo 1.2, x) 12.2.0",
	BuildID: testBuildID, PVHEntry: testEntry,
}

func TestBzImage(t *testing.T) {
	vmlinux := defaultSpec().build()
	path := write(t, "vmlinuz", bzImage(gzipped(t, vmlinux)))
	img := mustOpen(t, path)
	want := &Image{Path: path, Arch: X86_64, Format: BzImage, Compression: Gzip, HeaderVersion: testHeader, BootProtocol: 0x020f}
	diff := cmp.Diff(want, img, cmpopts.IgnoreUnexported(Image{}), cmpopts.IgnoreFields(Image{}, "Bytes"))
	assert.Equal(t, diff, "")
	assert.NilError(t, img.CheckArch(X86_64))

	// Without a cache everything is known but a path.
	d, err := img.Details(ctx, nil)
	assert.NilError(t, err)
	assert.Equal(t, cmp.Diff(wantDetails, d, cmpopts.IgnoreUnexported(Details{})), "")
	assert.Assert(t, d.PVH())

	c := openCache(t)
	elfPath, err := img.Vmlinux(ctx, c)
	assert.NilError(t, err)
	got, err := os.ReadFile(elfPath)
	assert.NilError(t, err)
	assert.Assert(t, bytes.Equal(got, vmlinux))

	// From the cache by another Image: the same.
	again := mustOpen(t, path)
	d, err = again.Details(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, d.VmlinuxPath, elfPath)
	assert.Equal(t, len(d.SHA256), 64)
	diff = cmp.Diff(wantDetails, d, cmpopts.IgnoreUnexported(Details{}), cmpopts.IgnoreFields(Details{}, "VmlinuxPath", "SHA256"))
	assert.Equal(t, diff, "")
	cfg, err := again.Config(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, string(cfg.Text), testConfig)
	assert.Equal(t, cfg.Source, embeddedSource)
	list, err := c.List()
	assert.NilError(t, err)
	assert.Assert(t, is.Len(list, 1))

	// The cache is deleted under an Image that knows everything already.
	assert.NilError(t, os.RemoveAll(c.Root()))
	elfPath, err = again.Vmlinux(ctx, c)
	assert.NilError(t, err)
	_, err = os.Stat(elfPath)
	assert.NilError(t, err)
}

func TestVmlinux(t *testing.T) {
	path := write(t, "vmlinux", defaultSpec().build())
	img := mustOpen(t, path)
	assert.Equal(t, img.Format, Vmlinux)
	assert.Equal(t, img.Arch, X86_64)
	assert.Equal(t, img.Compression, None)
	for _, c := range []*cache.Cache{nil, openCache(t)} {
		d, err := img.Details(ctx, c)
		assert.NilError(t, err)
		diff := cmp.Diff(wantDetails, d, cmpopts.IgnoreUnexported(Details{}), cmpopts.IgnoreFields(Details{}, "VmlinuxPath", "SHA256"))
		assert.Equal(t, diff, "")
		r, err := img.Release(ctx, c)
		assert.NilError(t, err)
		assert.Equal(t, r, testRelease)
	}
	got, err := img.Vmlinux(ctx, openCache(t))
	assert.NilError(t, err)
	assert.Equal(t, got, path)
}

func TestVmlinuxVariants(t *testing.T) {
	t.Run("no PVH, no config, no banner", func(t *testing.T) {
		s := defaultSpec()
		s.notes, s.config, s.banner = nil, "", ""
		img := mustOpen(t, write(t, "vmlinux", s.build()))
		d, err := img.Details(ctx, nil)
		assert.NilError(t, err)
		assert.Assert(t, !d.PVH())
		assert.Equal(t, d.Release+d.Compiler+d.BuildID, "")
		_, err = img.config(ctx, nil, t.TempDir(), t.TempDir())
		assert.ErrorIs(t, err, ErrNoConfig)
	})
	t.Run("32-bit PVH entry", func(t *testing.T) {
		s := defaultSpec()
		s.notes = note("Xen", noteXenPhys32, binary.LittleEndian.AppendUint32(nil, 0x1000000))
		d, err := mustOpen(t, write(t, "vmlinux", s.build())).Details(ctx, nil)
		assert.NilError(t, err)
		assert.Equal(t, d.PVHEntry, uint64(0x1000000))
	})
	t.Run("only the weak banner", func(t *testing.T) {
		s := defaultSpec()
		s.banner = bytesBefore(testBanner)
		d, err := mustOpen(t, write(t, "vmlinux", s.build())).Details(ctx, nil)
		assert.NilError(t, err)
		assert.Equal(t, d.Release, testRelease)
	})
	t.Run("found across pieces", func(t *testing.T) {
		// The config lies around the edge of the pieces that are searched.
		for _, shift := range []int{-30, -9, -5, -1, 0, 1} {
			s := defaultSpec()
			s.config = ""
			base := len(s.build()) - (64 + 2*56) - len(s.notes)
			s.rodata = make([]byte, 1<<20-base+shift)
			s.rodata = append(s.rodata, "IKCFG_ST"...)
			s.rodata = append(s.rodata, gzipped(t, []byte(testConfig))...)
			s.rodata = append(s.rodata, make([]byte, 1<<20)...)
			img := mustOpen(t, write(t, "vmlinux", s.build()))
			cfg, err := img.Config(ctx, nil)
			assert.NilError(t, err, "shift %d", shift)
			assert.Equal(t, string(cfg.Text), testConfig)
		}
	})
	t.Run("hostile banner", func(t *testing.T) {
		s := defaultSpec()
		s.banner = "Linux version 6\x1b[2J\xff" + strings.Repeat("A", 5000)
		d, err := mustOpen(t, write(t, "vmlinux", s.build())).Details(ctx, nil)
		assert.NilError(t, err)
		assert.Assert(t, len(d.Banner) <= maxBanner)
		assert.Assert(t, !strings.Contains(d.Banner, "\x1b") && utf8.ValidString(d.Banner))
	})
	t.Run("config bomb", func(t *testing.T) {
		s := defaultSpec()
		s.config = "CONFIG_A=y\n" + strings.Repeat("x", maxConfig)
		img := mustOpen(t, write(t, "vmlinux", s.build()))
		_, err := img.config(ctx, nil, t.TempDir(), t.TempDir())
		assert.ErrorIs(t, err, ErrNoConfig)
	})
	t.Run("arm64", func(t *testing.T) {
		s := defaultSpec()
		s.machine, s.vaddr = elf.EM_AARCH64, 0xffff800080000000
		img := mustOpen(t, write(t, "vmlinux", s.build()))
		assert.Equal(t, img.Arch, ARM64)
		assert.ErrorIs(t, img.CheckArch(X86_64), ErrArch)
	})
}

func TestARM64Image(t *testing.T) {
	img := mustOpen(t, write(t, "Image", arm64Image()))
	assert.Equal(t, img.Arch, ARM64)
	assert.Equal(t, img.Format, RawFile)
	err := img.CheckArch(X86_64)
	assert.ErrorIs(t, err, ErrArch)
	assert.ErrorContains(t, err, "is an arm64 kernel (Image), but this run needs one for x86_64")
	d, err := img.Details(ctx, openCache(t))
	assert.NilError(t, err)
	assert.Equal(t, d.Release, testRelease)
	_, err = img.Vmlinux(ctx, openCache(t))
	assert.ErrorIs(t, err, ErrUnsupported)
}

// compressors are the commands of scripts/Makefile.lib and scripts/xz_wrap.sh
// of Linux 6.12 (and xz_wrap.sh's older dictionary).
var compressors = []struct {
	c    Compression
	argv []string
	size bool // the build appends the unpacked size
}{
	{Gzip, []string{"gzip", "-n", "-f", "-9"}, false},
	{Bzip2, []string{"bzip2", "-9"}, true},
	{LZMA, []string{"lzma", "-9"}, true},
	{LZ4, []string{"lz4", "-l", "-9", "-", "-"}, true},
	{XZ, []string{"xz", "--check=crc32", "--threads=1", "--x86", "--lzma2=,dict=128MiB"}, true},
	{XZ, []string{"xz", "--check=crc32", "--x86", "--lzma2=,dict=32MiB"}, true},
	{XZ, []string{"xz", "--check=crc64", "--lzma2=lp=1,lc=2,dict=1MiB"}, true},
	{XZ, []string{"xz", "--check=sha256", "--x86", "--lzma2=", "--block-size=100001", "-T2"}, true},
	{XZ, []string{"xz", "--check=none", "-0"}, true},
	{Zstd, []string{"zstd", "-22", "--ultra"}, true},
	{Zstd, []string{"zstd", "-1"}, true},
}

// Every compression that a kernel can have, made by the tools that the kernel
// build uses, on enough machine code for each branch of the x86 filter.
func TestCompressions(t *testing.T) {
	exe, err := os.Executable()
	assert.NilError(t, err)
	code, err := os.ReadFile(exe)
	assert.NilError(t, err)
	s := defaultSpec()
	s.rodata = append(code[:min(len(code), 1<<19)], x86Torture()...)
	vmlinux := s.build()
	for _, comp := range compressors {
		t.Run(strings.Join(comp.argv, " "), func(t *testing.T) {
			packed := compress(t, comp.argv, vmlinux)
			if comp.size {
				packed = withSize(packed, len(vmlinux))
			}
			path := write(t, "bzImage", bzImage(packed))
			img := mustOpen(t, path)
			assert.Equal(t, img.Compression, comp.c)
			c := openCache(t)
			got, err := img.Vmlinux(ctx, c)
			assert.NilError(t, err)
			data, err := os.ReadFile(got)
			assert.NilError(t, err)
			assert.Assert(t, bytes.Equal(data, vmlinux))

			// Cut in the middle, or with a wrong size: an error, never half a
			// kernel.
			for name, bad := range map[string][]byte{
				"cut":       withSize(packed[:len(packed)/2], len(vmlinux)),
				"smaller":   withSize(packed[:len(packed)-4], len(vmlinux)-1),
				"larger":    withSize(packed[:len(packed)-4], len(vmlinux)+1),
				"no size":   packed[:len(packed)-4],
				"too large": withSize(packed[:len(packed)-4], MaxVmlinux+1),
			} {
				img := mustOpen(t, write(t, "bzImage", bzImage(bad)))
				_, err := img.Vmlinux(ctx, c)
				assert.ErrorIs(t, err, ErrDamaged, name)
			}

			// Cancellation is not taken for damage.
			canceled, cancel := context.WithCancel(ctx)
			cancel()
			if comp.c != Zstd {
				_, err = mustOpen(t, path).Details(canceled, nil)
				assert.ErrorIs(t, err, context.Canceled)
			}
		})
	}
}

func compress(t testing.TB, argv []string, data []byte) []byte {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		pkg := map[string]string{"lzma": "xz-utils", "xz": "xz-utils"}[argv[0]]
		if pkg == "" {
			pkg = argv[0]
		}
		t.Skipf("%s is not installed (try: apt-get install %s)", argv[0], pkg)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	assert.NilError(t, cmd.Run(), stderr.String())
	return out.Bytes()
}

// x86Torture is made of opcode bytes and near operands only, in all orders, so
// that every state of the x86 filter is reached.
func x86Torture() []byte {
	var b []byte
	state := uint32(1)
	for range 1 << 17 {
		state = state*1664525 + 1013904223 // Numerical Recipes' generator
		b = append(b, []byte{0xe8, 0xe9, 0x00, 0xff, 0x00, 0xff, 0x12, 0xe8}[state>>29])
	}
	return b
}

func TestLZO(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vmlinuz")
	assert.NilError(t, os.WriteFile(path, bzImage([]byte("\x89LZO\x00\r\n\x1a\n and so on")), 0o600))
	img := mustOpen(t, path)
	assert.Equal(t, img.Compression, LZO)
	c := openCache(t)
	_, err := img.Vmlinux(ctx, c)
	assert.ErrorIs(t, err, ErrUnsupported)
	assert.ErrorContains(t, err, "CONFIG_KERNEL_ZSTD")

	// Everything that does not need the inside still works.
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "config-"+testRelease), []byte("CONFIG_A=y\n"), 0o600))
	cfg, err := img.Config(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, cfg.Value("A"), "y")
	info, err := img.Info(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, info.Release, testRelease)
	assert.Assert(t, is.Contains(info.Problem, "lzo"))
}

func TestOpenBadInput(t *testing.T) {
	good := bzImage(gzipped(t, defaultSpec().build()))
	edit := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	le := binary.LittleEndian
	vmlinux := defaultSpec().build()
	program := defaultSpec()
	program.vaddr = 0x400000
	otherArch := defaultSpec()
	otherArch.machine = elf.EM_RISCV
	module := defaultSpec().build()
	le.PutUint16(module[16:], uint16(elf.ET_REL))
	sections := defaultSpec().build()
	le.PutUint64(sections[0x28:], 1<<40) // section table beyond the end
	le.PutUint16(sections[0x3a:], 64)
	le.PutUint16(sections[0x3c:], 10)

	for _, tc := range []struct {
		name string
		data []byte
		kind error
		want string
	}{
		{"empty", nil, ErrNotKernel, "is empty"},
		{"text", []byte("hello\nworld\n"), ErrNotKernel, "is a text file, not a kernel"},
		{"long-text", []byte(strings.Repeat("ü", 2000)), ErrNotKernel, "is a text file"},
		{"config-6.12.0", []byte("#\n# Automatically generated\nCONFIG_A=y\n"), ErrNotKernel, "vmlinuz-6.12.0"},
		{"System.map-6.12.0", []byte("ffffffff81000000 T _text\n"), ErrNotKernel, "vmlinuz-6.12.0"},
		{"zeros", make([]byte, 4096), ErrNotKernel, "is not a kernel that is known here"},
		{"one-byte", []byte{0x7f}, ErrNotKernel, "not a kernel"},
		{"bzImage-cut-in-half", good[:len(good)/2], ErrTruncated, "is a truncated bzImage"},
		{"bzImage-cut-by-a-paragraph", good[:len(good)-17], ErrTruncated, "is a truncated bzImage"},
		{"bzImage-cut-in-setup", good[:0x300], ErrTruncated, "is a truncated bzImage"},
		{"bzImage-cut-in-header", good[:0x210], ErrTruncated, "is a truncated bzImage"},
		{"bzImage-payload-outside", edit(func(b []byte) { le.PutUint32(b[offPayloadOffset:], 0xffffffff) }), ErrTruncated, "truncated"},
		{"bzImage-payload-long", edit(func(b []byte) { le.PutUint32(b[offPayloadLength:], 0xffffffff) }), ErrTruncated, "truncated"},
		{"bzImage-no-payload", edit(func(b []byte) { le.PutUint32(b[offPayloadLength:], 0) }), ErrDamaged, "without a compressed kernel"},
		{"bzImage-unknown-payload", edit(func(b []byte) { le.PutUint32(b[offPayloadOffset:], 0) }), ErrDamaged, "90 90"},
		{"bzImage-32-bit", edit(func(b []byte) { b[offXLoadFlags] = 0 }), ErrUnsupported, "32-bit"},
		{"bzImage-old", edit(func(b []byte) { le.PutUint16(b[offVersion:], 0x0206) }), ErrUnsupported, "boot protocol 2.06"},
		{"vmlinux-cut", vmlinux[:len(vmlinux)-10], ErrTruncated, "is a truncated ELF file"},
		{"vmlinux-without-sections", sections, ErrTruncated, "is a truncated ELF file"},
		{"elf-header-only", vmlinux[:40], ErrNotKernel, "damaged ELF"},
		{"program", program.build(), ErrNotKernel, "is a program"},
		{"module", module, ErrNotKernel, "kernel module"},
		{"riscv", otherArch.build(), ErrNotKernel, "EM_RISCV"},
		{"Image.gz", gzipped(t, arm64Image()), ErrNotKernel, "is a gzip-compressed arm64 Image"},
		{"bzImage.gz", gzipped(t, good), ErrNotKernel, "is a gzip-compressed bzImage"},
		{"vmlinux.gz", gzipped(t, vmlinux), ErrNotKernel, "is a gzip-compressed ELF"},
		{"something.gz", gzipped(t, []byte("x")), ErrNotKernel, "gzip-compressed data"},
		{"broken.gz", []byte("\x1f\x8b broken"), ErrNotKernel, "gzip-compressed data"},
		{"initrd.gz", gzipped(t, []byte("070701...")), ErrNotKernel, "initramfs"},
		{"initrd", []byte("070701..."), ErrNotKernel, "initramfs"},
		{"a.zst", []byte("\x28\xb5\x2f\xfd...."), ErrNotKernel, "zstd-compressed"},
		{"a.lz4", []byte("\x04\x22\x4d\x18...."), ErrNotKernel, "lz4-compressed"},
		{"a.deb", []byte("!<arch>\ndebian-binary   "), ErrNotKernel, "dpkg-deb -x"},
		{"a.rpm", []byte("\xed\xab\xee\xdb"), ErrNotKernel, "RPM"},
		{"uki.efi", append([]byte("MZ"), make([]byte, 4096)...), ErrNotKernel, "--only-section=.linux"},
		{"vmlinuz.efi", append([]byte("MZ\x00\x00zimg"), make([]byte, 4096)...), ErrUnsupported, "zboot"},
		{"disk.qcow2", []byte("QFI\xfb"), ErrNotKernel, "disk image"},
		{"uImage", []byte("\x27\x05\x19\x56"), ErrNotKernel, "U-Boot"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, tc.name, tc.data)
			_, err := Open(path)
			var e *Error
			assert.Assert(t, errors.As(err, &e), "%v", err)
			assert.ErrorIs(t, err, tc.kind)
			assert.ErrorContains(t, err, tc.want)
			assert.ErrorContains(t, err, path)
		})
	}
}

// Real files that people might give by mistake.
func TestOpenRealFiles(t *testing.T) {
	exe, err := os.Executable()
	assert.NilError(t, err)
	_, err = Open(exe)
	assert.ErrorContains(t, err, "is a program (ELF for "+map[string]string{"amd64": "x86_64", "arm64": "arm64"}[goarch(t)])
	_, err = Open("/bin/sh")
	assert.ErrorIs(t, err, ErrNotKernel)
	_, err = Open("kimage_test.go")
	assert.ErrorContains(t, err, "is a text file")
	_, err = Open("/dev/null")
	assert.ErrorContains(t, err, "not a regular file")
}

func goarch(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOARCH").Output()
	assert.NilError(t, err)
	return strings.TrimSpace(string(out))
}

func TestOpenMissingAndUnreadable(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := Open("bzImage")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	wd, wdErr := os.Getwd()
	assert.NilError(t, wdErr)
	assert.ErrorContains(t, err, "cannot open "+wd+"/bzImage")
	assert.ErrorContains(t, err, "kvmrun kernel fetch debian:6.12")

	assert.NilError(t, os.MkdirAll("tree/arch/x86/boot", 0o700))
	assert.NilError(t, os.WriteFile("tree/arch/x86/boot/bzImage", nil, 0o600))
	_, err = Open("tree")
	assert.ErrorIs(t, err, ErrNotKernel)
	assert.ErrorContains(t, err, "is a directory (perhaps tree/arch/x86/boot/bzImage)")

	assert.NilError(t, unix.Mkfifo("fifo", 0o600))
	_, err = Open("fifo")
	assert.ErrorContains(t, err, "not a regular file")

	assert.NilError(t, os.WriteFile("secret", nil, 0))
	if os.Geteuid() == 0 {
		// Root reads everything: ask as nobody.
		assert.NilError(t, os.Chmod(".", 0o755))
		err := asNobody(func() error { _, err := Open("secret"); return err })
		if errors.Is(err, fs.ErrNotExist) {
			t.Skip("the temporary directory is closed to nobody (try: TMPDIR=/tmp)")
		}
		assertUnreadable(t, err)
		return
	}
	_, err = Open("secret")
	assertUnreadable(t, err)
}

func assertUnreadable(t *testing.T, err error) {
	t.Helper()
	assert.ErrorIs(t, err, fs.ErrPermission)
	assert.ErrorContains(t, err, "sudo chmod +r secret")
}

func TestDamagedInside(t *testing.T) {
	c := openCache(t)
	for name, inside := range map[string][]byte{
		"text":   []byte(strings.Repeat("not an ELF file ", 100)),
		"arm64":  func() []byte { s := defaultSpec(); s.machine = elf.EM_AARCH64; return s.build() }(),
		"nested": bzImage(gzipped(t, defaultSpec().build())),
	} {
		img := mustOpen(t, write(t, "bzImage", bzImage(gzipped(t, inside))))
		_, err := img.Details(ctx, c)
		assert.ErrorIs(t, err, ErrDamaged, name)
		assert.ErrorContains(t, err, "is not a vmlinux for x86_64", name)
		_, err = img.Info(ctx, c)
		assert.ErrorIs(t, err, ErrDamaged, name)
	}
	list, err := c.List()
	assert.NilError(t, err)
	assert.Assert(t, is.Len(list, 0))
}

// A kernel file that is replaced between Open and use gives an error or the
// new kernel's details, never a mix.
func TestFileShrinksAfterOpen(t *testing.T) {
	path := write(t, "bzImage", bzImage(gzipped(t, defaultSpec().build())))
	img := mustOpen(t, path)
	assert.NilError(t, os.Truncate(path, 3000))
	_, err := img.Details(ctx, openCache(t))
	assert.ErrorIs(t, err, ErrTruncated)
	assert.NilError(t, os.Remove(path))
	_, err = img.Details(ctx, openCache(t))
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestConfigPlaces(t *testing.T) {
	s := defaultSpec()
	s.config = ""
	dir, boot, root := t.TempDir(), t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "vmlinuz-renamed")
	assert.NilError(t, os.WriteFile(path, bzImage(gzipped(t, s.build())), 0o600))
	c := openCache(t)
	img := mustOpen(t, path)

	_, err := img.config(ctx, c, boot, root)
	assert.ErrorIs(t, err, ErrNoConfig)
	for _, want := range []string{"inside (CONFIG_IKCONFIG)", filepath.Join(dir, "config-"+testRelease), filepath.Join(boot, "config-"+testRelease), "-kconfig FILE"} {
		assert.ErrorContains(t, err, want)
	}
	put := func(dir, value string) {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "config-"+testRelease), []byte("CONFIG_FROM="+value+"\n"), 0o600))
	}
	get := func(img *Image) *Config {
		cfg, err := img.config(ctx, c, boot, root)
		assert.NilError(t, err)
		return cfg
	}
	put(boot, "boot")
	assert.Equal(t, get(img).Value("FROM"), "boot")
	modules := filepath.Join(root, "lib", "modules", testRelease)
	assert.NilError(t, os.MkdirAll(modules, 0o700))
	for name, text := range map[string]string{"modules.order": "", "config": "CONFIG_FROM=modules\n"} {
		assert.NilError(t, os.WriteFile(filepath.Join(modules, name), []byte(text), 0o600))
	}
	assert.Equal(t, get(img).Value("FROM"), "modules")
	put(dir, "beside")
	assert.Equal(t, get(img).Value("FROM"), "beside")
	assert.Equal(t, get(img).Source, filepath.Join(dir, "config-"+testRelease))

	// Through a symbolic link elsewhere.
	link := filepath.Join(t.TempDir(), "vmlinuz")
	assert.NilError(t, os.Symlink(path, link))
	assert.Equal(t, get(mustOpen(t, link)).Value("FROM"), "beside")

	// Not a file.
	assert.NilError(t, os.Remove(filepath.Join(dir, "config-"+testRelease)))
	assert.NilError(t, os.Mkdir(filepath.Join(dir, "config-"+testRelease), 0o700))
	_, err = img.config(ctx, c, boot, root)
	assert.ErrorContains(t, err, "not a kernel config")
}

func TestConfigValue(t *testing.T) {
	cfg := &Config{Text: []byte(testConfig + "CONFIG_LAST=y")}
	for symbol, want := range map[string]string{
		"KASAN": "y", "KCSAN": "n", "VIRTIO_BLK": "m", "NR_CPUS": "64", "CC_VERSION_TEXT": `"gcc = 12"`,
		"LAST": "y", "NOTHING": "n", "KAS": "n",
	} {
		assert.Equal(t, cfg.Value(symbol), want, symbol)
	}
}

func TestModulesDir(t *testing.T) {
	top, root := t.TempDir(), t.TempDir()
	boot := filepath.Join(top, "boot")
	mk := func(dir string) string {
		assert.NilError(t, os.MkdirAll(dir, 0o700))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "modules.order"), nil, 0o600))
		return dir
	}
	assert.NilError(t, os.MkdirAll(boot, 0o700))
	path := filepath.Join(boot, "vmlinuz")
	assert.NilError(t, os.WriteFile(path, bzImage(gzipped(t, defaultSpec().build())), 0o600))
	img := mustOpen(t, path)
	get := func() string {
		dir, err := img.modulesDir(ctx, nil, "", root)
		assert.NilError(t, err)
		return dir
	}
	assert.Equal(t, get(), "")
	system := mk(filepath.Join(root, "lib", "modules", testRelease))
	assert.Equal(t, get(), system)
	artifact := mk(filepath.Join(boot, "lib", "modules", testRelease))
	assert.Equal(t, get(), artifact)
	usr := mk(filepath.Join(top, "usr", "lib", "modules", testRelease))
	assert.Equal(t, get(), usr)
	pkg := mk(filepath.Join(top, "lib", "modules", testRelease))
	assert.Equal(t, get(), pkg)

	// Fedora: the kernel is in the modules directory.
	fedora := mk(filepath.Join(t.TempDir(), "lib", "modules", testRelease))
	path = filepath.Join(fedora, "vmlinuz")
	assert.NilError(t, os.WriteFile(path, bzImage(gzipped(t, defaultSpec().build())), 0o600))
	inPlace, err := mustOpen(t, path).modulesDir(ctx, nil, "", t.TempDir())
	assert.NilError(t, err)
	assert.Equal(t, inPlace, fedora)

	// Given by the user.
	for _, given := range []string{pkg, filepath.Dir(pkg), top} {
		dir, err := img.ModulesDir(ctx, nil, given)
		assert.NilError(t, err)
		assert.Equal(t, dir, pkg)
	}
	other := mk(filepath.Join(t.TempDir(), "lib", "modules", "6.1.0-other"))
	for _, given := range []string{other, filepath.Dir(other), filepath.Join(other, "../../..")} {
		_, err := img.ModulesDir(ctx, nil, given)
		assert.ErrorIs(t, err, ErrModulesDir)
		assert.ErrorContains(t, err, "is of another version: it has modules for 6.1.0-other, the kernel is "+testRelease)
	}
	_, err = img.ModulesDir(ctx, nil, t.TempDir())
	assert.ErrorContains(t, err, "holds no kernel modules")
	_, err = img.ModulesDir(ctx, nil, path)
	assert.ErrorContains(t, err, "is a file")
	_, err = img.ModulesDir(ctx, nil, "/nonexistent")
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

// A release that would lead out of the directory is not used as a name.
func TestHostileRelease(t *testing.T) {
	s := defaultSpec()
	s.config = ""
	s.banner = "Linux version 6/../../../etc (a) (b) #1"
	img := mustOpen(t, write(t, "vmlinux", s.build()))
	_, err := img.config(ctx, nil, t.TempDir(), t.TempDir())
	assert.ErrorIs(t, err, ErrNoConfig)
	assert.Assert(t, !strings.Contains(err.Error(), "etc"), "%v", err)
	dir, err := img.ModulesDir(ctx, nil, "")
	assert.NilError(t, err)
	assert.Equal(t, dir, "")
}

func TestSplitBanner(t *testing.T) {
	for banner, want := range map[string][2]string{
		"": {},
		"Linux version 5.4.0 (root@x) (gcc version 9.3.0 (Ubuntu 9.3.0-10ubuntu2)) #1 SMP": {"5.4.0", "gcc version 9.3.0 (Ubuntu 9.3.0-10ubuntu2)"},
		"Linux version 6.12 (a@b) (clang version 19, LLD 19) #2":                           {"6.12", "clang version 19"},
		"Linux version 6.12 (a@b": {"6.12", ""},
		"Linux version 6.12":      {"6.12", ""},
		testBanner:                {testRelease, "gcc (Foo 1.2, x) 12.2.0"},
	} {
		release, compiler := splitBanner(banner)
		assert.DeepEqual(t, [2]string{release, compiler}, want)
	}
}

func TestInfo(t *testing.T) {
	path := write(t, "vmlinuz", bzImage(gzipped(t, defaultSpec().build())))
	info, err := mustOpen(t, path).Info(ctx, openCache(t))
	assert.NilError(t, err)
	states := map[string]State{}
	for _, f := range info.Features {
		states[f.Symbol] = f.State
	}
	assert.Equal(t, states["KASAN"], Yes)
	assert.Equal(t, states["KCSAN"], No)
	assert.Equal(t, states["VIRTIO_BLK"], Module)
	assert.Equal(t, info.Config, embeddedSource)
	assert.Assert(t, info.PVH)

	data, err := json.Marshal(info)
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(string(data), `"build_id":"`+testBuildID+`"`))
	var b strings.Builder
	assert.NilError(t, info.WriteText(&b))
	for _, want := range []string{"bzImage, gzip", testBanner, "yes, entry 0x1000a30", fmt.Sprintf("KASAN            %s", Yes)} {
		assert.Assert(t, is.Contains(b.String(), want))
	}

	s := defaultSpec()
	s.config, s.banner = "", ""
	info, err = mustOpen(t, write(t, "vmlinux", s.build())).Info(ctx, nil)
	assert.NilError(t, err)
	assert.Equal(t, info.Features[0].State, Unknown)
	assert.Assert(t, is.Contains(info.Problem, "-kconfig FILE"))
}
