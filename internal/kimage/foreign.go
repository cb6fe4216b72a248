// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
)

// foreign says what a file is that is no kernel, as well as can be told from
// its first bytes, because "not a kernel" alone sends people searching.
func foreign(r io.ReaderAt, head []byte, size int64, path string) error {
	e := &Error{Path: path, Kind: ErrNotKernel}
	has := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	at := func(off int, magic string) bool {
		return len(head) >= off+len(magic) && string(head[off:off+len(magic)]) == magic
	}
	switch {
	case len(head) == 0:
		e.Detail = "is empty"
	case has("\x1f\x8b"):
		return foreignGzip(r, size, path)
	case has("MZ") && at(4, "zimg"):
		// drivers/firmware/efi/libstub/zboot-header.S
		e.Kind = ErrUnsupported
		e.Detail = "is an EFI zboot image (arm64, loongarch or riscv), which QEMU cannot load directly"
		e.Cure = "use the uncompressed Image from the build, arch/arm64/boot/Image"
	case has("MZ"):
		e.Detail = "is an EFI program, not a bzImage"
		e.Cure = fmt.Sprintf("if it is a unified kernel image: objcopy -O binary --only-section=.linux %s bzImage", path)
	case has("\x28\xb5\x2f\xfd"), has("\xfd7zXZ\x00"), has("BZh"), has("\x02\x21\x4c\x18"), has("\x04\x22\x4d\x18"), has("\x89LZO"):
		name := string(compressionOf(head))
		if name == "" {
			name = string(LZ4) // the modern frame, which no kernel uses
		}
		e.Detail = "is " + name + "-compressed data, not a kernel"
		e.Cure = "unpack it first"
	case has("070701"), has("070702"):
		e.Detail = "is a cpio archive (an initramfs?), not a kernel"
		e.Cure = "give the kernel itself, usually vmlinuz-* in the same directory"
	case has("!<arch>\ndebian-binary"):
		e.Detail = "is a Debian package, not a kernel"
		e.Cure = fmt.Sprintf("unpack it: dpkg-deb -x %s DIR, and give DIR/boot/vmlinuz-*", path)
	case has("\xed\xab\xee\xdb"):
		e.Detail = "is an RPM package, not a kernel"
		e.Cure = "unpack it: rpm2cpio FILE | cpio -id, and give lib/modules/*/vmlinuz"
	case has("\x27\x05\x19\x56"): // include/image.h of U-Boot, IH_MAGIC
		e.Detail = "is a U-Boot image, not a kernel that QEMU can load"
	case has("QFI\xfb"), at(0x8001, "CD001"):
		e.Detail = "is a disk image, not a kernel"
		e.Cure = "copy the kernel out of it, usually /boot/vmlinuz-*"
	case at(0x24, "\x18\x28\x6f\x01"): // arch/arm/boot/compressed/head.S
		e.Kind = ErrUnsupported
		e.Detail = "is a 32-bit ARM zImage"
	case len(head) >= offBootFlag && len(head) < offMagic+4 && has("MZ"):
		e.Detail = "is too short"
	case isText(head):
		e.Detail = "is a text file, not a kernel"
		base := filepath.Base(path)
		rel, isConfig := strings.CutPrefix(base, "config-")
		if !isConfig {
			rel, isConfig = strings.CutPrefix(base, "System.map-")
		}
		if isConfig {
			e.Cure = "did you mean " + filepath.Join(filepath.Dir(path), "vmlinuz-"+rel) + "?"
		}
	default:
		e.Detail = fmt.Sprintf("is not a kernel that is known here (neither bzImage, vmlinux nor arm64 Image; it begins with % x)", head[:min(len(head), 8)])
	}
	return e
}

// foreignGzip looks into a gzip file: a kernel in there is worth a hint.
func foreignGzip(r io.ReaderAt, size int64, path string) error {
	e := &Error{Path: path, Kind: ErrNotKernel, Detail: "is gzip-compressed data, not a kernel"}
	z, err := gzip.NewReader(io.NewSectionReader(r, 0, size))
	if err != nil {
		return e
	}
	defer z.Close() //nolint:errcheck // only memory
	head := make([]byte, 4096)
	n, _ := io.ReadFull(z, head)
	head = head[:n]
	var what string
	switch {
	case isARM64Image(head):
		what = "arm64 Image"
	case isSetupHeader(head):
		what = "bzImage"
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		what = "ELF file (a vmlinux?)"
	case bytes.HasPrefix(head, []byte("070701")):
		e.Detail = "is a compressed cpio archive (an initramfs?), not a kernel"
		return e
	default:
		return e
	}
	e.Detail = "is a gzip-compressed " + what
	e.Cure = fmt.Sprintf("unpack it first: gzip -dc %s > kernel", path)
	return e
}

// isText says whether the beginning of a file looks like UTF-8 text.
func isText(head []byte) bool {
	if len(head) > 512 {
		head = head[:512]
		for range utf8.UTFMax { // the cut may go through a rune
			if r, n := utf8.DecodeLastRune(head); r != utf8.RuneError || n != 1 {
				break
			}
			head = head[:len(head)-1]
		}
	}
	if !utf8.Valid(head) {
		return false
	}
	return !bytes.ContainsFunc(head, func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\t' && r != '\r' && r != '\f' && r != '\x1b'
	})
}
