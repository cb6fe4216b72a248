// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/vmtest"
)

// NewMachine opens the user's cache, $XDG_CACHE_HOME/kvmrun, or dir when it is
// not empty.
func NewMachine(dir string, accel vmtest.Accel) (*Machine, error) {
	m := &Machine{Host: machine.Host{Accel: accel}}
	var err error
	if m.Cache, err = cache.OpenUser(dir, func(line string) { m.Say("%s", line) }); err != nil {
		return nil, err
	}
	return m, nil
}

// keepRuns is how many run directories are kept in the cache.
const keepRuns = 50

// NewRunDir makes a directory for a run's logs in the cache and removes the
// oldest ones.
func (m *Machine) NewRunDir(name string) (string, error) {
	runs := filepath.Join(m.Cache.Root(), "runs")
	dir := filepath.Join(runs, time.Now().Format("20060102-150405")+"-"+FileName(name)+"-"+rand.Text()[:4])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a directory for the logs: %w", err)
	}
	if old, err := os.ReadDir(runs); err == nil && len(old) > keepRuns {
		// The names begin with the time, so they sort by age.
		sort.Slice(old, func(i, j int) bool { return old[i].Name() < old[j].Name() })
		for _, o := range old[:len(old)-keepRuns] {
			_ = os.RemoveAll(filepath.Join(runs, o.Name()))
		}
	}
	return dir, nil
}

// FileName makes a name that holds a kernel's release or a suite's name one of a file.
func FileName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' {
			return '_'
		}
		return r
	}, s)
}
