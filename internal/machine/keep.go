// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Templates are kept in the cache, so that the next run need not boot.

const (
	templateKind = "template"
	// keepTemplates bounds how many are kept: each takes what its guest has
	// touched, 100 to 300 MiB.
	keepTemplates = 8
	// maxTemplates bounds what they take together, in bytes; one may be larger.
	maxTemplates = 2 << 30
	// keptFormat is the version of what is kept beside the machine, and of what
	// the key is made of.
	keptFormat = 5
)

// Kept is what the cache has of a template beside the machine.
type Kept struct {
	// State is the keeper's own, in JSON, and Log the kernel log until the freeze.
	State json.RawMessage
	Log   []byte
	// About is one line for people; package kbuild lists it.
	About string
}

// kept is what makes sure of it.
type kept struct {
	Format int
	State  json.RawMessage
	Log    uint32 // CRC-32C of the kernel log
	Sum    uint32 // that of all the rest, with 0 here
}

// sum is what Sum must be.
func (k kept) sum() uint32 {
	k.Sum = 0
	text, _ := json.Marshal(k) // as plain data it cannot fail
	return crcOf(text)
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Slot is the place in the cache for the template of one recipe.
type Slot struct {
	h     *Host
	key   string
	cfg   vmtest.Config
	disks []suites.Disk
	inlet string
}

// Slot returns the place for a template of the recipe that is in the state named by
// state, which must be plain data. What else of QEMU and the host matters is looked at
// when one is loaded.
func (h *Host) Slot(ctx context.Context, r Recipe, state any) (*Slot, error) {
	disks, inlet := r.Disks, r.Inlet
	r.Disks, r.Inlet = nil, "" // to be made only when they are needed
	var cfg vmtest.Config
	var initrd string
	if inlet != "" && r.AgentID != "" {
		// Which program the agent is in does not matter, and none is packed for a
		// template that is there.
		var err error
		if cfg, err = h.config(ctx, r); err != nil {
			return nil, err
		}
		s, err := h.archive(ctx, r)
		if err != nil {
			return nil, err
		}
		s.Init, cfg.Initrd = "", "initrd"
		if initrd, err = initramfs.Hash(ctx, s, h.archives()); err != nil {
			return nil, err
		}
		initrd += r.AgentID
	} else {
		prep, err := h.prepare(ctx, r, Options{Log: "-"})
		if err != nil {
			return nil, err
		}
		cfg = prep.config
		if initrd, err = h.Cache.HashFile(cfg.Initrd); err != nil {
			return nil, err
		}
	}
	for _, d := range disks {
		cfg.Disks = append(cfg.Disks, vmtest.Disk{Serial: d.Name})
	}
	if inlet != "" {
		cfg.Disks = append(cfg.Disks, vmtest.Disk{Serial: inlet, ReadOnly: true})
	}
	machine := cfg
	machine.Kernel, machine.Initrd, machine.ConsoleFile, machine.Disks = "", "", "", nil
	kernel, err := h.Cache.HashFile(cfg.Kernel)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(struct {
		Format         int
		Machine        vmtest.Config
		Kernel, Initrd string
		Disks          []suites.Disk
		Inlet          string
		State          any
	}{keptFormat, machine, kernel, initrd, disks, inlet, state})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return &Slot{h: h, key: hex.EncodeToString(sum[:]), cfg: cfg, disks: disks, inlet: inlet}, nil
}

// Key is the hash of all that a template in the slot depends on.
func (s *Slot) Key() string { return s.key }

// ErrNotKept is that of a template that the cache does not have.
var ErrNotKept = errors.New("not in the cache")

// Load reads the template, which is the caller's to close. The error wraps ErrNotKept
// when there is none; all others are about one that cannot be used.
func (s *Slot) Load() (*Template, Kept, error) {
	dir, ok := s.h.Cache.Lookup(templateKind, s.key)
	if !ok {
		return nil, Kept{}, fmt.Errorf("load template: %w", ErrNotKept)
	}
	return s.load(dir)
}

// Remove takes what there is out of the cache.
func (s *Slot) Remove(ctx context.Context) error {
	return s.h.Cache.Remove(ctx, templateKind, s.key)
}

// Save keeps the template, and of all of them the latest. It stays the caller's.
func (s *Slot) Save(ctx context.Context, t *Template, k Kept) error {
	_, _, err := s.h.Cache.Get(ctx, templateKind, s.key, func(_ context.Context, dir string) error { return t.save(dir, k) })
	s.h.Cache.Trim(templateKind, keepTemplates, 0)
	s.h.Cache.TrimBytes(templateKind, maxTemplates, 1, 0)
	return err
}

const (
	keptFile  = "kept.json"
	keptLog   = "console.log"
	keptAbout = "about"
)

// save writes the template into an empty directory.
func (t *Template) save(dir string, about Kept) error {
	k := kept{Format: keptFormat, State: about.State, Log: crcOf(about.Log)}
	k.Sum = k.sum()
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	var disks []*os.File
	for _, d := range t.disks {
		disks = append(disks, d.file)
	}
	return errors.Join(
		t.vm.Save(dir, disks...),
		os.WriteFile(filepath.Join(dir, keptFile), text, 0o600),
		os.WriteFile(filepath.Join(dir, keptLog), about.Log, 0o600),
		os.WriteFile(filepath.Join(dir, keptAbout), []byte(about.About), 0o600),
	)
}

// load reads what save wrote.
func (s *Slot) load(dir string) (_ *Template, about Kept, err error) {
	t := &Template{inlet: s.inlet}
	defer func() {
		if err != nil && t.vm != nil {
			_ = t.Close()
		}
	}()
	text, err := os.ReadFile(filepath.Join(dir, keptFile))
	if err != nil {
		return nil, about, err
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil || k.Format != keptFormat || k.Sum != k.sum() {
		return nil, about, fmt.Errorf("load template: %w", vmtest.ErrDamaged)
	}
	about.State = k.State
	if about.Log, err = os.ReadFile(filepath.Join(dir, keptLog)); err != nil {
		return nil, about, err
	}
	if crcOf(about.Log) != k.Log {
		return nil, about, fmt.Errorf("load template: kernel log: %w", vmtest.ErrDamaged)
	}
	var disks []*os.File
	if t.vm, disks, err = vmtest.LoadTemplate(dir, s.cfg); err != nil {
		return nil, about, err
	}
	for i, f := range disks {
		d := &Disk{file: f}
		if i < len(s.disks) {
			d.spec = s.disks[i]
		}
		t.disks = append(t.disks, d)
	}
	if len(disks) != len(s.disks) {
		return nil, about, fmt.Errorf("load template: %d disks for %d: %w", len(disks), len(s.disks), vmtest.ErrDamaged)
	}
	return t, about, nil
}
