// SPDX-License-Identifier: Apache-2.0

package runner

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
	"time"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/wire"
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
	keptFormat = 3
)

// kept is what the cache has of a template beside the machine and its log.
type kept struct {
	Format         int
	Ready          wire.Ready
	Held           bool
	PID            int
	Stdout, Stderr []byte
	Accel          vmtest.Accel
	Args           []string
	Notes          []string // of the boot
	Log            uint32   // CRC-32C of the kernel log
	Sum            uint32   // that of all the rest, with 0 here
}

// sum is what Sum must be.
func (k kept) sum() uint32 {
	k.Sum = 0
	text, _ := json.Marshal(k) // as plain data it cannot fail
	return crcOf(text)
}

// Template returns a template for programs like p as [Machine.MakeTemplate] does,
// from the cache when it has one of the same kernel, initial ramdisk, QEMU, host
// and Run; the Outcome is then that of the boot, whose log is written to p's.
// One that is damaged is made anew.
func (m *Machine) Template(ctx context.Context, p Program) (*Template, Outcome, error) {
	key, cfg, err := m.templateKey(ctx, p)
	if err != nil {
		return m.MakeTemplate(ctx, p) // which has a better error
	}
	if dir, ok := m.Cache.Lookup(templateKind, key); ok {
		t, err := loadTemplate(dir, cfg, p)
		if err == nil {
			return t, t.boot, nil
		}
		m.progress("making a template anew: %v", err)
		if err := m.Cache.Remove(ctx, templateKind, key); err != nil {
			return m.MakeTemplate(ctx, p)
		}
	}
	t, out, err := m.MakeTemplate(ctx, p)
	if err != nil || len(out.Splats)+len(out.kernelTests.failed) > 0 {
		return t, out, err // a splat is to be seen each time
	}
	if _, _, err := m.Cache.Get(ctx, templateKind, key, func(_ context.Context, dir string) error { return t.save(dir, p) }); err != nil && ctx.Err() == nil {
		m.progress("the next run will boot: %v", err)
	}
	m.Cache.Trim(templateKind, keepTemplates, 0)
	m.Cache.TrimBytes(templateKind, maxTemplates, 1, 0)
	return t, out, nil
}

// templateKey is the hash of all that a template depends on, and the
// configuration of its machine.
func (m *Machine) templateKey(ctx context.Context, p Program) (string, vmtest.Config, error) {
	disks := p.Spec.Disks
	p.Spec.Disks = nil // to be made only when they are needed
	prep, err := m.prepare(ctx, p)
	if err != nil {
		return "", vmtest.Config{}, err
	}
	cfg := prep.config
	for _, d := range disks {
		cfg.Disks = append(cfg.Disks, vmtest.Disk{Serial: d.Name})
	}
	// What else of QEMU and the host matters, LoadTemplate looks at.
	machine := cfg
	machine.Kernel, machine.Initrd, machine.ConsoleFile, machine.Disks = "", "", "", nil
	kernel, err := m.Cache.HashFile(cfg.Kernel)
	if err != nil {
		return "", cfg, err
	}
	initrd, err := m.Cache.HashFile(cfg.Initrd)
	if err != nil {
		return "", cfg, err
	}
	var run wire.Run // which matters to what is held
	if p.Run.Hold != "" {
		run = p.Run
		run.Nonce = ""
	}
	text, err := json.Marshal(struct {
		Format         int
		Machine        vmtest.Config
		Kernel, Initrd string
		Disks          []suites.Disk
		Run            wire.Run
		Protocol       int
	}{keptFormat, machine, kernel, initrd, disks, run, wire.Version})
	if err != nil {
		return "", cfg, err
	}
	h := sha256.Sum256(text)
	return hex.EncodeToString(h[:]), cfg, nil
}

const (
	keptFile  = "kept.json"
	keptLog   = "console.log"
	keptAbout = "about" // one line for people; package kbuild lists it
)

// save writes the template into an empty directory.
func (t *Template) save(dir string, p Program) error {
	log, err := os.ReadFile(t.log)
	if err != nil {
		return err
	}
	k := kept{
		Format: keptFormat, Ready: t.ready, Held: t.held, PID: t.pid, Stdout: t.stdout, Stderr: t.stderr,
		Accel: t.boot.Accel, Args: t.boot.Args, Notes: t.boot.Notes, Log: crcOf(log),
	}
	k.Sum = k.sum()
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	about := fmt.Sprintf("template of %s, suite %s", p.Kernel.Release, p.Spec.Name)
	var disks []*os.File
	for _, d := range t.disks {
		disks = append(disks, d.file)
	}
	return errors.Join(
		t.vm.Save(dir, disks...),
		os.WriteFile(filepath.Join(dir, keptFile), text, 0o600),
		os.WriteFile(filepath.Join(dir, keptLog), log, 0o600),
		os.WriteFile(filepath.Join(dir, keptAbout), []byte(about), 0o600),
	)
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// loadTemplate reads what save wrote, and writes the boot's log where p wants it.
func loadTemplate(dir string, cfg vmtest.Config, p Program) (_ *Template, err error) {
	began := time.Now()
	t := &Template{log: filepath.Join(p.Dir, p.log())}
	defer func() {
		if err != nil && t.vm != nil {
			_ = t.Close()
		}
	}()
	text, err := os.ReadFile(filepath.Join(dir, keptFile))
	if err != nil {
		return nil, err
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil || k.Format != keptFormat || k.Sum != k.sum() {
		return nil, fmt.Errorf("load template: %w", vmtest.ErrDamaged)
	}
	log, err := os.ReadFile(filepath.Join(dir, keptLog))
	if err != nil {
		return nil, err
	}
	if crcOf(log) != k.Log {
		return nil, fmt.Errorf("load template: kernel log: %w", vmtest.ErrDamaged)
	}
	var disks []*os.File
	if t.vm, disks, err = vmtest.LoadTemplate(dir, cfg); err != nil {
		return nil, err
	}
	for i, f := range disks {
		d := &disk{file: f}
		if i < len(p.Spec.Disks) {
			d.spec = p.Spec.Disks[i]
		}
		t.disks = append(t.disks, d)
	}
	if len(disks) != len(p.Spec.Disks) {
		return nil, fmt.Errorf("load template: %d disks for %d: %w", len(disks), len(p.Spec.Disks), vmtest.ErrDamaged)
	}
	if err := output.Save(t.log, log); err != nil {
		return nil, err
	}
	t.ready, t.held, t.pid, t.stdout, t.stderr = k.Ready, k.Held, k.PID, k.Stdout, k.Stderr
	t.boot = Outcome{Findings: agent.Findings{Ready: &t.ready, Notes: k.Notes, Boot: time.Since(began)}, Accel: k.Accel, Args: k.Args}
	return t, nil
}
