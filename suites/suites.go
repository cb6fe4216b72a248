// SPDX-License-Identifier: Apache-2.0

// Package suites is the contract between a test suite and whoever runs it.
//
// A suite is an ordinary Go test package. It declares what it needs as data, a
// [Spec], and hands it over in a one-line TestMain (package suites/testmain).
// The host reads the Spec before any VM starts and provides disks, files,
// modules and memory; the guest half (package suites/kit) uses the same names
// to find them. This package knows neither VMs nor concrete suites, and does
// not import testing. All of it is plain data and pure functions, safe for
// concurrent use.
package suites

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Spec says what a suite is called and what its VM needs. The zero value of
// every field but Name means "nothing special".
type Spec struct {
	// Name is the suite's name on the command line and in reports.
	Name string `json:"name"`
	// Doc says in one line what is tested.
	Doc string `json:"doc,omitempty"`
	// Kconfig lists what the suite as a whole cannot do without, in the form
	// "SYMBOL" (built in or module) or "SYMBOL=y" (built in). A kernel without
	// one of them skips the whole suite, naming the option. What only some
	// tests need is declared by those tests with kit.NeedKconfig and listed in
	// OptionalKconfig, so that a kernel can be checked before it boots.
	Kconfig         []string `json:"kconfig,omitempty"`
	OptionalKconfig []string `json:"optionalKconfig,omitempty"`
	// Features names what tests probe at run time and may skip for with
	// kit.NeedFeature: things with no option and no version, such as a patch
	// under review.
	Features []string `json:"features,omitempty"`
	// Modules are kernel modules loaded before the tests when the kernel does
	// not have them built in; names as modprobe takes them.
	Modules []string `json:"modules,omitempty"`
	// MemoryMiB and CPUs size the VM; zero is the driver's default.
	MemoryMiB int `json:"memoryMiB,omitempty"`
	CPUs      int `json:"cpus,omitempty"`
	// Cmdline is appended to the kernel's command line.
	Cmdline []string `json:"cmdline,omitempty"`
	// SlabCaches are slab caches (names as in /sys/kernel/slab) whose objects the
	// suite's code makes and must give back: a sweep counts them after each fault,
	// unless the user names others.
	SlabCaches []string `json:"slabCaches,omitempty"`
	// Disks are fresh virtio disks, one VM's own.
	Disks []Disk `json:"disks,omitempty"`
	// Files are taken from the host into the guest.
	Files []File `json:"files,omitempty"`
	// C are programs and shared libraries that the host compiles for the guest.
	C []CProgram `json:"c,omitempty"`
	// Isolate is how far the suite's tests are kept apart unless the user says
	// otherwise; empty is by suite.
	//
	// By test, the test binary is started once, and each test goes on from just
	// before its tests in a VM of its own. What the kernel draws at random is
	// another thing in each (getrandom(2), crypto/rand, UUIDs), and so is the
	// directory for temporary files. What Go's runtime has drawn at the binary's
	// start is the same in all: the top-level functions of math/rand and
	// math/rand/v2, package hash/maphash, the order of maps. FreshProcess is for
	// suites to which that matters.
	Isolate Isolation `json:"isolate,omitempty"`
	// FreshProcess has the test binary started anew for each test that is isolated,
	// in its VM: nothing at all is then the same by chance, at a quarter of a
	// second of CPU time per test under TCG (measured with the suite ipe).
	FreshProcess bool `json:"freshProcess,omitempty"`
	// Timeout bounds the suite in one VM on a machine with KVM; under TCG the
	// runner multiplies it. Zero is the runner's default.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Isolation says how far tests are kept apart.
type Isolation string

const (
	// IsolateNone is a VM for the suite, whatever its kernel says.
	IsolateNone Isolation = "none"
	// IsolateSuite is a VM for the suite, and a fresh one for the tests that are
	// left after a kernel splat.
	IsolateSuite Isolation = "suite"
	// IsolateTest is a VM for each top-level test.
	IsolateTest Isolation = "test"
)

// ParseIsolation reads a user's word for one; "" is none of them.
func ParseIsolation(s string) (Isolation, error) {
	switch i := Isolation(s); i {
	case "", IsolateNone, IsolateSuite, IsolateTest:
		return i, nil
	}
	return "", fmt.Errorf("isolation %q is not known: use none, suite or test", s)
}

// Disk is a fresh raw disk made on the host for one VM.
type Disk struct {
	// Name is the disk's serial: 1 to 20 bytes of [a-z0-9-] (the limit of
	// VIRTIO_BLK_ID_BYTES, include/uapi/linux/virtio_blk.h). The guest finds
	// the device by it (kit.Disk).
	Name string `json:"name"`
	// SizeMiB is the disk's size; the file is sparse.
	SizeMiB int `json:"sizeMiB"`
	// Mkfs is the host command that makes the file system, without the device:
	// {"mkfs.ext4", "-q", "-O", "verity"}. Empty leaves the disk zeroed.
	Mkfs []string `json:"mkfs,omitempty"`
	// Fsck is the host command that must exit 0 on the disk after the run,
	// without the device: {"e2fsck", "-fn"}. Empty checks nothing.
	Fsck []string `json:"fsck,omitempty"`
	// Package is the Debian package that provides these commands, for the error and
	// for kvmrun doctor.
	Package string `json:"package,omitempty"`
}

// File is one host file wanted in the guest.
type File struct {
	// Host lists glob patterns of absolute host paths; the first pattern that
	// matches wins and all its matches are taken. None matching is an error
	// that names Package.
	Host []string `json:"host"`
	// Guest is the absolute path in the guest; a trailing slash names a
	// directory. Empty means the same path as on the host.
	Guest string `json:"guest,omitempty"`
	// Package is the Debian package that provides the file, for the error.
	Package string `json:"package,omitempty"`
	// Optional files may be absent.
	Optional bool `json:"optional,omitempty"`
}

// CProgram is a program or a shared library in C, for what cannot be Go: what a
// process with one thread does, or a library that others load. The host compiles it
// once, with cc; a kvmrun that was installed has it compiled already.
type CProgram struct {
	// Source is the text of its only file.
	Source string `json:"source"`
	// Flags are the compiler's, beside -O2: {"-shared", "-fPIC", "-lpam"}.
	Flags []string `json:"flags,omitempty"`
	// Guest is its absolute path in the guest.
	Guest string `json:"guest"`
	// Needs are the header files and libraries that compiling it takes.
	Needs []HostNeed `json:"needs,omitempty"`
}

// Key names what the program is compiled from: 32 hexadecimal digits, the same for
// the same source and flags.
func (c CProgram) Key() string {
	h := sha256.New()
	for _, s := range append([]string{c.Source}, c.Flags...) {
		fmt.Fprintf(h, "%d %s\n", len(s), s)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:16])
}

// HostNeed is one thing that the host must have so that a suite's VM can be made: a
// command or a file.
type HostNeed struct {
	// Command is a host program by its name, "" for a file.
	Command string `json:"command,omitempty"`
	// Files are glob patterns of absolute host paths, of which one must match; empty
	// for a command.
	Files []string `json:"files,omitempty"`
	// Package is the Debian package that provides it, "" where the Spec names none.
	Package string `json:"package,omitempty"`
}

// HostNeeds lists what the host must have for the suite, each thing once: the
// commands that make and check its disks, then its files that are not optional, in
// the Spec's order. See BuildNeeds for those of its C programs.
func (s Spec) HostNeeds() []HostNeed {
	var out []HostNeed
	seen := map[string]bool{}
	for _, d := range s.Disks {
		for _, argv := range [][]string{d.Mkfs, d.Fsck} {
			if len(argv) > 0 && !seen[argv[0]] {
				seen[argv[0]] = true
				out = append(out, HostNeed{Command: argv[0], Package: d.Package})
			}
		}
	}
	for _, f := range s.Files {
		if !f.Optional {
			out = append(out, HostNeed{Files: f.Host, Package: f.Package})
		}
	}
	return out
}

// BuildNeeds lists what the host must have to compile the suite's C programs, each
// thing once, the compiler first; nil without any.
func (s Spec) BuildNeeds() []HostNeed {
	if len(s.C) == 0 {
		return nil
	}
	out := []HostNeed{{Command: "cc", Package: "gcc"}}
	seen := map[string]bool{}
	for _, c := range s.C {
		for _, n := range c.Needs {
			if key := strings.Join(append([]string{n.Command}, n.Files...), " "); !seen[key] {
				seen[key] = true
				out = append(out, n)
			}
		}
	}
	return out
}

// Compiled at first use: every test binary imports this package, and starts up
// in an emulated guest.
var (
	nameRE    = pattern(`^[a-z][a-z0-9_-]*$`)
	diskRE    = pattern(`^[a-z0-9-]{1,20}$`)
	symbolRE  = pattern(`^[A-Z0-9][A-Za-z0-9_]*(=y)?$`)
	releaseRE = pattern(`^(\d+)(?:\.(\d+))?(?:\.(\d+))?`)
)

func pattern(s string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(s) })
}

// Validate reports what is wrong with the Spec itself, all at once.
func (s Spec) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !nameRE().MatchString(s.Name) {
		bad("suite name %q: want lower-case letters, digits, - and _", s.Name)
	}
	for _, k := range append(append([]string{}, s.Kconfig...), s.OptionalKconfig...) {
		if !symbolRE().MatchString(k) {
			bad("suite %s: kconfig need %q: want SYMBOL or SYMBOL=y, without CONFIG_", s.Name, k)
		}
	}
	seen := map[string]bool{}
	for _, d := range s.Disks {
		if !diskRE().MatchString(d.Name) {
			bad("suite %s: disk name %q: want 1 to 20 of a-z, 0-9 and -", s.Name, d.Name)
		}
		if seen[d.Name] {
			bad("suite %s: disk %q declared twice", s.Name, d.Name)
		}
		seen[d.Name] = true
		if d.SizeMiB <= 0 {
			bad("suite %s: disk %s: size %d MiB: want more than 0", s.Name, d.Name, d.SizeMiB)
		}
	}
	for _, f := range s.Files {
		if len(f.Host) == 0 {
			bad("suite %s: file %q: no host pattern", s.Name, f.Guest)
		}
		for _, h := range f.Host {
			if !path.IsAbs(h) {
				bad("suite %s: host file %q: want an absolute path", s.Name, h)
			}
		}
		if f.Guest != "" && !path.IsAbs(f.Guest) {
			bad("suite %s: guest file %q: want an absolute path", s.Name, f.Guest)
		}
	}
	for _, c := range s.C {
		if !path.IsAbs(c.Guest) {
			bad("suite %s: C program %q: want an absolute path in the guest", s.Name, c.Guest)
		}
		if c.Source == "" {
			bad("suite %s: C program %s: no source", s.Name, c.Guest)
		}
	}
	if _, err := ParseIsolation(string(s.Isolate)); err != nil {
		bad("suite %s: %w", s.Name, err)
	}
	if s.MemoryMiB < 0 || s.CPUs < 0 || s.Timeout < 0 {
		bad("suite %s: memory, CPUs and timeout must not be negative", s.Name)
	}
	return errors.Join(errs...)
}

// Config is what is known of a kernel's configuration: symbol without
// "CONFIG_" to value ("y", "m", a string or number). Symbols that are not set
// are absent. A nil Config means that nothing is known.
type Config map[string]string

// ParseConfig reads a .config. Lines it does not understand are ignored: the
// strict parser is internal/kconfig's, this one runs in the guest too.
func ParseConfig(text []byte) Config {
	c := Config{}
	for _, l := range strings.Split(string(text), "\n") {
		l = strings.TrimSpace(l)
		k, v, ok := strings.Cut(l, "=")
		if !ok || !strings.HasPrefix(k, "CONFIG_") {
			continue
		}
		c[strings.TrimPrefix(k, "CONFIG_")] = strings.Trim(v, `"`)
	}
	return c
}

// Has reports whether the need, "SYMBOL" or "SYMBOL=y", is met. A nil Config
// meets every need: what is not known to be missing must be tried.
func (c Config) Has(need string) bool {
	if c == nil {
		return true
	}
	sym, builtin := strings.CutSuffix(need, "=y")
	v, ok := c[sym]
	if builtin {
		return v == "y"
	}
	return ok && v != "n"
}

// Missing returns those of needs that c does not meet, in their order.
func (c Config) Missing(needs []string) []string {
	var out []string
	for _, n := range needs {
		if !c.Has(n) {
			out = append(out, n)
		}
	}
	return out
}

// Reasons for a skip, as printed by package kit and checked by [Earned].
const (
	reasonKconfig = "needs CONFIG_"
	reasonLinux   = "needs Linux "
	reasonFeature = "needs feature "
	reasonShort   = "not in -short mode"
)

// KconfigReason is the text with which a test skips for a missing option.
func KconfigReason(need, have string) string {
	if have == "" {
		have = "not set"
	}
	return fmt.Sprintf("%s%s; this kernel has it %s", reasonKconfig, need, have)
}

// LinuxReason is the text with which a test skips on an older kernel.
func LinuxReason(min, release, why string) string {
	return fmt.Sprintf("%s%s for %s; this is %s", reasonLinux, min, why, release)
}

// FeatureReason is the text with which a test skips for a probed feature.
func FeatureReason(name, probe string) string {
	return fmt.Sprintf("%s%s; probing it gave: %s", reasonFeature, name, probe)
}

// ShortReason is the text with which a slow test skips under -short.
func ShortReason() string { return reasonShort }

// Facts are what the host knows of a kernel and run when it judges a skip.
type Facts struct {
	Config  Config
	Release string // uname -r
	Short   bool   // -short was given
}

// Earned reports whether a skip with this reason is justified by what the host
// itself knows: the option is not in the kernel's configuration, the kernel is
// older, the feature is declared as optional, -short was given. Any other skip
// counts as a failure: a test that stopped running must not stay green.
func (s Spec) Earned(reason string, f Facts) bool {
	reason = strings.TrimSpace(reason)
	if i := strings.Index(reason, "needs "); i > 0 {
		reason = reason[i:] // "file_test.go:12: needs ..."
	}
	// The word after the prefix; a reason that names nothing is no reason.
	word := func(prefix string) (string, bool) {
		rest, ok := strings.CutPrefix(reason, prefix)
		f := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == ';' || r == ',' || r == ':' })
		if !ok || len(f) == 0 {
			return "", false
		}
		return f[0], true
	}
	if need, ok := word(reasonKconfig); ok {
		return f.Config != nil && !f.Config.Has(need)
	}
	if min, ok := word(reasonLinux); ok {
		return f.Release != "" && CompareRelease(f.Release, min) < 0
	}
	if name, ok := word(reasonFeature); ok {
		for _, o := range s.Features {
			if o == name {
				return true
			}
		}
		return false
	}
	return f.Short && strings.HasSuffix(reason, reasonShort)
}

// CompareRelease compares two kernel releases ("6.12.117+deb12-cloud-amd64",
// "6.7") by their leading numbers; it returns -1, 0 or 1. A missing number
// counts as 0.
func CompareRelease(a, b string) int {
	x, y := releaseNumbers(a), releaseNumbers(b)
	for i := range x {
		if x[i] != y[i] {
			if x[i] < y[i] {
				return -1
			}
			return 1
		}
	}
	return 0
}

func releaseNumbers(r string) (n [3]int) {
	m := releaseRE().FindStringSubmatch(r)
	for i := 1; i < len(m); i++ {
		n[i-1], _ = strconv.Atoi(m[i])
	}
	return n
}

// Places in the guest, the same for every suite.
const (
	// GuestConfigFile holds the kernel's .config where the host knows it.
	GuestConfigFile = "/etc/kvmrun/config"
	// GuestAllowFile holds the allow-lists of the run, if any, in their own
	// format and without what has expired.
	GuestAllowFile = "/etc/kvmrun/allow"
	// GuestSuiteFiles is the directory below which a suite finds host data
	// such as signing keys.
	GuestSuiteFiles = "/etc/kvmrun/suite"
)
