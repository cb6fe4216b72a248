// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/vmtest/internal/args"
)

// templateFormat is the version of what Save writes.
const templateFormat = 2

// ErrDamaged is wrapped by the errors of files that are not what
// [Template.Save] wrote.
var ErrDamaged = errors.New("the file is damaged")

// ErrOther is wrapped by LoadTemplate's error about a template of another machine, or
// of another QEMU or host than the present ones.
var ErrOther = errors.New("it is of another machine, QEMU or host, or from before this host was booted")

// savedTemplate is the manifest of a saved template.
type savedTemplate struct {
	Format int `json:"format"`
	// Identity is that of the machine's Config, on the host that froze it.
	Identity string    `json:"identity"`
	Memory   int64     `json:"memory"` // bytes
	Version  [2]int    `json:"version"`
	ROM      string    `json:"rom"`
	Accel    Accel     `json:"accel"`
	RAM      fileSum   `json:"ram"`
	State    fileSum   `json:"state"`
	Files    []fileSum `json:"files,omitempty"` // disks, for instance
	// CRC is that of the manifest itself, with 0 here.
	CRC uint32 `json:"crc32c"`
}

// sum sets CRC to what it must be.
func (m *savedTemplate) sum() error {
	m.CRC = 0
	text, err := json.Marshal(m)
	m.CRC = crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli))
	return err
}

type fileSum struct {
	Bytes int64  `json:"bytes"`
	CRC   uint32 `json:"crc32c"`
}

const (
	manifestFile = "template.json"
	ramFile      = "ram"
	stateFile    = "state"
)

// identity returns a hash of all that a template of such a machine depends on but
// for the content of kernel, initial ramdisk and disks: QEMU's binary and version,
// its arguments, this host and the time since it was booted, because the guest has
// measured the host's time stamp counter.
func identity(c Config) (string, error) {
	c, arch, err := c.withDefaults()
	if err != nil {
		return "", err
	}
	path, st, err := statQEMU(c.QEMU)
	if err != nil {
		return "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id") // random(4)
	if err != nil {
		return "", fmt.Errorf("identify host: %w", err)
	}
	rom := bootROM(c.Kernel)
	// The files' names say nothing of their content.
	c.Kernel = "kernel"
	if c.Initrd != "" {
		c.Initrd = "initrd"
	}
	c.Disks = slices.Clone(c.Disks)
	for i := range c.Disks {
		c.Disks[i].Path = ""
	}
	accel := args.TCG
	if c.Accel == AccelKVM || c.Accel == AccelAuto && kvmUnusable(arch, kvmDevice, cpuinfo) == "" {
		accel = args.KVM
	}
	spec := c.shape(arch, accel)
	spec.Memory = &args.Memory{Shared: true}
	argv, err := args.Argv(args.Build(spec))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d\n%s %d %d\n%s\n%q\n%s\n", templateFormat, path, st.Size(), st.ModTime().UnixNano(), boot, argv, rom)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Save writes the template into files in dir, which exists and is empty, and with
// it the content of files that belong to it, such as the machine's disks at that
// moment. What is zero takes no space.
func (t *Template) Save(dir string, files ...*os.File) error {
	if t.identity == "" {
		return errors.New("save template: QEMU or the host could not be identified when the machine was frozen")
	}
	m := savedTemplate{
		Format: templateFormat, Identity: t.identity, Memory: int64(t.config.MemoryMiB) << 20,
		Version: t.version, ROM: t.rom, Accel: t.config.Accel,
	}
	var err error
	if m.RAM, err = packTo(filepath.Join(dir, ramFile), t.ram); err == nil {
		m.State, err = packTo(filepath.Join(dir, stateFile), t.state)
	}
	for i, f := range files {
		var sum fileSum
		if err == nil {
			sum, err = packTo(filepath.Join(dir, otherFile(i)), f)
			m.Files = append(m.Files, sum)
		}
	}
	if err != nil {
		return fmt.Errorf("save template: %w", err)
	}
	if err := m.sum(); err != nil {
		return fmt.Errorf("save template: %w", err)
	}
	text, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, manifestFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save template: %w", err)
	}
	return nil
}

func otherFile(i int) string { return fmt.Sprintf("file-%d", i) }

// LoadTemplate reads what [Template.Save] wrote into dir: the template, and the
// files that were saved with it, as files without a name in the host's memory. Both
// are the caller's to close.
//
// The Config is that of the machine that was frozen, with the same content of kernel
// and initial ramdisk, which the caller knows. Another Config, QEMU or host, or the
// same host after a reboot, gives an error that wraps [ErrOther]; files that have
// changed since give one that wraps [ErrDamaged].
func LoadTemplate(dir string, c Config) (_ *Template, _ []*os.File, err error) {
	fail := func(err error) (*Template, []*os.File, error) {
		return nil, nil, fmt.Errorf("load template: %w", err)
	}
	id, err := identity(c)
	if err != nil {
		return fail(err)
	}
	c, _, err = c.withDefaults()
	if err != nil {
		return fail(err)
	}
	if c.QEMU, err = lookQEMU(c.QEMU); err != nil {
		return fail(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return fail(err)
	}
	var m savedTemplate
	err = json.Unmarshal(text, &m)
	if want := m; err != nil || want.sum() != nil || want.CRC != m.CRC || m.Format != templateFormat {
		return fail(fmt.Errorf("manifest: %w", ErrDamaged))
	}
	if m.Identity != id {
		return fail(ErrOther)
	}
	if m.Memory != int64(c.MemoryMiB)<<20 || m.ROM != bootROM(c.Kernel) {
		return fail(fmt.Errorf("manifest: %w", ErrDamaged))
	}
	t := &Template{version: m.Version, rom: m.ROM, identity: id}
	t.keep(c, m.Accel)
	if t.ram, err = unpackFrom(filepath.Join(dir, ramFile), m.RAM, "guest memory"); err != nil {
		return fail(err)
	}
	var files []*os.File
	defer func() {
		if err != nil {
			_ = t.Close()
			for _, f := range files {
				_ = f.Close()
			}
		}
	}()
	if t.state, err = unpackFrom(filepath.Join(dir, stateFile), m.State, "device state"); err != nil {
		return fail(err)
	}
	for _, f := range []*os.File{t.ram, t.state} {
		if err = seal(f); err != nil {
			return fail(err)
		}
	}
	for i, sum := range m.Files {
		f, err := unpackFrom(filepath.Join(dir, otherFile(i)), sum, "disk")
		if err != nil {
			return fail(err)
		}
		files = append(files, f)
	}
	return t, files, nil
}

// The packed form of a file is its size and then extents, each an offset, a
// length and as many bytes; all numbers have 8 bytes and are big-endian.

// packPage is the unit in which zeros are looked for, packChunk the longest
// extent, in bytes.
const (
	packPage  = 4096
	packChunk = 1 << 20
)

// packTo writes what is not zero in the file to path, and returns how much that
// is.
func packTo(path string, from *os.File) (fileSum, error) {
	var sum fileSum
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return sum, err
	}
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	w := bufio.NewWriterSize(f, packChunk)
	err = pack(io.MultiWriter(w, crc), from, &sum.Bytes)
	sum.CRC = crc.Sum32()
	return sum, errors.Join(err, w.Flush(), f.Close())
}

func pack(w io.Writer, from *os.File, written *int64) error {
	st, err := from.Stat()
	if err != nil {
		return err
	}
	put := func(b []byte) {
		if err == nil {
			var n int
			n, err = w.Write(b)
			*written += int64(n)
		}
	}
	put(binary.BigEndian.AppendUint64(nil, uint64(st.Size())))
	zero := make([]byte, packPage)
	buf := make([]byte, packChunk)
	for at := int64(0); at < st.Size() && err == nil; {
		var data int64
		seek := withFD(from, func(fd int) (err error) {
			data, err = unix.Seek(fd, at, unix.SEEK_DATA)
			return err
		})
		if errors.Is(seek, unix.ENXIO) {
			break // only a hole is left
		}
		if seek != nil {
			return seek
		}
		at = data &^ (packPage - 1)
		n, rerr := from.ReadAt(buf[:min(packChunk, st.Size()-at)], at)
		if rerr != nil && !errors.Is(rerr, io.EOF) {
			return rerr
		}
		// Runs of pages that are not all zero.
		for i := 0; i < n; {
			end := min(i+packPage, n)
			if bytes.Equal(buf[i:end], zero[:end-i]) {
				i = end
				continue
			}
			for end < n && !bytes.Equal(buf[end:min(end+packPage, n)], zero[:min(end+packPage, n)-end]) {
				end = min(end+packPage, n)
			}
			put(binary.BigEndian.AppendUint64(nil, uint64(at)+uint64(i)))
			put(binary.BigEndian.AppendUint64(nil, uint64(end-i)))
			put(buf[i:end])
			i = end
		}
		at += int64(n)
	}
	return err
}

// unpackFrom reads a packed file into memory.
func unpackFrom(path string, sum fileSum, name string) (_ *os.File, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	if st, err := f.Stat(); err != nil || st.Size() < sum.Bytes {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), ErrDamaged)
	}
	out, err := memory(name, 0)
	if err != nil {
		return nil, err
	}
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	err = unpack(out, io.TeeReader(bufio.NewReaderSize(io.LimitReader(f, sum.Bytes), packChunk), crc))
	if err == nil && crc.Sum32() != sum.CRC {
		err = ErrDamaged
	}
	if err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return out, nil
}

// maxMemory bounds the size of an unpacked file, in bytes: beyond any guest.
const maxMemory = 1 << 44

func unpack(out *os.File, r io.Reader) error {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:8]); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	size := binary.BigEndian.Uint64(head[:])
	if size > maxMemory {
		return fmt.Errorf("%w: size", ErrDamaged)
	}
	if err := out.Truncate(int64(size)); err != nil {
		return err
	}
	buf := make([]byte, packChunk)
	for {
		if _, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		at, n := binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint64(head[8:])
		if n > packChunk || at > size || n > size-at {
			return fmt.Errorf("%w: extent", ErrDamaged)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if _, err := out.WriteAt(buf[:n], int64(at)); err != nil {
			return err
		}
	}
}
