// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// racyWindow is how old a file's last change must be before its hash is
// remembered. A file can be changed again within one tick of its file system's
// clock without any trace in its times, so that a hash taken just after a write
// cannot be told from a stale one (the problem that git calls "racy git",
// Documentation/technical/racy-git.txt). 2 s is the coarsest tick in use (FAT;
// ext4, xfs and btrfs tick with the kernel's timer).
const racyWindow = 2 * time.Second

// fileID is what must be unchanged for a file's content to count as unchanged.
// ctime is the part that cannot be set back by utimensat(2), rsync -t or cp -p.
type fileID struct {
	Path  string `json:"path"`
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime_ns"`
	Ctime int64  `json:"ctime_ns"`
}

type memo struct {
	ID     fileID `json:"id"`
	SHA256 string `json:"sha256"`
}

// HashFile returns the SHA-256 of the file's content in lower-case hex. The
// result is remembered in the cache under the file's path, device, inode, size,
// and times, so that an unchanged file is read once only. A cache that cannot
// be written costs speed, not an error.
//
// Only regular files are hashed. A file that changes while it is read is an
// error.
func (c *Cache) HashFile(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	// O_NONBLOCK: a FIFO must be refused, not waited for.
	f, err := os.OpenFile(abs, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("hash file: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	id, mode, err := identify(f, abs)
	if err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	if mode&unix.S_IFMT != unix.S_IFREG {
		return "", fmt.Errorf("hash %s: not a regular file", path)
	}

	name := sha256.Sum256([]byte(abs))
	memoPath := filepath.Join(c.root, memoDir, hex.EncodeToString(name[:16]))
	if m, err := readMemo(memoPath); err == nil && m.ID == id {
		return m.SHA256, nil
	}

	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	after, _, err := identify(f, abs)
	if err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	if after != id {
		return "", fmt.Errorf("hash %s: the file changed while it was read", path)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if last := max(id.Mtime, id.Ctime); time.Since(time.Unix(0, last)) > racyWindow {
		_ = writeMemo(memoPath, memo{ID: id, SHA256: sum})
	}
	return sum, nil
}

func identify(f *os.File, path string) (fileID, uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileID{}, 0, os.NewSyscallError("fstat", err)
	}
	return fileID{
		Path:  path,
		Dev:   uint64(st.Dev), //nolint:unconvert // 32 bits wide on some architectures
		Inode: st.Ino,
		Size:  st.Size,
		Mtime: st.Mtim.Nano(),
		Ctime: st.Ctim.Nano(),
	}, st.Mode, nil
}

func readMemo(path string) (*memo, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var m memo
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	if len(m.SHA256) != 2*sha256.Size {
		return nil, errors.New("damaged memo")
	}
	return &m, nil
}

// writeMemo writes by rename, so that readers never see half of it.
func writeMemo(path string, m memo) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, tmpPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
