// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"compress/bzip2"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
)

// MaxVmlinux bounds the vmlinux that a bzImage may unpack to, in bytes. The
// kernel's own limit is KERNEL_IMAGE_SIZE, 1 GiB with KASLR
// (arch/x86/include/asm/page_64_types.h).
const MaxVmlinux = 1 << 30

// lz4BlockMax is the block size of the legacy lz4 format
// (lib/decompress_unlz4.c, LZ4_DEFAULT_UNCOMPRESSED_CHUNK_SIZE).
const lz4BlockMax = 8 << 20

// maxRatio bounds how much smaller a kernel can be than its vmlinux, so that a
// small file cannot make us allocate MaxVmlinux. Debian's cloud kernel has 1:5
// with zstd.
const maxRatio = 256

var errTooBig = errors.New("it unpacks to more than its header says")

// unpack decompresses a bzImage's payload. The payload ends with its unpacked
// size as a little-endian 32-bit number, which the kernel build appends, or
// which is gzip's own trailer (scripts/Makefile.lib, size_append). The result
// is exactly that long.
func unpack(ctx context.Context, c Compression, payload []byte) ([]byte, error) {
	if c == None {
		return payload, nil
	}
	if len(payload) < minPayload {
		return nil, io.ErrUnexpectedEOF
	}
	body, trailer := payload[:len(payload)-4], payload[len(payload)-4:]
	size := int(binary.LittleEndian.Uint32(trailer))
	if size > MaxVmlinux || size/maxRatio > len(body) {
		return nil, fmt.Errorf("it says that %d bytes unpack to %d, which no kernel does", len(body), size)
	}
	var out []byte
	var err error
	switch c {
	case Gzip:
		var z *gzip.Reader
		if z, err = gzip.NewReader(ctxReader{ctx, bytes.NewReader(payload)}); err == nil {
			z.Multistream(false)
			out, err = readAll(z, size)
		}
	case Bzip2:
		out, err = readAll(bzip2.NewReader(ctxReader{ctx, bytes.NewReader(body)}), size)
	case LZMA:
		out, err = unpackLZMA(ctx, body, size)
	case XZ:
		out, err = unpackXZ(ctx, body, size)
	case LZ4:
		out, err = unpackLZ4(ctx, body, size)
	case Zstd:
		out, err = unpackZstd(body, size)
	case LZO:
		return nil, errLZO
	default:
		return nil, fmt.Errorf("unknown compression %q", c)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	if len(out) != size {
		return nil, fmt.Errorf("it unpacks to %d bytes, its trailer says %d", len(out), size)
	}
	return out, nil
}

var errLZO = errors.New("its kernel is lzo-compressed, which cannot be unpacked here")

// readAll reads r to its end, at most size bytes. Memory grows with what is
// really there, not with what the trailer promises.
func readAll(r io.Reader, size int) ([]byte, error) {
	buf := bytes.NewBuffer(make([]byte, 0, min(size+bytes.MinRead, 64<<20)))
	if _, err := buf.ReadFrom(io.LimitReader(r, int64(size)+1)); err != nil {
		return nil, err
	}
	if buf.Len() > size {
		return nil, errTooBig
	}
	return buf.Bytes(), nil
}

// zstdWindow is the window of zstd -22 --ultra, which kernels use
// (scripts/Makefile.lib, cmd_zstd22).
const zstdWindow = 128 << 20

// unpackZstd decodes in one piece: a streaming decoder would need memory for
// the window besides. The limit on the output must not be lower than the
// window, because the decoder applies it to both.
func unpackZstd(body []byte, size int) ([]byte, error) {
	limit := uint64(max(size+1, zstdWindow))
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(limit), zstd.WithDecoderMaxWindow(limit))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	out, err := d.DecodeAll(body, make([]byte, 0, size))
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = errTooBig
	}
	return out, err
}

// unpackLZ4 decodes the legacy format: magic, then blocks of a 32-bit
// compressed size and data, each of which unpacks to 8 MiB, the last to less
// (lib/decompress_unlz4.c). Frames may follow each other.
func unpackLZ4(ctx context.Context, body []byte, size int) ([]byte, error) {
	const magic = 0x184c2102
	out := make([]byte, 0, size)
	block := make([]byte, lz4BlockMax)
	for first := true; len(body) > 0; first = false {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(body) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := binary.LittleEndian.Uint32(body)
		body = body[4:]
		if n == magic {
			continue
		}
		if first || uint64(n) > uint64(len(body)) {
			return nil, io.ErrUnexpectedEOF
		}
		m, err := lz4.UncompressBlock(body[:n], block)
		if err != nil {
			return nil, err
		}
		if m > size-len(out) {
			return nil, errTooBig
		}
		out = append(out, block[:m]...)
		body = body[n:]
	}
	return out, nil
}

// unpackLZMA decodes the .lzma format. The dictionary that its header asks for
// (64 MiB for lzma -9) need not be larger than the output.
func unpackLZMA(ctx context.Context, body []byte, size int) ([]byte, error) {
	if len(body) < lzma.HeaderLen {
		return nil, io.ErrUnexpectedEOF
	}
	header := bytes.Clone(body[:lzma.HeaderLen])
	dict := min(uint64(binary.LittleEndian.Uint32(header[1:])), uint64(dictFor(size)))
	binary.LittleEndian.PutUint32(header[1:], uint32(dict))
	r := io.MultiReader(bytes.NewReader(header), ctxReader{ctx, bytes.NewReader(body[lzma.HeaderLen:])})
	z, err := lzma.NewReader(r)
	if err != nil {
		return nil, err
	}
	return readAll(z, size)
}

// dictFor is a dictionary size that is enough for size bytes of output.
func dictFor(size int) int { return max(size, lzma.MinDictCap) }

// ctxReader stops reading when its context ends: unpacking takes seconds.
type ctxReader struct {
	ctx context.Context
	r   *bytes.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// ReadByte makes decoders read from r directly instead of byte-wise through
// Read. The context is looked at now and then only.
func (r ctxReader) ReadByte() (byte, error) {
	if r.r.Len()&0xfff == 0 {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
	}
	return r.r.ReadByte()
}
