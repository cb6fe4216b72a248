// SPDX-License-Identifier: Apache-2.0

package cache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// helperEnv makes the test binary run one of the helpers instead of the tests.
const helperEnv = "CACHE_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helper(name, os.Args[1:]); err != nil {
			fmt.Println("helper failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// forever never returns. Not select {}, which the runtime takes for a deadlock
// where nothing else is left to run, and ends the process.
func forever() error {
	for {
		time.Sleep(time.Hour)
	}
}

// helper is a second process that uses the cache in args[0].
func helper(name string, args []string) error {
	root := args[0]
	ctx := context.Background()
	switch name {
	case "build-and-hang": // says "building", leaves a file, never ends
		c, err := cache.Open(root)
		if err != nil {
			return err
		}
		_, _, err = c.Get(ctx, "kind", "key", func(_ context.Context, tmp string) error {
			if err := os.WriteFile(filepath.Join(tmp, "half"), []byte("half"), 0o600); err != nil {
				return err
			}
			fmt.Println("building")
			return forever()
		})
		return err
	case "count": // appends a byte to args[1] for each build
		c, err := cache.Open(root)
		if err != nil {
			return err
		}
		_, _, err = c.Get(ctx, "kind", "key", func(_ context.Context, tmp string) error {
			f, err := os.OpenFile(args[1], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close(), fill(tmp, "data"))
		})
		return err
	case "full": // in its own mount namespace: a disk of 64 KiB
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
		c, err := cache.Open(root)
		if err != nil {
			return err
		}
		_, _, err = c.Get(ctx, "kind", "key", func(_ context.Context, tmp string) error {
			return os.WriteFile(filepath.Join(tmp, "big"), make([]byte, 1<<20), 0o600)
		})
		fmt.Println(err, errors.Is(err, unix.ENOSPC))
		left, err := filepath.Glob(filepath.Join(root, "kind", ".tmp-*"))
		fmt.Println(len(left), "left")
		return err
	case "read-only": // in its own mount namespace: args[0] holds kind/key already
		if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return err
		}
		c, err := cache.Open(root)
		if err != nil {
			return err
		}
		_, hit, err := c.Get(ctx, "kind", "key", fails)
		fmt.Println("hit", hit, err)
		_, _, err = c.Get(ctx, "kind", "other", fails)
		fmt.Println(err, errors.Is(err, unix.EROFS))
		sum, err := c.HashFile(filepath.Join(root, "kind", "key", "data"))
		fmt.Println("hash", len(sum), err)
		return nil
	}
	return errors.New("unknown helper")
}

func startHelper(t *testing.T, name string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	exe, err := os.Executable()
	assert.NilError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	if name == "full" || name == "read-only" {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}
	err = cmd.Start()
	if cmd.SysProcAttr != nil && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC)) {
		t.Skip("user namespaces are not allowed here (try: sysctl kernel.unprivileged_userns_clone=1, or run as root)")
	}
	assert.NilError(t, err)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewReader(out)
}

func open(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(filepath.Join(t.TempDir(), "deep", "kvmrun"))
	assert.NilError(t, err)
	return c
}

func fill(dir, content string) error {
	return os.WriteFile(filepath.Join(dir, "data"), []byte(content), 0o600)
}

func fails(context.Context, string) error { return errors.New("must not be built") }

func filler(content string) func(context.Context, string) error {
	return func(_ context.Context, tmp string) error { return fill(tmp, content) }
}

// want reads the entry's data file.
func want(t *testing.T, path, content string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path, "data"))
	assert.NilError(t, err)
	assert.Equal(t, string(data), content)
}

// clean checks that nothing but entries and the memo is in the cache.
func clean(t *testing.T, c *cache.Cache) {
	t.Helper()
	err := filepath.WalkDir(c.Root(), func(p string, d fs.DirEntry, err error) error {
		if strings.HasPrefix(d.Name(), ".tmp-") || strings.HasPrefix(d.Name(), ".lock-") {
			t.Errorf("left over: %s", p)
		}
		return err
	})
	assert.NilError(t, err)
}

func TestGet(t *testing.T) {
	c := open(t)
	ctx := context.Background()
	_, ok := c.Lookup("kind", "key")
	assert.Assert(t, !ok)

	path, hit, err := c.Get(ctx, "kind", "key", filler("one"))
	assert.NilError(t, err)
	assert.Assert(t, !hit)
	want(t, path, "one")
	again, hit, err := c.Get(ctx, "kind", "key", fails)
	assert.NilError(t, err)
	assert.Assert(t, hit)
	assert.Equal(t, again, path)
	got, ok := c.Lookup("kind", "key")
	assert.Assert(t, ok)
	assert.Equal(t, got, path)
	clean(t, c)

	assert.NilError(t, c.Remove(ctx, "kind", "key"))
	assert.NilError(t, c.Remove(ctx, "kind", "key"))
	_, ok = c.Lookup("kind", "key")
	assert.Assert(t, !ok)
	clean(t, c)
}

func TestGetFailedBuild(t *testing.T) {
	c := open(t)
	ctx := context.Background()
	broken := errors.New("broken")
	_, _, err := c.Get(ctx, "kind", "key", func(_ context.Context, tmp string) error {
		return errors.Join(fill(tmp, "half"), broken)
	})
	assert.ErrorIs(t, err, broken)
	clean(t, c)
	_, hit, err := c.Get(ctx, "kind", "key", filler("two"))
	assert.NilError(t, err)
	assert.Assert(t, !hit)

	func() {
		defer func() { assert.Equal(t, recover(), "boom") }()
		_, _, _ = c.Get(ctx, "kind", "panics", func(context.Context, string) error { panic("boom") })
	}()
	clean(t, c)
	_, _, err = c.Get(ctx, "kind", "panics", filler("fine"))
	assert.NilError(t, err)
}

func TestGetNames(t *testing.T) {
	c := open(t)
	for _, name := range []string{"", ".", "..", "a/b", "../x", ".lock-a", "-a", "a b", "a\x00", "ü", strings.Repeat("a", 201)} {
		_, _, err := c.Get(context.Background(), "kind", name, fails)
		assert.ErrorContains(t, err, "cache key", "%q", name)
		_, _, err = c.Get(context.Background(), name, "key", fails)
		assert.ErrorContains(t, err, "cache kind", "%q", name)
		_, ok := c.Lookup("kind", name)
		assert.Assert(t, !ok, name)
	}
	long := strings.Repeat("a", 200)
	_, _, err := c.Get(context.Background(), "kind", long, filler(""))
	assert.NilError(t, err)
	_, _, err = c.Get(context.Background(), "kind", "debian-6.12.117-1~deb12u1+b1", filler(""))
	assert.NilError(t, err)
}

// A damaged entry is built again, whichever way it was damaged.
func TestGetDamaged(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"file deleted":   func(p string) error { return os.Remove(filepath.Join(p, "data")) },
		"file truncated": func(p string) error { return os.Truncate(filepath.Join(p, "data"), 0) },
		"no record":      func(p string) error { return os.Remove(filepath.Join(p, ".entry.json")) },
		"empty record":   func(p string) error { return os.Truncate(filepath.Join(p, ".entry.json"), 0) },
		"empty": func(p string) error {
			return errors.Join(os.Remove(filepath.Join(p, ".entry.json")), os.Remove(filepath.Join(p, "data")))
		},
		"a file": func(p string) error { return errors.Join(os.RemoveAll(p), os.WriteFile(p, nil, 0o600)) },
		"unwritable directory inside": func(p string) error {
			return errors.Join(os.Mkdir(filepath.Join(p, "d"), 0o700), os.Mkdir(filepath.Join(p, "d", "e"), 0o700),
				os.Chmod(filepath.Join(p, "d"), 0o500), os.Remove(filepath.Join(p, "data")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			ctx := context.Background()
			path, _, err := c.Get(ctx, "kind", "key", filler("one"))
			assert.NilError(t, err)
			assert.NilError(t, damage(path))
			path, hit, err := c.Get(ctx, "kind", "key", filler("two"))
			assert.NilError(t, err)
			assert.Assert(t, !hit)
			want(t, path, "two")
			clean(t, c)
		})
	}
}

// The user deletes everything while an entry is built.
func TestGetCacheDeletedDuringBuild(t *testing.T) {
	c := open(t)
	builds := 0
	path, _, err := c.Get(context.Background(), "kind", "key", func(_ context.Context, tmp string) error {
		builds++
		if builds == 1 {
			if err := os.RemoveAll(c.Root()); err != nil {
				return err
			}
		}
		return fill(tmp, "data")
	})
	assert.NilError(t, err)
	assert.Equal(t, builds, 2)
	want(t, path, "data")

	builds = 0
	_, _, err = c.Get(context.Background(), "kind", "never", func(_ context.Context, tmp string) error {
		builds++
		return errors.Join(os.RemoveAll(c.Root()), fill(tmp, "data"))
	})
	assert.ErrorContains(t, err, "the cache was deleted during the build")
	assert.Equal(t, builds, 3)
}

func TestGetSharesOneBuildBetweenGoroutines(t *testing.T) {
	c := open(t)
	var builds, hits atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, hit, err := c.Get(context.Background(), "kind", "key", func(_ context.Context, tmp string) error {
				builds.Add(1)
				return fill(tmp, "data")
			})
			if err != nil {
				t.Error(err)
			}
			if hit {
				hits.Add(1)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, builds.Load(), int32(1))
	assert.Equal(t, hits.Load(), int32(19))
	clean(t, c)
}

func TestGetSharesOneBuildBetweenProcesses(t *testing.T) {
	c := open(t)
	counter := filepath.Join(t.TempDir(), "counter")
	var cmds []*exec.Cmd
	for range 8 {
		cmd, _ := startHelper(t, "count", c.Root(), counter)
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		assert.NilError(t, cmd.Wait())
	}
	data, err := os.ReadFile(counter)
	assert.NilError(t, err)
	assert.Equal(t, string(data), "x")
	clean(t, c)
}

// A builder that is killed leaves a half-written entry, which nobody sees and
// the next builder removes.
func TestGetAfterKilledBuilder(t *testing.T) {
	c := open(t)
	cmd, out := startHelper(t, "build-and-hang", c.Root())
	line, err := out.ReadString('\n')
	assert.NilError(t, err)
	assert.Equal(t, line, "building\n")

	// While it lives, nobody touches its directory, and waiting for it ends
	// with the context.
	ctx, cancel := context.WithCancel(context.Background())
	waiting := make(chan error)
	go func() {
		_, _, err := c.Get(ctx, "kind", "key", fails)
		waiting <- err
	}()
	_, err = c.Prune(0, 0)
	assert.NilError(t, err)
	_, _, err = c.Get(context.Background(), "kind", "other", filler("other"))
	assert.NilError(t, err)
	halves := func() []string {
		m, err := filepath.Glob(filepath.Join(c.Root(), "kind", ".tmp-key-*", "half"))
		assert.NilError(t, err)
		return m
	}
	assert.Assert(t, is.Len(halves(), 1))
	cancel()
	assert.ErrorIs(t, <-waiting, context.Canceled)

	assert.NilError(t, cmd.Process.Kill())
	// It was there all the time.
	assert.Error(t, cmd.Wait(), "signal: killed")
	_, ok := c.Lookup("kind", "key")
	assert.Assert(t, !ok)
	path, hit, err := c.Get(context.Background(), "kind", "key", filler("whole"))
	assert.NilError(t, err)
	assert.Assert(t, !hit)
	want(t, path, "whole")
	assert.Assert(t, is.Len(halves(), 0))
	clean(t, c)
}

// Leftovers of one entry are removed when another one is built, or by Prune.
func TestSweepOfOtherEntries(t *testing.T) {
	for _, how := range []string{"build", "prune"} {
		t.Run(how, func(t *testing.T) {
			c := open(t)
			cmd, out := startHelper(t, "build-and-hang", c.Root())
			_, err := out.ReadString('\n')
			assert.NilError(t, err)
			assert.NilError(t, cmd.Process.Kill())
			assert.Error(t, cmd.Wait(), "signal: killed")
			if how == "build" {
				_, _, err = c.Get(context.Background(), "kind", "other", filler(""))
			} else {
				_, err = c.Prune(1<<40, 0)
			}
			assert.NilError(t, err)
			clean(t, c)
		})
	}
}

func TestGetNoSpace(t *testing.T) {
	root := t.TempDir()
	cmd, out := startHelper(t, "full", root)
	line, err := out.ReadString('\n')
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(line, "no space left for the cache in "+root))
	assert.Assert(t, is.Contains(line, "kvmrun kernel prune"))
	assert.Assert(t, strings.HasSuffix(line, "true\n"), line)
	line, err = out.ReadString('\n')
	assert.NilError(t, err)
	assert.Equal(t, line, "0 left\n")
	assert.NilError(t, cmd.Wait())
}

func TestGetReadOnly(t *testing.T) {
	root := t.TempDir()
	c, err := cache.Open(root)
	assert.NilError(t, err)
	_, _, err = c.Get(context.Background(), "kind", "key", filler("data"))
	assert.NilError(t, err)
	cmd, out := startHelper(t, "read-only", root)
	var lines []string
	for range 3 {
		line, err := out.ReadString('\n')
		assert.NilError(t, err)
		lines = append(lines, line)
	}
	assert.Equal(t, lines[0], "hit true <nil>\n")
	assert.Assert(t, is.Contains(lines[1], "read-only file system"))
	assert.Assert(t, is.Contains(lines[1], "XDG_CACHE_HOME"))
	assert.Assert(t, strings.HasSuffix(lines[1], "true\n"), lines[1])
	assert.Equal(t, lines[2], "hash 64 <nil>\n")
	assert.NilError(t, cmd.Wait())
}

func TestOpen(t *testing.T) {
	_, err := cache.Open("")
	assert.ErrorContains(t, err, "XDG_CACHE_HOME")
	file := filepath.Join(t.TempDir(), "file")
	assert.NilError(t, os.WriteFile(file, nil, 0o600))
	_, err = cache.Open(filepath.Join(file, "sub"))
	assert.ErrorIs(t, err, unix.ENOTDIR)

	c := open(t)
	fi, err := os.Stat(c.Root())
	assert.NilError(t, err)
	assert.Equal(t, fi.Mode().Perm(), fs.FileMode(0o700))
	tag, err := os.ReadFile(filepath.Join(c.Root(), "CACHEDIR.TAG"))
	assert.NilError(t, err)
	assert.Assert(t, strings.HasPrefix(string(tag), "Signature: 8a477f597d28d172789f06886806bc55\n"))
}

func TestTrim(t *testing.T) {
	c := open(t)
	ctx := context.Background()
	for i, key := range []string{"oldest", "locked", "middle", "newest"} {
		for _, kind := range []string{"kind", "other"} {
			path, _, err := c.Get(ctx, kind, key, filler("x"))
			assert.NilError(t, err)
			at := time.Now().Add(time.Duration(i-10) * time.Hour)
			assert.NilError(t, os.Chtimes(path, at, at))
		}
	}
	keys := func(kind string) (k []string) {
		list, err := c.List()
		assert.NilError(t, err)
		for _, e := range list {
			if e.Kind == kind {
				k = append(k, e.Key)
			}
		}
		return k
	}
	c.Trim("kind", 4, 0)
	c.Trim("kind", 0, 24*time.Hour) // all were used within a day
	c.Trim("nothing", 1, 0)
	assert.Equal(t, len(keys("kind")), 4)

	// Somebody looks after an entry at this moment.
	lock, err := os.OpenFile(filepath.Join(c.Root(), "kind", ".lock-locked"), os.O_CREATE|os.O_RDWR, 0o600)
	assert.NilError(t, err)
	defer lock.Close()
	assert.NilError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	c.Trim("kind", 1, 0)
	assert.DeepEqual(t, keys("kind"), []string{"locked", "newest"})
	assert.Equal(t, len(keys("other")), 4)
}

// What is held stays, whoever wants it gone.
func TestTrimBytesAndHold(t *testing.T) {
	c := open(t)
	paths := map[string]string{}
	for i, key := range []string{"held", "old", "newer", "newest"} {
		path, _, err := c.Get(context.Background(), "kind", key, filler(strings.Repeat("x", 100)))
		assert.NilError(t, err)
		paths[key] = path
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		assert.NilError(t, os.Chtimes(path, at, at))
	}
	keys := func() (k []string) {
		list, err := c.List()
		assert.NilError(t, err)
		for _, e := range list {
			k = append(k, e.Key)
		}
		slices.Sort(k)
		return k
	}
	c.TrimBytes("kind", 400, 0, 0)
	c.TrimBytes("other", 0, 0, 0)
	c.TrimBytes("kind", 0, 0, 24*time.Hour)
	c.TrimBytes("kind", 0, 4, 0)
	assert.Equal(t, len(keys()), 4)

	held := c.Hold(filepath.Join(paths["held"], "data"))
	assert.Assert(t, held != nil)
	at := time.Now().Add(-20 * time.Hour)
	assert.NilError(t, os.Chtimes(paths["held"], at, at))
	for _, outside := range []string{"/etc/passwd", c.Root(), filepath.Join(c.Root(), "kind"), paths["old"] + "-gone/data"} {
		assert.Assert(t, c.Hold(outside) == nil, outside)
	}
	c.TrimBytes("kind", 300, 2, 0)
	assert.DeepEqual(t, keys(), []string{"held", "newer", "newest"})
	c.TrimBytes("kind", 100, 2, 0)
	assert.DeepEqual(t, keys(), []string{"held", "newer", "newest"})
	_, err := c.Prune(0, 0)
	assert.NilError(t, err)
	assert.DeepEqual(t, keys(), []string{"held"})
	assert.NilError(t, held.Close())
	_, err = c.Prune(0, 0)
	assert.NilError(t, err)
	assert.Equal(t, len(keys()), 0)
}

func TestListAndPrune(t *testing.T) {
	c := open(t)
	ctx := context.Background()
	start := time.Now()
	for i, key := range []string{"oldest", "middle", "newest"} {
		path, _, err := c.Get(ctx, "kind", key, filler(strings.Repeat("x", 100)))
		assert.NilError(t, err)
		at := start.Add(time.Duration(i-10) * time.Hour)
		assert.NilError(t, os.Chtimes(path, at, at))
	}
	keys := func(list []cache.Entry) []string {
		var k []string
		for _, e := range list {
			k = append(k, e.Key)
		}
		return k
	}
	list, err := c.List()
	assert.NilError(t, err)
	assert.DeepEqual(t, keys(list), []string{"oldest", "middle", "newest"})
	assert.Equal(t, list[0].Bytes, int64(100))
	assert.Equal(t, list[0].Kind, "kind")
	assert.Assert(t, list[0].Created.After(start.Add(-time.Second)))
	want(t, list[0].Path, strings.Repeat("x", 100))

	// A use makes it the newest.
	_, ok := c.Lookup("kind", "oldest")
	assert.Assert(t, ok)
	list, err = c.List()
	assert.NilError(t, err)
	assert.DeepEqual(t, keys(list), []string{"middle", "newest", "oldest"})

	removed, err := c.Prune(300, 0)
	assert.NilError(t, err)
	assert.Assert(t, is.Len(removed, 0))
	removed, err = c.Prune(299, 0)
	assert.NilError(t, err)
	assert.DeepEqual(t, keys(removed), []string{"middle"})
	removed, err = c.Prune(0, time.Hour) // "oldest" was used just now
	assert.NilError(t, err)
	assert.DeepEqual(t, keys(removed), []string{"newest"})
	removed, err = c.Prune(0, 0)
	assert.NilError(t, err)
	assert.DeepEqual(t, keys(removed), []string{"oldest"})
	clean(t, c)

	assert.NilError(t, os.RemoveAll(c.Root()))
	list, err = c.List()
	assert.NilError(t, err)
	assert.Assert(t, is.Len(list, 0))
	_, err = c.Prune(0, 0)
	assert.NilError(t, err)
}

// emptySHA256 is the SHA-256 of nothing (FIPS 180-4; sha256sum /dev/null), and
// abcSHA256 that of "abc" (FIPS 180-2, appendix B.1).
const (
	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	abcSHA256   = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
)

func TestHashFile(t *testing.T) {
	c := open(t)
	path := filepath.Join(t.TempDir(), "file")
	assert.NilError(t, os.WriteFile(path, nil, 0o600))
	sum, err := c.HashFile(path)
	assert.NilError(t, err)
	assert.Equal(t, sum, emptySHA256)

	// Same path, size 0 -> 3, then another content of the same size with its
	// modification time set back: the young change must not be missed.
	assert.NilError(t, os.WriteFile(path, []byte("abc"), 0o600))
	sum, err = c.HashFile(path)
	assert.NilError(t, err)
	assert.Equal(t, sum, abcSHA256)
	fi, err := os.Stat(path)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(path, []byte("abd"), 0o600))
	assert.NilError(t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
	sum, err = c.HashFile(path)
	assert.NilError(t, err)
	assert.Assert(t, sum != abcSHA256)
}

// A hash is taken from the memo when the file has not changed. The proof is a
// memo that lies.
func TestHashFileMemo(t *testing.T) {
	c := open(t)
	exe, err := os.Executable() // a file whose last change is some time ago
	assert.NilError(t, err)
	waitOld(t, exe)
	real, err := c.HashFile(exe)
	assert.NilError(t, err)
	memos, err := filepath.Glob(filepath.Join(c.Root(), ".memo", "*"))
	assert.NilError(t, err)
	assert.Assert(t, is.Len(memos, 1))
	data, err := os.ReadFile(memos[0])
	assert.NilError(t, err)
	lie := strings.ReplaceAll(string(data), real, abcSHA256)
	assert.NilError(t, os.WriteFile(memos[0], []byte(lie), 0o600))
	sum, err := c.HashFile(exe)
	assert.NilError(t, err)
	assert.Equal(t, sum, abcSHA256, cmp.Diff(string(data), lie))

	assert.NilError(t, os.WriteFile(memos[0], []byte("{"), 0o600)) // damaged
	sum, err = c.HashFile(exe)
	assert.NilError(t, err)
	assert.Equal(t, sum, real)
}

// waitOld waits until the file is old enough to be remembered: go test runs
// its binary right after linking it.
func waitOld(t *testing.T, path string) {
	t.Helper()
	var st unix.Stat_t
	assert.NilError(t, unix.Stat(path, &st))
	old := time.Unix(st.Ctim.Unix()).Add(2100 * time.Millisecond)
	<-time.After(time.Until(old))
}

func TestHashFileBadInput(t *testing.T) {
	c := open(t)
	dir := t.TempDir()
	_, err := c.HashFile(filepath.Join(dir, "missing"))
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = c.HashFile(dir)
	assert.ErrorContains(t, err, "not a regular file")
	fifo := filepath.Join(dir, "fifo")
	assert.NilError(t, unix.Mkfifo(fifo, 0o600))
	_, err = c.HashFile(fifo)
	assert.ErrorContains(t, err, "not a regular file")
}

func BenchmarkHit(b *testing.B) {
	c, err := cache.Open(b.TempDir())
	assert.NilError(b, err)
	_, _, err = c.Get(context.Background(), "kind", "key", filler("data"))
	assert.NilError(b, err)
	for b.Loop() {
		if _, hit, err := c.Get(context.Background(), "kind", "key", fails); err != nil || !hit {
			b.Fatal(hit, err)
		}
	}
}

// TestFlippedBit damages a file so that neither its size nor its time changes.
func TestFlippedBit(t *testing.T) {
	root := t.TempDir()
	builds := 0
	open := func() (*cache.Cache, *[]string) {
		c, err := cache.Open(root)
		assert.NilError(t, err)
		var said []string
		c.OnDamage = func(kind, key, file string) { said = append(said, kind+" "+key+" "+file) }
		return c, &said
	}
	get := func(c *cache.Cache) string {
		dir, _, err := c.Get(t.Context(), "kind", "key", func(_ context.Context, tmp string) error {
			builds++
			return errors.Join(os.WriteFile(filepath.Join(tmp, "other"), nil, 0o600), os.Symlink("other", filepath.Join(tmp, "link")),
				os.WriteFile(filepath.Join(tmp, "vmlinux"), []byte("a kernel of many bits"), 0o600))
		})
		assert.NilError(t, err)
		return filepath.Join(dir, "vmlinux")
	}
	c, said := open()
	path := get(c)
	for range 3 {
		assert.Equal(t, get(c), path)
	}
	assert.Equal(t, builds, 1)

	flip := func() {
		t.Helper()
		st, err := os.Stat(path)
		assert.NilError(t, err)
		b, err := os.ReadFile(path)
		assert.NilError(t, err)
		b[5] ^= 4
		assert.NilError(t, os.WriteFile(path, b, 0o600))
		assert.NilError(t, os.Chtimes(path, st.ModTime(), st.ModTime()))
	}
	flip()
	_, ok := c.Lookup("kind", "key")
	assert.Assert(t, !ok)
	b, err := os.ReadFile(get(c))
	assert.NilError(t, err)
	assert.Equal(t, string(b), "a kernel of many bits")
	assert.Equal(t, builds, 2)
	assert.DeepEqual(t, *said, []string{"kind key vmlinux"})

	// The disk's own damage leaves no trace in the file system: it is found at the
	// first use after a boot, for which nothing is remembered.
	get(c)
	memos, err := filepath.Glob(filepath.Join(root, ".memo", "sums-*"))
	assert.NilError(t, err)
	assert.Equal(t, len(memos), 1)
	before, err := os.ReadFile(memos[0])
	assert.NilError(t, err)
	get(c)
	after, err := os.ReadFile(memos[0])
	assert.NilError(t, err)
	assert.Equal(t, string(before), string(after))
	flip()
	assert.NilError(t, os.Remove(memos[0]))
	c, said = open()
	get(c)
	assert.Equal(t, builds, 3)
	assert.DeepEqual(t, *said, []string{"kind key vmlinux"})

	// An entry of an earlier version, which had no sums, gets them.
	record := filepath.Join(filepath.Dir(path), ".entry.json")
	text, err := os.ReadFile(record)
	assert.NilError(t, err)
	old := regexp.MustCompile(`,"sums":\{[^}]*\}`).ReplaceAll(text, nil)
	assert.Assert(t, len(old) < len(text))
	assert.NilError(t, os.WriteFile(record, old, 0o600))
	_ = os.Remove(memos[0])
	get(c)
	assert.Equal(t, builds, 3)
	flip()
	get(c)
	assert.Equal(t, builds, 4)
}
