// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"context"
	"testing"
	"time"
)

// FuzzOpen feeds arbitrary files to everything that reads them. The laws: no
// panic, no endless loop, an image or an error, and what is said about an image
// lies within the file.
func FuzzOpen(f *testing.F) {
	vmlinux := defaultSpec().build()
	f.Add(vmlinux)
	f.Add(bzImage(gzipped(f, vmlinux)))
	f.Add(arm64Image())
	f.Add(gzipped(f, arm64Image()))
	f.Add([]byte("MZ\x00\x00zimg"))
	for _, magic := range []string{"BZh9", "\x5d\x00", "\xfd7zXZ\x00", "\x89LZO", "\x02\x21\x4c\x18", "\x28\xb5\x2f\xfd", "\x7fELF"} {
		f.Add(bzImage(append([]byte(magic), make([]byte, 100)...)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		img, err := inspect(r, int64(len(data)), "fuzz")
		if (img == nil) == (err == nil) {
			t.Fatalf("image %v, error %v", img, err)
		}
		if err != nil {
			_ = err.Error()
			return
		}
		if img.payloadOff+img.payloadLen > int64(len(data)) {
			t.Fatalf("payload %d+%d of %d", img.payloadOff, img.payloadLen, len(data))
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, _, _, _ = img.readFrom(ctx, r)
		if ctx.Err() != nil {
			t.Fatal("takes too long")
		}
	})
}

// FuzzUnpack feeds arbitrary payloads to the decompressors.
func FuzzUnpack(f *testing.F) {
	all := []Compression{None, Gzip, Bzip2, LZMA, XZ, LZO, LZ4, Zstd}
	data := append(defaultSpec().build(), x86Torture()[:5000]...)
	f.Add(byte(1), gzipped(f, data))
	for _, comp := range compressors {
		for i, c := range all {
			if c == comp.c {
				f.Add(byte(i), withSize(compress(f, comp.argv, data), len(data)))
			}
		}
	}
	f.Fuzz(func(t *testing.T, which byte, payload []byte) {
		out, err := unpack(context.Background(), all[int(which)%len(all)], payload)
		if err == nil && len(out) > (maxRatio+1)*len(payload) {
			t.Fatal("too much")
		}
	})
}
