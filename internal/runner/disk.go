// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// disk is a raw disk image without a name: it is gone with its last open file,
// however the run ends.
type disk struct {
	spec suites.Disk
	file *os.File
}

func makeDisk(ctx context.Context, dir string, s suites.Disk) (*disk, error) {
	f, err := os.CreateTemp(dir, ".disk-*")
	if err != nil {
		return nil, fmt.Errorf("make disk %s: %w", s.Name, err)
	}
	_ = os.Remove(f.Name())
	if err := f.Truncate(int64(s.SizeMiB) << 20); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make disk %s of %d MiB: %w", s.Name, s.SizeMiB, err)
	}
	d := &disk{spec: s, file: f}
	if len(s.Mkfs) > 0 {
		if out, err := d.command(ctx, s.Mkfs); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("make disk %s: %s: %w %s", s.Name, strings.Join(s.Mkfs, " "), err, visible.Short(out))
		}
	}
	return d, nil
}

func (d *disk) check(ctx context.Context) DiskCheck {
	out, err := d.command(ctx, d.spec.Fsck)
	return DiskCheck{Disk: d.spec.Name, Command: strings.Join(d.spec.Fsck, " "), Output: out, Err: err}
}

func (d *disk) command(ctx context.Context, argv []string) (string, error) {
	bin, err := lookTool(argv[0])
	if errors.Is(err, exec.ErrNotFound) {
		cure := "install the package that has it"
		if d.spec.Package != "" {
			cure = "apt-get install " + d.spec.Package
		}
		err = fmt.Errorf("%w; %s", err, cure)
	}
	if err != nil {
		return "", err
	}
	return vmtest.RunTool(ctx, d.file, bin, argv[1:]...)
}

// lookTool finds a host tool; file system tools live in sbin directories that
// are not in every user's PATH (Debian's /etc/login.defs).
func lookTool(name string) (string, error) {
	p, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return p, err
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p, nil
		}
	}
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("host tool %s: %w, nor in the sbin directories", name, exec.ErrNotFound)
	}
	return "", err
}
