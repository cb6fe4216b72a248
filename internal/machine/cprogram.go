// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/internal/shipped"
	"github.com/kvmrun/kvmrun/suites"
)

const (
	cKind = "c-programs"
	// keepC is for the suites' own and a few of a developer's.
	keepC = 50
)

// CompileC returns the file of a suite's C program: the one that was installed with
// kvmrun, the one in the cache, or a new one. The error names what the host lacks.
func (h *Host) CompileC(ctx context.Context, c suites.CProgram) (string, error) {
	if beside, _ := shipped.Dir(); beside != "" {
		path := filepath.Join(beside, shipped.C, c.Key())
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	const name = "program"
	dir, hit, err := h.Cache.Get(ctx, cKind, c.Key(), func(ctx context.Context, tmp string) error {
		return compileC(ctx, c, filepath.Join(tmp, name))
	})
	if err != nil {
		return "", fmt.Errorf("compile the suite's C program %s: %w", filepath.Base(c.Guest), err)
	}
	if !hit {
		h.Cache.Trim(cKind, keepC, time.Hour)
	}
	return filepath.Join(dir, name), nil
}

func compileC(ctx context.Context, c suites.CProgram, to string) error {
	var lacks, packages []string
	for _, n := range (suites.Spec{C: []suites.CProgram{c}}).BuildNeeds() {
		found, what := false, n.Command
		if n.Command != "" {
			_, err := exec.LookPath(n.Command)
			found = err == nil
		} else {
			what = n.Files[0]
			for _, glob := range n.Files {
				m, _ := filepath.Glob(glob)
				found = found || len(m) > 0
			}
		}
		if !found {
			lacks, packages = append(lacks, what), append(packages, n.Package)
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("this host lacks %s; install it with: apt-get install %s", strings.Join(lacks, ", "), strings.Join(packages, " "))
	}
	src := to + ".c"
	if err := os.WriteFile(src, []byte(c.Source), 0o600); err != nil {
		return err
	}
	defer os.Remove(src) //nolint:errcheck // or the directory goes with it
	// Libraries are named behind what uses them.
	cmd := exec.CommandContext(ctx, "cc", append([]string{"-O2", "-o", to, src}, c.Flags...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// cc runs other programs: all of them end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if bytes.Contains(out.Bytes(), []byte(syscall.ENOSPC.Error())) {
			err = errors.Join(err, syscall.ENOSPC) // nothing is wrong with the source
		}
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}
