// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// State is whether a kernel has a feature.
type State string

// The states. Unknown means that the kernel's config was not found.
const (
	Yes     State = "yes"
	Module  State = "module"
	No      State = "no"
	Unknown State = "unknown"
)

// Info is what kvmrun kernel info prints; its JSON names are stable.
type Info struct {
	Path        string      `json:"path"`
	Bytes       int64       `json:"bytes"`
	SHA256      string      `json:"sha256,omitempty"`
	Arch        Arch        `json:"arch"`
	Format      Format      `json:"format"`
	Compression Compression `json:"compression"`
	Release     string      `json:"release"`
	Version     string      `json:"version"` // the banner, or the header's version
	Compiler    string      `json:"compiler,omitempty"`
	BuildID     string      `json:"build_id,omitempty"`
	PVH         bool        `json:"pvh"`
	PVHEntry    uint64      `json:"pvh_entry,omitempty"` // physical address
	Config      string      `json:"config,omitempty"`    // where it was found
	ModulesDir  string      `json:"modules_dir,omitempty"`
	Features    []Feature   `json:"features"`
	// Problem says what could not be read, "" normally.
	Problem string `json:"problem,omitempty"`
}

// Feature is one thing of interest and the symbol that decides on it.
type Feature struct {
	Name   string `json:"name"`
	Symbol string `json:"symbol"`
	State  State  `json:"state"`
}

// features lists what Info looks for, in the order of printing.
func features() []Feature {
	return []Feature{
		{Name: "KASAN", Symbol: "KASAN"},
		{Name: "KCSAN", Symbol: "KCSAN"},
		{Name: "KMSAN", Symbol: "KMSAN"},
		{Name: "UBSAN", Symbol: "UBSAN"},
		{Name: "fault injection", Symbol: "FAULT_INJECTION"},
		{Name: "lockdep", Symbol: "LOCKDEP"},
		{Name: "KASLR", Symbol: "RANDOMIZE_BASE"},
		{Name: "debug info", Symbol: "DEBUG_INFO"},
		{Name: "embedded config", Symbol: "IKCONFIG"},
		{Name: "initramfs", Symbol: "BLK_DEV_INITRD"},
		{Name: "virtio console", Symbol: "VIRTIO_CONSOLE"},
		{Name: "virtio disk", Symbol: "VIRTIO_BLK"},
	}
}

// Info collects everything that is known about the kernel. A missing config or
// a payload that cannot be unpacked is no error: the fields it would fill stay
// empty or unknown, and Problem says why.
func (img *Image) Info(ctx context.Context, c *cache.Cache) (*Info, error) {
	info := &Info{
		Path: img.Path, Bytes: img.Bytes, Arch: img.Arch, Format: img.Format, Compression: img.Compression,
		Release: img.headerRelease(), Version: img.HeaderVersion,
	}
	d, err := img.Details(ctx, c)
	switch {
	case errors.Is(err, ErrUnsupported):
		info.Problem = err.Error()
	case err != nil:
		return nil, err
	default:
		info.SHA256, info.Compiler, info.BuildID = d.SHA256, d.Compiler, d.BuildID
		info.PVH, info.PVHEntry = d.PVH(), d.PVHEntry
		if d.Release != "" {
			info.Release = d.Release
		}
		if d.Banner != "" {
			info.Version = d.Banner
		}
	}
	cfg, err := img.Config(ctx, c)
	switch {
	case errors.Is(err, ErrNoConfig):
		if info.Problem == "" {
			info.Problem = err.Error()
		}
	case err != nil:
		return nil, err
	default:
		info.Config = cfg.Source
	}
	for _, f := range features() {
		f.State = Unknown
		if cfg != nil {
			switch cfg.Value(f.Symbol) {
			case "y":
				f.State = Yes
			case "m":
				f.State = Module
			default:
				f.State = No
			}
		}
		info.Features = append(info.Features, f)
	}
	if info.Release == "" {
		return info, nil
	}
	if info.ModulesDir, err = img.ModulesDir(ctx, c, ""); err != nil {
		return nil, err
	}
	return info, nil
}

// WriteText prints the info for people.
func (info *Info) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("path", info.Path)
	row("arch", info.Arch)
	format := string(info.Format)
	if info.Compression != None {
		format += ", " + string(info.Compression)
	}
	row("format", format)
	row("release", orUnknown(info.Release))
	row("version", orUnknown(info.Version))
	row("compiler", orUnknown(info.Compiler))
	row("build-id", orUnknown(info.BuildID))
	if info.PVH {
		row("PVH", fmt.Sprintf("yes, entry %#x", info.PVHEntry))
	} else {
		row("PVH", "no")
	}
	row("config", orUnknown(info.Config))
	row("modules", orUnknown(info.ModulesDir))
	for _, f := range info.Features {
		row(f.Name, f.State)
	}
	if info.Problem != "" {
		row("problem", info.Problem)
	}
	return t.Flush()
}

func orUnknown(s string) string {
	if s == "" {
		return string(Unknown)
	}
	return s
}
