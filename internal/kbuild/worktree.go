// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// WorkTree opens a tree of sources that change, to be built one after the other,
// among the build trees, so that [List] shows it and [Prune] removes it unless it
// is locked. open makes it in the directory, with the lock beside it that the
// package comment names. about says what it is of.
func WorkTree[T any](c *cache.Cache, name, about string, open func(dir string) (T, error)) (T, error) {
	dir := filepath.Join(c.Root(), stateDir, name)
	t, err := open(dir)
	if err != nil {
		return t, err
	}
	text, err := json.Marshal(treeState{Lineage: about, Profile: "for bisecting"})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "state.json"), text, 0o600) // its time is the last use's
	}
	if err != nil {
		return t, fmt.Errorf("make work tree: %w", err)
	}
	return t, nil
}
