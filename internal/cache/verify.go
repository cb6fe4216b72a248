// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An entry's files have checksums, because a disk may give back other bits than it
// got, and a kernel with a flipped bit may boot. They are compared when the entry
// is used for the first time since the host was booted, and again when a file's
// inode or times have changed, which a memo remembers.

// bootID is the host's file that is different after each boot (random(4)).
const bootID = "/proc/sys/kernel/random/boot_id"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf returns the CRC-32C of a file's content, or of where a link leads.
func sumOf(path string) (uint32, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	switch {
	case st.Mode().Type() == fs.ModeSymlink:
		to, err := os.Readlink(path)
		return crc32.Checksum([]byte(to), castagnoli), err
	case !st.Mode().IsRegular():
		return 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	h := crc32.New(castagnoli)
	_, err = io.Copy(h, f)
	return h.Sum32(), err
}

// addSums computes the checksums of the recorded files; those that may not be read
// have none.
func (r *record) addSums(dir string) error {
	r.Sums = make(map[string]uint32)
	for name := range r.Files {
		sum, err := sumOf(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return err
		}
		r.Sums[name] = sum
	}
	return nil
}

// state is a hash of the host's boot and of what the file system says of the
// recorded files.
func (r *record) state(dir string) (string, error) {
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %d\n", boot, r.Created.UnixNano())
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %d %d %d %d %d\n", name, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// memoOf is the file that remembers the state of an entry found well.
func (c *Cache) memoOf(dir string) string {
	name := sha256.Sum256([]byte(dir))
	return filepath.Join(c.root, memoDir, "sums-"+hex.EncodeToString(name[:16]))
}

// verify returns the name of a file that is not what was recorded, "" when all are.
func (c *Cache) verify(dir string, r *record) (damaged string) {
	state, err := r.state(dir)
	memo := c.memoOf(dir)
	if err == nil {
		if text, err := os.ReadFile(memo); err == nil && strings.TrimSpace(string(text)) == state {
			return ""
		}
	}
	if r.Sums == nil {
		// Made before there were checksums: from here on it has them.
		if r.addSums(dir) == nil {
			_ = r.write(dir)
		}
	}
	for name, want := range r.Sums {
		got, err := sumOf(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrPermission) || err == nil && got != want {
			return name
		}
	}
	// Not when a file was changed meanwhile.
	if again, aerr := r.state(dir); err == nil && aerr == nil && again == state {
		if os.MkdirAll(filepath.Dir(memo), 0o700) == nil {
			_ = writeAside(memo, []byte(state+"\n")) // without it the next use costs more
		}
	}
	return ""
}

// writeAside replaces a file at once.
func writeAside(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), tmpPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
