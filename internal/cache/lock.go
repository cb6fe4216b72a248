// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// fileLock is a held flock(2). Each lock is its own open file description, so
// that goroutines of one process exclude each other as processes do. The file
// is opened with O_CLOEXEC (os.OpenFile always does): children do not keep it.
type fileLock struct {
	f    *os.File
	path string
}

// lockFile takes the exclusive lock on path, waiting until it is free or ctx
// ends.
func lockFile(ctx context.Context, path string) (*fileLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(ctx, f); err != nil {
			return nil, err
		}
		if current(f, path) {
			return &fileLock{f: f, path: path}, nil
		}
		_ = f.Close() // its owner unlinked it meanwhile: lock the new one
	}
}

// flock locks f, or closes it and returns an error.
func flock(ctx context.Context, f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		if err != nil {
			_ = f.Close()
			return os.NewSyscallError("flock", err)
		}
		return nil
	}
	// flock cannot be cancelled. When ctx ends first, the goroutine stays
	// behind until the lock is free, then gives it back by closing f.
	got := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			_ = f.Close()
			return os.NewSyscallError("flock", err)
		}
		return nil
	case <-ctx.Done():
		go func() {
			<-got //nolint:errcheck // got or not, it is given back
			_ = f.Close()
		}()
		return ctx.Err()
	}
}

// tryLockFile is lockFile without waiting. It fails with EWOULDBLOCK when the
// lock is held.
func tryLockFile(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	if !current(f, path) {
		_ = f.Close()
		return nil, os.NewSyscallError("flock", unix.EWOULDBLOCK)
	}
	return &fileLock{f: f, path: path}, nil
}

// current says whether path still names f: a lock on an unlinked file excludes
// nobody.
func current(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// unlock gives the lock back and removes its file. Unlinking while the lock is
// held is safe because everybody who gets a lock checks [current].
func (l *fileLock) unlock() {
	if current(l.f, l.path) {
		_ = os.Remove(l.path)
	}
	_ = l.f.Close()
}
