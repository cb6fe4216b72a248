// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The kernel's xz payload is made with the x86 BCJ filter in front of LZMA2
// (scripts/xz_wrap.sh), which the xz library does not know. Therefore the
// container is read here, after "The .xz File Format" 1.2.1
// (https://tukaani.org/xz/xz-file-format.txt), and only LZMA2 is left to the
// library. Section numbers below are those of that document.
const (
	xzFilterX86   = 0x04 // 5.3.2
	xzFilterLZMA2 = 0x21 // 5.3.1
)

var errXZ = errors.New("damaged xz data")

// unpackXZ decodes the blocks of one xz stream to at most size bytes.
func unpackXZ(ctx context.Context, body []byte, size int) ([]byte, error) {
	// 2.1.1: magic, 2 bytes of flags, CRC32 of the flags.
	if len(body) < 12 || crc32.ChecksumIEEE(body[6:8]) != binary.LittleEndian.Uint32(body[8:]) {
		return nil, errXZ
	}
	check := body[7]
	checkLen := map[byte]int{0: 0, 1: 4, 4: 8, 10: 32}
	if _, ok := checkLen[check]; !ok || body[6] != 0 {
		return nil, fmt.Errorf("xz: unknown check %#x", check)
	}
	in := bytes.NewReader(body[12:])
	var out []byte
	for {
		b, err := in.ReadByte()
		if err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		if b == 0 { // 4: the index; the blocks' own checks and the size suffice
			return out, nil
		}
		header := make([]byte, (int(b)+1)*4)
		header[0] = b
		if _, err := io.ReadFull(in, header[1:]); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		bcj, dict, err := parseBlockHeader(header)
		if err != nil {
			return nil, err
		}
		start := in.Len()
		z, err := lzma.Reader2Config{DictCap: min(dict, dictFor(size))}.NewReader2(ctxReader{ctx, in})
		if err != nil {
			return nil, err
		}
		block, err := readAll(z, size-len(out))
		if err != nil {
			return nil, err
		}
		if !z.EOS() {
			return nil, io.ErrUnexpectedEOF
		}
		if bcj {
			decodeX86(block)
		}
		// 3.3, 3.4: zero bytes to a multiple of four, then the check.
		tail := make([]byte, (4-(start-in.Len())%4)%4+checkLen[check])
		if _, err := io.ReadFull(in, tail); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		sum := tail[len(tail)-checkLen[check]:]
		if !checkMatches(check, block, sum) {
			return nil, errors.New("xz: checksum mismatch")
		}
		if out == nil {
			out = block // the only one, as the kernel build makes it
		} else {
			out = append(out, block...)
		}
	}
}

func checkMatches(check byte, data, sum []byte) bool {
	switch check {
	case 1:
		return crc32.ChecksumIEEE(data) == binary.LittleEndian.Uint32(sum)
	case 4:
		return crc64.Checksum(data, crc64.MakeTable(crc64.ECMA)) == binary.LittleEndian.Uint64(sum)
	case 10:
		want := sha256.Sum256(data)
		return bytes.Equal(want[:], sum)
	}
	return true
}

// parseBlockHeader reads a block header (3.1), whose length is checked.
func parseBlockHeader(h []byte) (bcj bool, dict int, err error) {
	end := len(h) - 4
	if crc32.ChecksumIEEE(h[:end]) != binary.LittleEndian.Uint32(h[end:]) {
		return false, 0, errXZ
	}
	flags := h[1]
	r := bytes.NewReader(h[2:end])
	if flags&0x3c != 0 {
		return false, 0, errXZ
	}
	for _, present := range []byte{0x40, 0x80} { // compressed, uncompressed size
		if flags&present != 0 {
			if _, err := binary.ReadUvarint(r); err != nil {
				return false, 0, errXZ
			}
		}
	}
	count := int(flags&3) + 1
	for i := range count {
		id, err1 := binary.ReadUvarint(r) // 1.2: the same encoding as Go's
		n, err2 := binary.ReadUvarint(r)
		if err1 != nil || err2 != nil || n > uint64(r.Len()) {
			return false, 0, errXZ
		}
		props := make([]byte, n)
		_, _ = io.ReadFull(r, props) // cannot fail: n <= r.Len()
		switch {
		case id == xzFilterX86 && i == 0 && count == 2:
			// 5.3.2: an optional start offset, which nobody uses.
			if n != 0 && !bytes.Equal(props, make([]byte, 4)) {
				return false, 0, errors.New("xz: x86 filter with a start offset")
			}
			bcj = true
		case id == xzFilterLZMA2 && i == count-1 && n == 1:
			if dict, err = dictSize(props[0]); err != nil {
				return false, 0, err
			}
		default:
			return false, 0, fmt.Errorf("xz: filter %#x is not one that x86 kernels use", id)
		}
	}
	return bcj, dict, nil
}

// dictSize decodes LZMA2's dictionary size (5.3.1).
func dictSize(bits byte) (int, error) {
	switch {
	case bits > 40:
		return 0, errXZ
	case bits == 40:
		return 1<<32 - 1, nil
	}
	return (2 | int(bits&1)) << (bits/2 + 11), nil
}

// decodeX86 reverses xz's x86 filter in place. The encoder replaced the
// relative targets of CALL (E8) and JMP (E9) by absolute ones, because equal
// targets compress better. To tell instructions from data it only touches
// operands whose highest byte is 00 or FF (near targets), and it distrusts an
// opcode byte that follows closely upon another. The decoder must take the same
// decisions from the same bytes.
//
// The algorithm is Igor Pavlov's from the LZMA SDK; the reference is
// lib/xz/xz_dec_bcj.c of the kernel. recent has one bit for each of the last
// three bytes, bit 0 the latest: set where an opcode byte stood whose operand
// was left alone.
func decodeX86(data []byte) {
	near := func(b byte) bool { return b == 0x00 || b == 0xff }
	recent := uint32(0)
	last := -1 // where the previous opcode byte was seen
	for i := 0; i+5 <= len(data); i++ {
		if data[i]&0xfe != 0xe8 {
			continue
		}
		if gap := i - last; gap > 3 {
			recent = 0
		} else {
			recent = recent << (gap - 1) & 7
		}
		last = i
		// byteOf is which operand byte, from the highest, the latest
		// distrusted opcode would have as its own highest.
		byteOf := 0
		if recent != 0 {
			switch {
			case recent&4 != 0:
				byteOf = 3
			case recent&2 != 0:
				byteOf = 2
			default:
				byteOf = 1
			}
			// 3, 5, 6 and 7 are more than one distrusted opcode in reach.
			if recent == 3 || recent >= 5 || near(data[i+4-byteOf]) {
				recent = recent<<1 | 1
				continue
			}
		}
		if !near(data[i+4]) {
			recent = recent<<1 | 1
			continue
		}
		src := binary.LittleEndian.Uint32(data[i+1:])
		dest := src - uint32(i+5)
		for recent != 0 {
			shift := 8 * byteOf
			if !near(byte(dest >> (24 - shift))) {
				break
			}
			src = dest ^ (1<<(32-shift) - 1)
			dest = src - uint32(i+5)
		}
		dest &= 0x01ffffff
		dest |= -(dest & 0x01000000) // sign
		binary.LittleEndian.PutUint32(data[i+1:], dest)
		i += 4
	}
}
