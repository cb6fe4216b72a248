// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Disk is a raw disk image without a name: it is gone with its last open file,
// however the run ends.
type Disk struct {
	spec suites.Disk
	file *os.File
}

// Close lets the disk go: it is gone with its last user.
func (d *Disk) Close() error { return d.file.Close() }

// DiskCheck is the outcome of a disk's host-side check.
type DiskCheck struct {
	Disk    string
	Command string
	Output  string
	Err     error // nil: clean
}

func makeDisk(ctx context.Context, dir string, s suites.Disk) (*Disk, error) {
	f, err := os.CreateTemp(dir, ".disk-*")
	if err != nil {
		return nil, fmt.Errorf("make disk %s: %w", s.Name, err)
	}
	_ = os.Remove(f.Name())
	if err := f.Truncate(int64(s.SizeMiB) << 20); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make disk %s of %d MiB: %w", s.Name, s.SizeMiB, err)
	}
	d := &Disk{spec: s, file: f}
	if len(s.Mkfs) > 0 {
		if out, err := d.command(ctx, s.Mkfs); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("make disk %s: %s: %w %s", s.Name, strings.Join(s.Mkfs, " "), err, visible.Short(out))
		}
	}
	return d, nil
}

// clone returns a copy of the disk, of the same name and as sparse.
func (d *Disk) clone(dir string) (*Disk, error) {
	f, err := os.CreateTemp(dir, ".disk-*")
	if err != nil {
		return nil, fmt.Errorf("copy disk %s: %w", d.spec.Name, err)
	}
	_ = os.Remove(f.Name())
	if err := copySparse(f, d.file); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("copy disk %s: %w", d.spec.Name, err)
	}
	return &Disk{spec: d.spec, file: f}, nil
}

// copySparse makes to, which is empty, a copy of from: sharing its blocks where
// the file system can, otherwise with its holes.
func copySparse(to, from *os.File) error {
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	st, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(st.Size()); err != nil {
		return err
	}
	var end int64
	for {
		// lseek(2): the next data, and where it ends. By the raw call, because the
		// offset is shared by everybody who has the file open.
		begin, err := unix.Seek(int(from.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		if end, err = unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, begin), io.NewSectionReader(from, begin, end-begin)); err != nil {
			return err
		}
	}
}

func (d *Disk) check(ctx context.Context) DiskCheck {
	out, err := d.command(ctx, d.spec.Fsck)
	return DiskCheck{Disk: d.spec.Name, Command: strings.Join(d.spec.Fsck, " "), Output: out, Err: err}
}

func (d *Disk) command(ctx context.Context, argv []string) (string, error) {
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
