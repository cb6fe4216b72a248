// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// Details is what only the whole kernel tells. Strings come from the kernel
// file and are printable ASCII of bounded length.
type Details struct {
	// Banner is linux_banner, the first line of the kernel's log.
	Banner string `json:"banner"`
	// Release is what uname -r prints in that kernel. It is empty when the
	// file does not tell.
	Release string `json:"release"`
	// Compiler is the compiler's name and version.
	Compiler string `json:"compiler"`
	// BuildID is the GNU build-id in lower-case hex, or "". A vmlinux with
	// debug information belongs to this kernel exactly if it has the same.
	BuildID string `json:"build_id"`
	// PVHEntry is the physical address of the PVH entry, 0 when the kernel
	// has none (CONFIG_PVH is off).
	PVHEntry uint64 `json:"pvh_entry"`

	// VmlinuxPath is the uncompressed ELF kernel: extracted into the cache,
	// or the kernel file itself when that is one. It is "" without a cache,
	// and for other formats.
	VmlinuxPath string `json:"-"`
	// SHA256 is the hash of the kernel file, "" without a cache.
	SHA256 string `json:"-"`

	config []byte // the embedded one, or nil
}

// PVH says whether the kernel can be booted by its PVH note.
func (d *Details) PVH() bool { return d.PVHEntry != 0 }

// Entries of the cache: kind, version of what is in them, files.
const (
	cacheKind    = "kernel-image"
	cacheVersion = "v1"
	fileVmlinux  = "vmlinux"
	fileDetails  = "details.json"
	fileConfig   = "config"
)

// Details returns what only the whole file tells. The first call for a kernel
// unpacks it, which takes up to seconds and memory of several times its size;
// the result is kept in c under the file's hash, and in img. Without a cache
// (nil), nothing is written.
//
// A kernel whose compression cannot be unpacked gives an [*Error] of kind
// [ErrUnsupported] (such a bzImage may still boot), one whose content does not
// fit its header one of kind [ErrDamaged].
//
// The result is shared: do not modify it.
func (img *Image) Details(ctx context.Context, c *cache.Cache) (*Details, error) {
	img.mu.Lock()
	defer img.mu.Unlock()
	if d := img.details; d != nil && (c == nil || d.stillThere()) {
		return d, nil
	}
	d, err := img.loadDetails(ctx, c)
	if err != nil {
		return nil, err
	}
	img.details = d
	return d, nil
}

// stillThere says whether the extracted vmlinux was not deleted meanwhile.
func (d *Details) stillThere() bool {
	if d.SHA256 == "" {
		return false // read without a cache
	}
	if d.VmlinuxPath == "" {
		return true
	}
	_, err := os.Lstat(d.VmlinuxPath)
	return err == nil
}

func (img *Image) loadDetails(ctx context.Context, c *cache.Cache) (*Details, error) {
	if img.Compression == LZO {
		return nil, &Error{Path: img.Path, Kind: ErrUnsupported, Detail: "cannot extract vmlinux", Err: errLZO,
			Cure: "build it with CONFIG_KERNEL_ZSTD"}
	}
	if c == nil {
		d, config, _, err := img.read(ctx)
		if err != nil {
			return nil, err
		}
		d.config = config
		return d, nil
	}
	sum, err := c.HashFile(img.Path)
	if err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	dir, _, err := c.Get(ctx, cacheKind, sum+"-"+cacheVersion, func(ctx context.Context, tmp string) error {
		return img.fill(ctx, tmp)
	})
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			return nil, e // about the kernel, not about the cache
		}
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, fileDetails))
	if err != nil {
		return nil, fmt.Errorf("read kernel details: %w", err)
	}
	d := &Details{SHA256: sum}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("read kernel details %s: %w", dir, err)
	}
	d.config, err = os.ReadFile(filepath.Join(dir, fileConfig))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read kernel details: %w", err)
	}
	switch img.Format {
	case BzImage:
		d.VmlinuxPath = filepath.Join(dir, fileVmlinux)
	case Vmlinux:
		if d.VmlinuxPath, err = filepath.Abs(img.Path); err != nil {
			return nil, fmt.Errorf("read kernel: %w", err)
		}
	}
	return d, nil
}

// fill makes the cache entry.
func (img *Image) fill(ctx context.Context, dir string) error {
	d, config, vmlinux, err := img.read(ctx)
	if err != nil {
		return err
	}
	if vmlinux != nil {
		if err := os.WriteFile(filepath.Join(dir, fileVmlinux), vmlinux, 0o644); err != nil { //nolint:gosec // for QEMU, which runs as another user
			return err
		}
	}
	if config != nil {
		if err := os.WriteFile(filepath.Join(dir, fileConfig), config, 0o600); err != nil {
			return err
		}
	}
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fileDetails), data, 0o600)
}

// read reads the kernel. vmlinux is nil unless it had to be unpacked.
func (img *Image) read(ctx context.Context) (d *Details, config, vmlinux []byte, err error) {
	f, err := os.Open(img.Path)
	if err != nil {
		return nil, nil, nil, openError(img.Path, err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	return img.readFrom(ctx, f)
}

func (img *Image) readFrom(ctx context.Context, r io.ReaderAt) (d *Details, config, vmlinux []byte, err error) {
	if img.Format == RawFile {
		d, config, err = analyzeRaw(r, img.Bytes)
		return d, config, nil, err
	}
	size := img.Bytes
	if img.Format == BzImage {
		payload := make([]byte, img.payloadLen)
		if _, err := r.ReadAt(payload, img.payloadOff); err != nil {
			return nil, nil, nil, &Error{Path: img.Path, Kind: ErrTruncated, Detail: "cannot read its payload", Err: err}
		}
		vmlinux, err = unpack(ctx, img.Compression, payload)
		if err != nil {
			if ctx.Err() != nil {
				return nil, nil, nil, fmt.Errorf("unpack kernel %s: %w", img.Path, context.Cause(ctx))
			}
			kind := ErrDamaged
			if errors.Is(err, errLZO) {
				kind = ErrUnsupported
			}
			return nil, nil, nil, &Error{Path: img.Path, Kind: kind,
				Detail: fmt.Sprintf("cannot unpack its %s payload", img.Compression), Err: err, Cure: "copy or build it again"}
		}
		inner, err := inspect(bytes.NewReader(vmlinux), int64(len(vmlinux)), img.Path)
		if err != nil || inner.Format != Vmlinux || inner.Arch != img.Arch {
			return nil, nil, nil, &Error{Path: img.Path, Kind: ErrDamaged,
				Detail: fmt.Sprintf("its %s payload is not a vmlinux for %s", img.Compression, img.Arch), Err: err}
		}
		r, size = bytes.NewReader(vmlinux), int64(len(vmlinux))
	}
	d, config, err = analyze(r, size)
	if err != nil {
		return nil, nil, nil, &Error{Path: img.Path, Kind: ErrDamaged, Detail: "cannot read", Err: err}
	}
	if d.Release == "" {
		// linux_banner is always there; be content with the header's version
		// when a future kernel hides it.
		d.Release = img.headerRelease()
	}
	return d, config, vmlinux, nil
}

// analyzeRaw is analyze for a kernel without ELF structure.
func analyzeRaw(r io.ReaderAt, size int64) (d *Details, config []byte, err error) {
	d = &Details{}
	if d.Banner, err = findBanner(r, 0, size); err != nil {
		return nil, nil, err
	}
	d.Release, d.Compiler = splitBanner(d.Banner)
	config, err = findConfig(r, 0, size)
	return d, config, err
}

// Vmlinux returns the path of the kernel as an uncompressed ELF file: the
// extracted vmlinux in the cache, or the kernel file itself when that is one.
// The file must not be modified, and may disappear when the cache is deleted.
// For errors see [Image.Details]; a raw arm64 Image has none (ErrUnsupported).
func (img *Image) Vmlinux(ctx context.Context, c *cache.Cache) (string, error) {
	if img.Format == RawFile {
		return "", &Error{Path: img.Path, Kind: ErrUnsupported, Detail: "is a raw Image, which contains no ELF file"}
	}
	d, err := img.Details(ctx, c)
	if err != nil {
		return "", err
	}
	return d.VmlinuxPath, nil
}

// headerRelease is the release in a bzImage's header, or "".
func (img *Image) headerRelease() string {
	for i, r := range img.HeaderVersion {
		if r == ' ' {
			return img.HeaderVersion[:i]
		}
	}
	return img.HeaderVersion
}

// Release returns what uname -r prints in this kernel. For a bzImage it comes
// from the header, for other formats from the whole file. An unknown release is
// "" without an error.
func (img *Image) Release(ctx context.Context, c *cache.Cache) (string, error) {
	if r := img.headerRelease(); r != "" {
		return r, nil
	}
	d, err := img.Details(ctx, c)
	if err != nil {
		return "", err
	}
	return d.Release, nil
}
