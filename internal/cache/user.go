// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"fmt"
	"os"
	"path/filepath"
)

// OpenUser opens the cache in the directory, or the user's when that is empty:
// $XDG_CACHE_HOME/kvmrun. progress, which may be nil, is told of damaged entries, a
// line each.
func OpenUser(dir string, progress func(line string)) (*Cache, error) {
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find the cache directory: %w; set XDG_CACHE_HOME or HOME", err)
		}
		dir = filepath.Join(base, "kvmrun")
	}
	c, err := Open(dir)
	if err != nil {
		return nil, err
	}
	if progress != nil {
		c.OnDamage = func(kind, key, file string) {
			progress(fmt.Sprintf("making %s/%s anew, of the cache: %s is damaged: is the disk well?", kind, key, file))
		}
	}
	return c, nil
}
