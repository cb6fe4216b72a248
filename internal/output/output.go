// SPDX-License-Identifier: Apache-2.0

// Package output writes the files that a user has named, and those below a
// directory that a user has named.
//
// A file of the user's is opened, or found to be impossible to write, before
// anything is run ([Open]), and written at the end. What it is decides how: a
// regular file, also behind symbolic links, is written aside and renamed, so that
// it is there completely or not at all; a device, a FIFO or one of this process's
// descriptors (/dev/fd/N, as a shell's >(command) has it) is written to.
//
// Below a directory no symbolic link is followed ([Create], [MkdirAll]): there,
// somebody else may have left one.
//
// It must not know what is written, nor for whom.
package output

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// File is where something will be written. A nil *File stands for no name and
// swallows everything.
type File struct {
	name string // as the user gave it
	// path is what is replaced, links resolved; "" for what is written in place.
	path string
	mode fs.FileMode
	// open is a device, a FIFO with a reader, or a descriptor; or a regular file
	// whose directory cannot be written.
	open *os.File
	// fifo says to open the name when there is something to write: nobody reads
	// it yet.
	fifo bool
}

// maxLinks is how many symbolic links are followed (path_resolution(7)).
const maxLinks = 40

// Open finds out whether name can be written, without changing what is there. The
// error says "write NAME" and why not. An empty name gives nil.
func Open(name string) (*File, error) {
	if name == "" {
		return nil, nil
	}
	f := &File{name: name, mode: 0o644}
	if err := f.find(); err != nil {
		return nil, f.explain(err)
	}
	return f, nil
}

func (f *File) explain(err error) error {
	// The name in it may be that of a temporary file, or where a link leads.
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		err = path.Err
	case errors.As(err, &link):
		err = link.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w: there is no directory %s", f.name, err, filepath.Dir(f.name))
	}
	return fmt.Errorf("write %s: %w", f.name, err)
}

// descriptor returns the number of /dev/fd/N and its other names, which name what
// this process has open and not what it would get by opening them.
func descriptor(name string) (int, bool) {
	switch name = filepath.Clean(name); name {
	case "/dev/stdout":
		return 1, true
	case "/dev/stderr":
		return 2, true
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if rest, ok := strings.CutPrefix(name, dir); ok {
			n, err := strconv.Atoi(rest)
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}

func (f *File) find() error {
	path := f.name
	for range maxLinks {
		if n, ok := descriptor(path); ok {
			return f.duplicate(n)
		}
		st, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			f.path = path
			return f.tryDir(nil)
		case err != nil:
			return err
		case st.Mode().Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(to) {
				to = filepath.Dir(path) + "/" + to // not Join: a/.. need not be .
			}
			path = to
			continue
		case st.IsDir():
			return unix.EISDIR
		case st.Mode().IsRegular():
			f.path, f.mode = path, st.Mode().Perm()
			// To replace a file takes no right to write it; but it should.
			if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
				return err
			}
			return f.tryDir(st)
		}
		// Without O_NONBLOCK a FIFO that nobody reads would be waited for.
		f.open, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENXIO) && st.Mode().Type() == fs.ModeNamedPipe {
			f.fifo = true
			return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
		}
		return err
	}
	return unix.ELOOP
}

func (f *File) duplicate(n int) error {
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return unix.EBADF
	}
	dup, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		f.open = os.NewFile(uintptr(dup), f.name)
	}
	return err
}

// tryDir makes a file beside the one to be written and removes it. Where that
// cannot be, and the file is there, it is to be written itself.
func (f *File) tryDir(there fs.FileInfo) error {
	t, err := os.CreateTemp(filepath.Dir(f.path), ".kvmrun-*")
	if err == nil {
		return errors.Join(t.Close(), os.Remove(t.Name()))
	}
	if there == nil {
		return err
	}
	if f.open, err = os.OpenFile(f.path, os.O_WRONLY, 0); err == nil {
		f.path = ""
	}
	return err
}

// Write has write fill the file. It is called once at most. A regular file is
// there completely afterwards, or, with an error, as it was.
func (f *File) Write(write func(io.Writer) error) error {
	if f == nil {
		return write(io.Discard)
	}
	var err error
	switch {
	case f.path != "":
		err = f.replace(write)
	case f.fifo:
		if f.open, err = os.OpenFile(f.name, os.O_WRONLY, 0); err == nil {
			err = f.inPlace(write)
		}
	default:
		err = f.inPlace(write)
	}
	if err != nil {
		return f.explain(err)
	}
	return nil
}

func (f *File) inPlace(write func(io.Writer) error) error {
	if st, err := f.open.Stat(); err == nil && st.Mode().IsRegular() && !isDescriptor(f.name) {
		if err := f.open.Truncate(0); err != nil {
			return err
		}
	}
	return errors.Join(write(f.open), f.open.Close())
}

func isDescriptor(name string) bool { _, ok := descriptor(name); return ok }

func (f *File) replace(write func(io.Writer) error) error {
	t, err := os.CreateTemp(filepath.Dir(f.path), ".kvmrun-*")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name()) //nolint:errcheck // gone after the rename
	if err := errors.Join(write(t), t.Chmod(f.mode), t.Close()); err != nil {
		return err
	}
	err = os.Rename(t.Name(), f.path)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	// A file that is mounted by itself, as containers have them.
	text, err := os.ReadFile(t.Name())
	if err != nil {
		return err
	}
	return os.WriteFile(f.path, text, f.mode)
}

// WriteFile is Open and Write.
func WriteFile(name string, write func(io.Writer) error) error {
	f, err := Open(name)
	if err != nil {
		return err
	}
	return f.Write(write)
}

// Replace writes a file below a directory of the user's, aside and renamed: a
// symbolic link of that name is replaced itself.
func Replace(path string, write func(io.Writer) error) error {
	f := &File{name: path, path: path, mode: 0o644}
	return f.Write(write)
}

// Create makes, or empties, a file below a directory of the user's: not where a
// symbolic link of that name leads, which gives an error that says so.
func Create(path string) (*os.File, error) {
	return open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
}

// Append is Create but for what is there already, which is kept; writing begins
// at the file's beginning.
func Append(path string) (*os.File, error) { return open(path, os.O_WRONLY|os.O_CREATE) }

func open(path string, flags int) (*os.File, error) {
	// Without O_NONBLOCK a FIFO would be waited for.
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if errors.Is(err, unix.ELOOP) {
		return nil, isLink(path)
	}
	return f, err
}

// Save is Replace for a text that there is, and refuses a symbolic link as Create
// does.
func Save(path string, text []byte) error {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSymlink {
		return isLink(path)
	}
	return Replace(path, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

func isLink(path string) error {
	return fmt.Errorf("%s is a symbolic link, which is not followed here: remove it", path)
}

// MkdirAll makes the directory path, which is root or below it. Root may be
// reached by symbolic links; none below it may lead out of it.
func MkdirAll(root, path string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil || rel == "." {
		return err
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only a handle
	if err := r.MkdirAll(rel, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	// MkdirAll is content with a link that stays inside.
	for p := rel; p != "."; p = filepath.Dir(p) {
		if st, err := r.Lstat(p); err != nil || !st.IsDir() {
			return errors.Join(err, fmt.Errorf("%s is no directory of its own: remove it", filepath.Join(root, p)))
		}
	}
	return nil
}
