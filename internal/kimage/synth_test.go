// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"testing"

	"gotest.tools/v3/assert"
)

// Synthetic kernels: the smallest files that have what real ones have. Real
// kernels are tested in real_test.go.

const (
	testRelease = "6.12.0-test"
	testHeader  = testRelease + " (me@here) #1 SMP Tue"
	testBanner  = "Linux version " + testRelease + " (me@here) (gcc (Foo 1.2, x) 12.2.0, GNU ld (Foo) 2.40) #1 SMP Tue"
	testBuildID = "0123456789abcdef0123456789abcdef01234567"
	testConfig  = "#\n# Linux/x86 6.12.0 Kernel Configuration\n#\nCONFIG_IKCONFIG=y\nCONFIG_KASAN=y\n# CONFIG_KCSAN is not set\nCONFIG_VIRTIO_BLK=m\nCONFIG_NR_CPUS=64\nCONFIG_CC_VERSION_TEXT=\"gcc = 12\"\n"
	testEntry   = 0x1000a30
)

// vmlinuxSpec says what a synthetic vmlinux contains.
type vmlinuxSpec struct {
	vaddr   uint64 // 0: where x86-64 kernels are
	machine elf.Machine
	notes   []byte
	rodata  []byte // after banner and config
	banner  string
	config  string
}

func defaultSpec() vmlinuxSpec {
	id := []byte("\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67")
	entry := binary.LittleEndian.AppendUint64(nil, testEntry)
	return vmlinuxSpec{
		machine: elf.EM_X86_64,
		notes:   append(note("GNU", noteGNUBuildID, id), note("Xen", noteXenPhys32, entry)...),
		banner:  testBanner,
		config:  testConfig,
	}
}

func note(name string, kind uint32, desc []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(name)+1))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(desc)))
	b = binary.LittleEndian.AppendUint32(b, kind)
	b = append(b, name...)
	b = append(b, make([]byte, 4-len(name)%4)...)
	b = append(b, desc...)
	return append(b, make([]byte, (4-len(desc)%4)%4)...)
}

// vmlinux makes an ELF file of one PT_LOAD and one PT_NOTE segment.
func (s vmlinuxSpec) build() []byte {
	if s.vaddr == 0 {
		s.vaddr = 0xffffffff81000000
	}
	var load bytes.Buffer
	load.WriteString("%s version %s\x00Linux version %s\x00") // format strings, as linux_proc_banner
	if s.banner != "" {
		load.WriteString(bytesBefore(s.banner) + "\n\x00")
		load.WriteString(s.banner + "\n\x00")
	}
	load.WriteString("IKCFG_STnot a config")
	if s.config != "" {
		load.WriteString("IKCFG_ST")
		z := gzip.NewWriter(&load)
		_, _ = z.Write([]byte(s.config))
		_ = z.Close()
		load.WriteString("IKCFG_ED")
	}
	load.Write(s.rodata)

	const headers = 64 + 2*56
	var b bytes.Buffer
	le := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	le(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(s.machine), Version: 1, Entry: 0x1000000,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	})
	le(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: 5, Off: headers + uint64(len(s.notes)), Vaddr: s.vaddr, Paddr: 0x1000000,
		Filesz: uint64(load.Len()), Memsz: uint64(load.Len()), Align: 0x200000})
	le(elf.Prog64{Type: uint32(elf.PT_NOTE), Flags: 4, Off: headers, Vaddr: s.vaddr, Filesz: uint64(len(s.notes)), Memsz: uint64(len(s.notes)), Align: 4})
	b.Write(s.notes)
	b.Write(load.Bytes())
	return b.Bytes()
}

// bytesBefore makes the weak banner, which lacks the build number.
func bytesBefore(banner string) string {
	i := bytes.LastIndex([]byte(banner), []byte(" #"))
	if i < 0 {
		return banner
	}
	return banner[:i] + " # SMP Tue"
}

// withSize appends the unpacked size, as the kernel build does for all
// compressions but gzip.
func withSize(payload []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(payload), uint32(size))
}

// bzImage wraps a payload into setup code with a header of protocol 2.15, and
// some bytes of decompressor around.
func bzImage(payload []byte) []byte {
	const setupSects = 4
	setup := make([]byte, (setupSects+1)*sectorSize)
	pm := append(bytes.Repeat([]byte{0x90}, 100), payload...)
	pm = append(pm, bytes.Repeat([]byte{0xcc}, 333)...)
	le := binary.LittleEndian
	setup[offSetupSects] = setupSects
	le.PutUint32(setup[offSyssize:], uint32((len(pm)+15)/16))
	le.PutUint16(setup[offBootFlag:], bootFlag)
	copy(setup[offMagic:], "HdrS")
	le.PutUint16(setup[offVersion:], 0x020f)
	le.PutUint16(setup[offKernelVersion:], 0x500)
	copy(setup[0x700:], testHeader+"\x00junk")
	le.PutUint16(setup[offXLoadFlags:], xlfKernel64)
	le.PutUint32(setup[offPayloadOffset:], 100)
	le.PutUint32(setup[offPayloadLength:], uint32(len(payload)))
	return append(setup, pm...)
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	assert.NilError(t, err)
	assert.NilError(t, z.Close())
	return b.Bytes()
}

// arm64Image has the header of booting.rst and a banner.
func arm64Image() []byte {
	b := make([]byte, 4096)
	copy(b[56:], "ARM\x64")
	return append(b, testBanner+"\n"...)
}
