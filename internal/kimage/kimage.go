// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Arch is a kernel's architecture, by the name the kernel build uses.
type Arch string

// The architectures that are recognised.
const (
	X86_64 Arch = "x86_64"
	ARM64  Arch = "arm64"
)

// Format is the form of a kernel file.
type Format string

// The formats that are recognised.
const (
	BzImage Format = "bzImage" // x86 boot protocol, compressed
	Vmlinux Format = "vmlinux" // ELF
	RawFile Format = "Image"   // arm64 boot protocol, uncompressed
)

// Compression is how a bzImage's payload is compressed.
type Compression string

// The compressions a kernel can be built with (init/Kconfig, "Kernel
// compression mode"). All but LZO can be unpacked.
const (
	None  Compression = "none"
	Gzip  Compression = "gzip"
	Bzip2 Compression = "bzip2"
	LZMA  Compression = "lzma"
	XZ    Compression = "xz"
	LZO   Compression = "lzo"
	LZ4   Compression = "lz4"
	Zstd  Compression = "zstd"
)

// Image is a kernel file that [Open] recognised.
type Image struct {
	// Path is the file as the user named it.
	Path        string
	Arch        Arch
	Format      Format
	Compression Compression
	// Bytes is the file's size.
	Bytes int64
	// HeaderVersion is the version string in a bzImage's setup header:
	// release, builder and build time. It is empty for other formats, whose
	// version is part of [Details].
	HeaderVersion string
	// BootProtocol is a bzImage's boot protocol version, 0x020f for 2.15. 0
	// for other formats.
	BootProtocol uint16

	payloadOff, payloadLen int64 // of a bzImage, checked against Bytes

	mu      sync.Mutex
	details *Details // once read
}

// The x86 setup header (boot.rst, "The Real-Mode Kernel Header"), as offsets in
// the file.
const (
	offSetupSects    = 0x1f1
	offSyssize       = 0x1f4
	offBootFlag      = 0x1fe
	offMagic         = 0x202
	offVersion       = 0x206
	offKernelVersion = 0x20e
	offXLoadFlags    = 0x236
	offPayloadOffset = 0x248
	offPayloadLength = 0x24c
	setupHeaderEnd   = 0x268

	bootFlag      = 0xaa55
	protoPayload  = 0x0208 // first protocol with payload_offset
	protoXLoad    = 0x020c // first protocol with xloadflags
	xlfKernel64   = 1 << 0
	sectorSize    = 512
	maxSetupBytes = (255 + 1) * sectorSize // setup_sects is one byte
	maxVersion    = 256                    // bytes of the version string that are read
)

// headBytes is how much of the file is looked at: all of the x86 setup code,
// which holds the version string, and more than any other format needs.
const headBytes = maxSetupBytes

// Open recognises the kernel file at path. It reads at most its first 128 KiB
// and the payload's first bytes, and checks the sizes in its headers against
// the file's. A file that is not a usable kernel gives an [*Error]; kernels of
// other architectures are opened, see [Image.CheckArch].
func Open(path string) (*Image, error) {
	// O_NONBLOCK: a FIFO must be refused, not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	fi, err := f.Stat()
	if err != nil {
		return nil, openError(path, err)
	}
	if fi.IsDir() {
		return nil, dirError(path)
	}
	if !fi.Mode().IsRegular() {
		return nil, &Error{Path: path, Kind: ErrNotKernel, Detail: "is not a regular file"}
	}
	img, err := inspect(f, fi.Size(), path)
	if err != nil {
		return nil, err
	}
	return img, nil
}

func openError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the path is said already
	}
	e := &Error{Path: path, Kind: ErrNotKernel, Detail: "cannot open", Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		abs, absErr := filepath.Abs(path)
		if absErr == nil && abs != path {
			e.Detail = "cannot open " + abs
		}
		e.Cure = "give the path of a bzImage or vmlinux, or get one by: kvmrun kernel fetch debian:6.12"
	case errors.Is(err, fs.ErrPermission):
		e.Cure = fmt.Sprintf("Ubuntu installs kernels readable by root only; try: sudo chmod +r %s, or copy it", path)
	}
	return e
}

// dirError names the kernels in a directory, which is what was probably meant.
func dirError(path string) error {
	e := &Error{Path: path, Kind: ErrNotKernel, Detail: "is a directory"}
	var found []string
	for _, pattern := range []string{"vmlinuz*", "bzImage", "arch/x86/boot/bzImage", "vmlinux", "boot/vmlinuz*"} {
		m, _ := filepath.Glob(filepath.Join(escapeGlob(path), pattern))
		found = append(found, m...)
	}
	if len(found) > 0 {
		e.Cure = "perhaps " + strings.Join(found, " or ")
	}
	return e
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// inspect does the work of Open on size bytes of r.
func inspect(r io.ReaderAt, size int64, path string) (*Image, error) {
	head := make([]byte, min(size, headBytes))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if err == nil || errors.Is(err, io.EOF) {
			return nil, &Error{Path: path, Kind: ErrTruncated, Detail: "became shorter while it was read"}
		}
		return nil, &Error{Path: path, Kind: ErrDamaged, Detail: "cannot read", Err: err}
	}
	switch {
	case isSetupHeader(head):
		return inspectBzImage(r, head, size, path)
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return inspectELF(r, size, path)
	case isARM64Image(head):
		return &Image{Path: path, Arch: ARM64, Format: RawFile, Compression: None, Bytes: size}, nil
	}
	return nil, foreign(r, head, size, path)
}

// isARM64Image checks the magic "ARM\x64" at offset 56 of the arm64 Image
// header (booting.rst, "Call the kernel image").
func isARM64Image(head []byte) bool {
	return len(head) >= 64 && string(head[56:60]) == "ARM\x64"
}

func isSetupHeader(head []byte) bool {
	return len(head) >= offMagic+4 && string(head[offMagic:offMagic+4]) == "HdrS" &&
		binary.LittleEndian.Uint16(head[offBootFlag:]) == bootFlag
}

func inspectBzImage(r io.ReaderAt, head []byte, size int64, path string) (*Image, error) {
	truncated := func(want int64) error {
		return &Error{Path: path, Kind: ErrTruncated,
			Detail: fmt.Sprintf("is a truncated bzImage: %d bytes, its header says at least %d", size, want),
			Cure:   "copy or build it again"}
	}
	unsupported := func(detail string) error {
		return &Error{Path: path, Kind: ErrUnsupported, Detail: detail, Cure: "use an x86_64 kernel of version 4.0 or later"}
	}
	if len(head) < setupHeaderEnd {
		return nil, truncated(setupHeaderEnd)
	}
	le := binary.LittleEndian
	proto := le.Uint16(head[offVersion:])
	if proto < protoPayload {
		return nil, unsupported(fmt.Sprintf("is an x86 kernel of boot protocol %d.%02d, too old", proto>>8, proto&0xff))
	}
	if proto < protoXLoad || le.Uint16(head[offXLoadFlags:])&xlfKernel64 == 0 {
		return nil, unsupported("is a 32-bit x86 kernel")
	}

	setupSects := int64(head[offSetupSects])
	if setupSects == 0 {
		setupSects = 4 // boot.rst: "For backwards compatibility"
	}
	setup := (setupSects + 1) * sectorSize
	// syssize counts 16-byte paragraphs, the last of which may be incomplete.
	if paragraphs := int64(le.Uint32(head[offSyssize:])); paragraphs > 0 {
		if least := setup + (paragraphs-1)*16 + 1; size < least {
			return nil, truncated(least)
		}
	}
	img := &Image{
		Path: path, Arch: X86_64, Format: BzImage, Bytes: size, BootProtocol: proto,
		payloadOff: setup + int64(le.Uint32(head[offPayloadOffset:])),
		payloadLen: int64(le.Uint32(head[offPayloadLength:])),
	}
	if end := img.payloadOff + img.payloadLen; end > size {
		return nil, truncated(end)
	}
	if img.payloadLen < minPayload {
		return nil, &Error{Path: path, Kind: ErrDamaged, Detail: "is a bzImage without a compressed kernel inside"}
	}
	magic := make([]byte, minPayload)
	if _, err := r.ReadAt(magic, img.payloadOff); err != nil {
		return nil, &Error{Path: path, Kind: ErrDamaged, Detail: "cannot read", Err: err}
	}
	img.Compression = compressionOf(magic)
	if img.Compression == "" {
		return nil, &Error{Path: path, Kind: ErrDamaged,
			Detail: fmt.Sprintf("is a bzImage whose kernel is compressed in an unknown way (it begins with % x)", magic)}
	}
	// The pointer is relative to 0x200; 0 means none.
	if at := int64(le.Uint16(head[offKernelVersion:])); at != 0 && at+0x200 < min(setup, int64(len(head))) {
		img.HeaderVersion = cString(head[at+0x200:], maxVersion)
	}
	return img, nil
}

// minPayload is enough for every magic number, and less than the shortest
// compressed file with its trailing size.
const minPayload = 8

// compressionOf recognises a payload as lib/decompress.c of the kernel does.
func compressionOf(b []byte) Compression {
	for _, m := range []struct {
		magic string
		c     Compression
	}{
		{"\x1f\x8b", Gzip},
		{"BZh", Bzip2},
		{"\x5d\x00", LZMA},
		{"\xfd7zXZ\x00", XZ},
		{"\x89LZO", LZO},
		{"\x02\x21\x4c\x18", LZ4},
		{"\x28\xb5\x2f\xfd", Zstd},
		{"\x7fELF", None},
	} {
		if bytes.HasPrefix(b, []byte(m.magic)) {
			return m.c
		}
	}
	return ""
}

// cString returns the printable part of b up to its first NUL or newline.
func cString(b []byte, limit int) string {
	b = b[:min(len(b), limit)]
	if i := bytes.IndexAny(b, "\x00\n"); i >= 0 {
		b = b[:i]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(b)))
}

// CheckArch returns an [*Error] of kind [ErrArch] when the kernel is not for
// the architecture want.
func (img *Image) CheckArch(want Arch) error {
	if img.Arch == want {
		return nil
	}
	return &Error{Path: img.Path, Kind: ErrArch,
		Detail: fmt.Sprintf("is an %s kernel (%s), but this run needs one for %s", img.Arch, img.Format, want),
		Cure:   "on x86_64: kvmrun kernel fetch debian:6.12"}
}
