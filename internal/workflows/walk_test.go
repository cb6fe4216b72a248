// SPDX-License-Identifier: Apache-2.0

package workflows

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// standIns are what is walked instead of a step that .ci/run or the nightly run
// does itself.
var standIns = map[string]string{
	".ci/run":         ".ci/setup && make bin/kvmrun",
	".ci/kernels all": ".ci/setup kernel-build && make bin/kvmrun && bin/kvmrun mutants -list",
}

// TestWalk does the steps of the workflows' jobs in a fresh root of the container's
// distribution, with a checkout that belongs to another user, as jobs in containers
// have it. What is walked is the commit that is checked out here. Two things are
// this host's: Go with its caches, and the packages that an earlier walk has
// downloaded.
//
// With KVMRUN_TEST_WORKFLOWS=light it walks ci.yml, and matrix.yml for one suite;
// with full, every job.
func TestWalk(t *testing.T) {
	mode := os.Getenv("KVMRUN_TEST_WORKFLOWS")
	switch mode {
	case "":
		t.Skip("KVMRUN_TEST_WORKFLOWS is not set: run .ci/workflows as root")
	case "light", "full":
	default:
		t.Fatalf("KVMRUN_TEST_WORKFLOWS=%s: want light or full", mode)
	}
	if os.Geteuid() != 0 {
		t.Fatal("a root directory is for root to make: run .ci/workflows as root")
	}
	images := newImages(t)
	walked := 0
	all := load(t)
	for _, file := range slices.Sorted(maps.Keys(all)) {
		if mode == "light" && file == "nightly.yml" {
			continue // has no step that the two others lack
		}
		for name, j := range all[file].Jobs {
			if j.Container.Image == "" {
				continue // looks at other jobs' results only
			}
			for _, values := range combinations(j.Strategy.Matrix) {
				suite := values["matrix.suite"]
				if mode == "light" && suite != "" && suite != "ipe" {
					continue
				}
				walked++
				t.Run(strings.TrimSuffix(file, ".yml")+"/"+name+"/"+suite, func(t *testing.T) {
					walk(t, images.fresh(t, j.Container.Image), j, values)
				})
			}
		}
	}
	assert.Assert(t, walked >= 2, "%d jobs", walked)
}

// images keeps a pristine root for every image below this user's cache directory.
// It is locked, and removed when it is 30 days old: the archive has changed by then.
type images struct{ dir string }

func newImages(t *testing.T) images {
	t.Helper()
	cache, err := os.UserCacheDir()
	assert.NilError(t, err)
	dir := filepath.Join(cache, "kvmrun-workflows")
	assert.NilError(t, os.MkdirAll(dir, 0o700))
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	assert.NilError(t, err)
	t.Cleanup(func() { _ = lock.Close() })
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		t.Logf("waiting for another walk, which has %s.lock", dir)
		assert.NilError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	}
	return images{dir}
}

// fresh returns a copy of the image's root, which it makes if there is none yet.
func (i images) fresh(t *testing.T, image string) string {
	t.Helper()
	distro, release, ok := strings.Cut(image, ":")
	assert.Assert(t, ok && distro == "debian", "no idea how to make an image %s", image)
	pristine := filepath.Join(i.dir, distro+"-"+release)
	archives := filepath.Join(i.dir, "archives")
	if st, err := os.Stat(pristine); err == nil && time.Since(st.ModTime()) > 30*24*time.Hour {
		assert.NilError(t, os.RemoveAll(i.dir))
	} else if err != nil {
		assert.Assert(t, errors.Is(err, fs.ErrNotExist), err)
	}
	assert.NilError(t, os.MkdirAll(filepath.Join(archives, "partial"), 0o755))
	if _, err := os.Stat(pristine); err != nil {
		from := mirror(t)
		unfinished := pristine + ".new"
		assert.NilError(t, os.RemoveAll(unfinished))
		command(t, os.Environ(), "debootstrap", "--variant=minbase", "--cache-dir="+archives, release, unfinished, from)
		now := time.Now()
		assert.NilError(t, os.Chtimes(unfinished, now, now))
		assert.NilError(t, os.Rename(unfinished, pristine))
	}

	root := filepath.Join(i.dir, "root")
	assert.NilError(t, os.RemoveAll(root)) // of a walk that was killed
	t.Cleanup(func() { assert.Check(t, os.RemoveAll(root)) })
	command(t, os.Environ(), "cp", "-a", "--reflink=auto", pristine, root)

	// How this host gets to the network, and, as in Docker's images, no fsync.
	var apt strings.Builder
	for line := range strings.Lines(output(t, "apt-config", "dump")) {
		if strings.HasPrefix(line, "Acquire::http") {
			apt.WriteString(line)
		}
	}
	files := map[string]string{
		"etc/apt/apt.conf.d/90host":    apt.String(),
		"etc/dpkg/dpkg.cfg.d/90unsafe": "force-unsafe-io\n",
	}
	for _, f := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		text, err := os.ReadFile(f)
		assert.NilError(t, err)
		files[f] = string(text)
	}
	for f, text := range files {
		assert.NilError(t, os.WriteFile(filepath.Join(root, f), []byte(text), 0o644))
	}
	return root
}

// mirror returns the Debian mirror that this host uses, or else everybody's.
func mirror(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(output(t, "apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT) $(ORIGIN)", "Created-By: Packages")) {
		f := strings.Fields(line)
		if len(f) == 3 && strings.HasPrefix(f[0], "http") && f[1] == "main" && f[2] == "Debian" {
			return f[0]
		}
	}
	return "http://deb.debian.org/debian/"
}

// walk does the steps of one job in a root.
func walk(t *testing.T, root string, j job, values map[string]string) {
	const work = "/__w/kvmrun/kvmrun"
	env := []string{"HOME=/root", "CI=true", "GITHUB_ACTIONS=true", "GOTOOLCHAIN=local"}
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GOMODCACHE", "GOCACHE"} {
		env = append(env, name+"="+output(t, "go", "env", name))
	}
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasSuffix(strings.ToLower(name), "_proxy") {
			env = append(env, e)
		}
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	dir, whole := "/", true
	for _, s := range j.Steps {
		assert.Assert(t, s.If == "" || s.If == "always()", "no idea when to do a step with if: %s", s.If)
		switch action, _, _ := strings.Cut(s.Uses, "@"); action {
		case "actions/checkout":
			assert.Equal(t, len(s.With), 0, "no idea how to check out with %v", s.With)
			dir = work
			checkout(t, root+work)
		case "actions/setup-go":
			assert.Equal(t, s.With["go-version-file"], "go.mod")
			path = output(t, "go", "env", "GOROOT") + "/bin:" + path
		case "actions/upload-artifact":
			t.Logf("artifact %s", expand(t, s.With["name"], values))
			for p := range strings.Lines(s.With["path"]) {
				_, err := os.Lstat(filepath.Join(root, work, strings.TrimSpace(p)))
				assert.Check(t, err == nil || !whole, "artifact: %v", err)
			}
		case "":
			script := expand(t, s.Run, values)
			if instead, ok := standIns[script]; ok {
				t.Logf("%s: only %s", script, instead)
				script, whole = instead, false
			}
			e := append(slices.Clone(env), "PATH="+path)
			for k, v := range s.Env {
				e = append(e, k+"="+expand(t, v, values))
			}
			command(t, e, "/bin/sh", "-c", enter, "enter", root, dir, script,
				output(t, "go", "env", "GOROOT"), output(t, "go", "env", "GOMODCACHE"), output(t, "go", "env", "GOCACHE"))
		default:
			t.Fatalf("no idea what %s does", s.Uses)
		}
	}
}

// checkout clones the commit checked out here, as GitHub does: without history, and
// it belongs to the runner's user, while the container's steps are root's.
func checkout(t *testing.T, dir string) {
	t.Helper()
	here, err := filepath.Abs("../..")
	assert.NilError(t, err)
	config := filepath.Join(t.TempDir(), "gitconfig")
	assert.NilError(t, os.WriteFile(config, []byte("[safe]\n\tdirectory = *\n"), 0o644)) // this one may be another user's, too
	command(t, append(os.Environ(), "GIT_CONFIG_GLOBAL="+config), "git", "clone", "-q", "--depth", "1", "file://"+here, dir)
	command(t, os.Environ(), "chown", "-R", "1001:1001", dir)
}

// enter mounts what a container and its Go have in a root, and does a step there
// in the shell of a container's jobs. The device nodes are the root's own.
const enter = `set -e
root=$1 dir=$2 script=$3
shift 3
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mkdir -p "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount --bind "$root/../archives" "$root/var/cache/apt/archives"
for shared; do
	mkdir -p "$root$shared"
	mount --bind "$shared" "$root$shared"
done
if [ -e /dev/kvm ]; then
	touch "$root/dev/kvm"
	mount --bind /dev/kvm "$root/dev/kvm"
fi
cd "$root"
exec chroot . /bin/sh -c 'cd "$0" && exec /bin/sh -e -c "$1"' "$dir" "$script"
`

// command runs a program in mount and process namespaces of its own: however it or
// this test ends, no mount and no process is left of it.
func command(t *testing.T, env []string, argv ...string) {
	t.Helper()
	show := argv
	if i := slices.Index(argv, enter); i >= 0 {
		show = argv[i+4 : i+5]
	}
	t.Logf("%s: $ %s", time.Now().Format(time.TimeOnly), strings.Join(show, " "))
	began := time.Now()
	cmd := exec.Command("unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child"}, argv...)...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(show, " "), err, out[max(0, len(out)-8000):])
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Logf("ok after %s: %s", time.Since(began).Round(time.Second/10), lines[len(lines)-1])
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	assert.NilError(t, err, fmt.Sprintf("%s %q", name, args))
	return strings.TrimSpace(string(out))
}
