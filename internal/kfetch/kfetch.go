// SPDX-License-Identifier: Apache-2.0

package kfetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// Config says how to fetch. Cache is required.
type Config struct {
	Cache *cache.Cache
	// Arch is the architecture's name in the archive, "" for amd64.
	Arch string
	// AptConfig is a file that apt reads first (APT_CONFIG in apt.conf(5)), ""
	// for the machine's own configuration.
	AptConfig string
	// Progress is told what happens, nil for nothing. It is called from one
	// goroutine at a time and should return soon.
	Progress func(Progress)
}

// Progress is a step of a fetch.
type Progress struct {
	Step string // "look up", "download", "unpack"
	What string // the package
	// Done and Total are bytes of a download, else 0.
	Done, Total int64
}

// Candidate is one kernel that can be fetched or was.
type Candidate struct {
	Distro   string `json:"distro"`
	Package  string `json:"package"`
	Version  string `json:"version"`  // the package's
	Upstream string `json:"upstream"` // the kernel's, 6.12.117
	Release  string `json:"release"`  // what uname -r prints
	// Cached says that it was fetched, Available that apt's lists have it.
	Cached    bool `json:"cached"`
	Available bool `json:"available"`

	pkgArch string
}

// Ref returns the reference that names exactly this kernel.
func (v Candidate) Ref() string { return v.Distro + ":" + v.Version }

// Kernel is a fetched kernel.
type Kernel struct {
	Candidate
	// Path is the kernel file; config-<release> is beside it.
	Path string
	// Dir holds the unpacked packages: boot/, lib/modules/ (or usr/lib/modules/).
	Dir string
	// Hit says that nothing was downloaded.
	Hit bool
	// Note is what the user should know, for example that an older kernel is
	// used because apt failed. It is "" normally.
	Note string
}

// Source is a fetched source tree.
type Source struct {
	Package, Version, Upstream string
	// Dir is the top of the tree. It is read-only for its users.
	Dir  string
	Hit  bool
	Note string
}

// Fetcher fetches. Its methods are safe for concurrent use.
type Fetcher struct {
	cfg Config
	apt apt
}

// New returns a Fetcher.
func New(cfg Config) *Fetcher {
	if cfg.Arch == "" {
		cfg.Arch = "amd64"
	}
	return &Fetcher{cfg: cfg, apt: apt{config: cfg.AptConfig}}
}

// The kinds of cache entries, and the record in each.
const (
	kindKernel = "deb-kernel"
	kindDebug  = "deb-debug"
	kindSource = "deb-source"
	recordFile = "kvmrun.json"
	sourceDir  = "linux" // of the tree in a source entry
)

func (f *Fetcher) progress(p Progress) {
	if f.cfg.Progress != nil {
		f.cfg.Progress(p)
	}
}

// Fetch returns the kernel that the reference names, see the package comment.
func (f *Fetcher) Fetch(ctx context.Context, reference string) (*Kernel, error) {
	r, err := parseRef(reference, false)
	if err != nil {
		return nil, err
	}
	v, note, err := f.choose(ctx, r, kindKernel, func(ctx context.Context) ([]Candidate, error) { return f.available(ctx, r) })
	if err != nil {
		return nil, err
	}
	k, err := f.get(ctx, r, *v)
	if err == nil {
		k.Note = joinNotes(note, r.note())
		return k, nil
	}
	// The archive is out of reach, or has moved on since apt's lists were
	// read: an older kernel of the series is better than none.
	if !errors.Is(err, ErrDownload) || ctx.Err() != nil {
		return nil, err
	}
	old, cacheErr := f.cached(r, kindKernel)
	if cacheErr != nil || len(old) == 0 || !r.series() {
		return nil, err
	}
	k, getErr := f.get(ctx, r, old[len(old)-1])
	if getErr != nil {
		return nil, err
	}
	k.Note = joinNotes(fmt.Sprintf("using the fetched %s, because: %v", k.Release, err), r.note())
	return k, nil
}

// note says that nobody has tried a distribution.
func (r ref) note() string {
	if r.distro.untested {
		return r.distro.name + " kernels are untested with kvmrun"
	}
	return ""
}

func joinNotes(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(s string) bool { return s == "" }), "; ")
}

// Versions returns the kernels that the reference (DISTRO or DISTRO:VERSION)
// matches, oldest first in Debian's version order, both those that apt's lists
// have and those fetched before. When apt fails, the fetched ones are returned
// together with the error.
func (f *Fetcher) Versions(ctx context.Context, reference string) ([]Candidate, error) {
	r, err := parseRef(reference, true)
	if err != nil {
		return nil, err
	}
	cached, err := f.cached(r, kindKernel)
	if err != nil {
		return nil, err
	}
	all, err := f.available(ctx, r)
	for _, c := range cached {
		i := slices.IndexFunc(all, func(v Candidate) bool { return v.Package == c.Package && v.Version == c.Version })
		if i >= 0 {
			all[i].Cached = true
		} else {
			all = append(all, c)
		}
	}
	all = slices.DeleteFunc(all, func(v Candidate) bool { return !r.matches(v) })
	sortVersions(all)
	return all, err
}

// sortVersions sorts by package version, equal ones (of different flavours) by
// name.
func sortVersions(list []Candidate) {
	slices.SortFunc(list, func(a, b Candidate) int {
		if c := CompareVersions(a.Version, b.Version); c != 0 {
			return c
		}
		return strings.Compare(a.Package, b.Package)
	})
}

// choose decides which version a reference means. available is only called
// when the cache cannot tell.
func (f *Fetcher) choose(ctx context.Context, r ref, kind string, available func(context.Context) ([]Candidate, error)) (v *Candidate, note string, err error) {
	cached, err := f.cached(r, kind)
	if err != nil {
		return nil, "", err
	}
	if len(cached) > 0 && !r.series() {
		return &cached[len(cached)-1], "", nil
	}
	all, err := available(ctx)
	if err != nil {
		if ctx.Err() == nil && len(cached) > 0 {
			newest := &cached[len(cached)-1]
			return newest, fmt.Sprintf("using the fetched %s, because: %v", newest.Version, err), nil
		}
		return nil, "", err
	}
	var match []Candidate
	for _, v := range all {
		if r.matches(v) {
			match = append(match, v)
		}
	}
	if len(match) == 0 {
		if len(cached) > 0 {
			newest := &cached[len(cached)-1]
			return newest, fmt.Sprintf("using the fetched %s, because apt's lists have no %s (try: apt-get update)", newest.Version, r), nil
		}
		return nil, "", f.notFound(ctx, r, all)
	}
	sortVersions(match)
	return &match[len(match)-1], "", nil
}

// notFound says what there is instead.
func (f *Fetcher) notFound(ctx context.Context, r ref, all []Candidate) error {
	if len(all) == 0 {
		e := &Error{Ref: r.String(), Kind: ErrNotFound,
			Detail: fmt.Sprintf("apt's package lists have no %s kernels at all", r.distro.name),
			Cure:   fmt.Sprintf("if this machine is set up for the %s archive: sudo apt-get update; otherwise give a kernel file by -kernel", r.distro.name)}
		for _, d := range distros() {
			if d.name == r.distro.name {
				continue
			}
			if other, err := f.available(ctx, ref{distro: d}); err == nil && len(other) > 0 {
				sortVersions(other)
				numbers := strings.SplitN(other[len(other)-1].Upstream, ".", 3)
				series := strings.Join(numbers[:min(2, len(numbers))], ".")
				e.Cure = fmt.Sprintf("this machine is set up for the %s archive, try: kvmrun kernel fetch %s:%s; or give a kernel file by -kernel", d.name, d.name, series)
			}
		}
		return e
	}
	sortVersions(all)
	var have []string
	for _, v := range all {
		have = append(have, v.Upstream)
	}
	return &Error{Ref: r.String(), Kind: ErrNotFound,
		Detail: "apt's package lists have no such kernel; they have " + strings.Join(slices.Compact(have), ", "),
		Cure:   "choose one of these, or: sudo apt-get update"}
}

// needTools checks that this is a machine with apt.
func (f *Fetcher) needTools(r ref) error {
	if missing := f.apt.missing(); len(missing) > 0 {
		return &Error{Ref: r.String(), Kind: ErrNoTools,
			Detail: "this machine has no " + strings.Join(missing, ", ") + ": kernels are fetched by the package tools of Debian or Ubuntu",
			Cure:   "give a kernel file by -kernel FILE, for example /boot/vmlinuz-*"}
	}
	return nil
}

// available returns what apt's lists have for the distribution, in no order.
func (f *Fetcher) available(ctx context.Context, r ref) ([]Candidate, error) {
	re := regexp.MustCompile(expand(r.distro.image, f.cfg.Arch, ""))
	pkgs, err := f.search(ctx, r, r.distro.prefix, re)
	if err != nil {
		return nil, err
	}
	var list []Candidate
	for _, p := range pkgs {
		list = append(list, f.candidate(r, p, re.FindStringSubmatch(p.name)[1]))
	}
	if r.distro.unsigned == "" {
		return list, nil
	}
	// Where a signed kernel exists, its unsigned twin is not of interest.
	signed := map[string]bool{}
	isUnsigned := func(v Candidate) bool { return strings.HasPrefix(v.Package, r.distro.prefix+r.distro.unsigned) }
	for _, v := range list {
		if !isUnsigned(v) {
			signed[v.Release] = true
		}
	}
	return slices.DeleteFunc(list, func(v Candidate) bool { return isUnsigned(v) && signed[v.Release] }), nil
}

func (f *Fetcher) search(ctx context.Context, r ref, prefix string, re *regexp.Regexp) ([]pkg, error) {
	if err := f.needTools(r); err != nil {
		return nil, err
	}
	f.progress(Progress{Step: "look up", What: r.String()})
	pkgs, err := f.apt.search(ctx, prefix, re)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("fetch %s: %w", r, context.Cause(ctx))
		}
		return nil, &Error{Ref: r.String(), Kind: ErrNoTools, Detail: "cannot ask apt for kernels", Err: err}
	}
	return slices.DeleteFunc(pkgs, func(p pkg) bool { return p.arch != f.cfg.Arch && p.arch != "all" }), nil
}

func (f *Fetcher) candidate(r ref, p pkg, release string) Candidate {
	return Candidate{Distro: r.distro.name, Package: p.name, Version: p.version, Upstream: upstreamOf(p.version),
		Release: release, Available: true, pkgArch: p.arch}
}

// record is what a cache entry says about itself.
type record struct {
	Candidate
	Arch    string `json:"arch"`         // that was fetched for
	PkgArch string `json:"package_arch"` // of the package, may be "all"
}

// cached returns what was fetched and matches r, oldest first.
func (f *Fetcher) cached(r ref, kind string) ([]Candidate, error) {
	entries, err := f.cfg.Cache.List()
	if err != nil {
		return nil, err
	}
	var list []Candidate
	for _, e := range entries {
		if e.Kind != kind {
			continue
		}
		data, err := os.ReadFile(filepath.Join(e.Path, recordFile))
		if err != nil {
			continue // deleted meanwhile
		}
		var rec record
		if json.Unmarshal(data, &rec) != nil || rec.Distro != r.distro.name || rec.Arch != f.cfg.Arch || !r.matches(rec.Candidate) {
			continue
		}
		v := rec.Candidate
		v.Cached, v.Available, v.pkgArch = true, false, rec.PkgArch
		list = append(list, v)
	}
	sortVersions(list)
	return list, nil
}

// entry returns the directory of an entry, making it by fill when it is not
// there. fill gets the directory and leaves in it what the caller looks for.
func (f *Fetcher) entry(ctx context.Context, r ref, kind string, v Candidate, fill func(ctx context.Context, dir string) error) (string, bool, error) {
	key := pkg{name: v.Package, version: v.Version, arch: v.pkgArch}.file()
	dir, hit, err := f.cfg.Cache.Get(ctx, kind, key, func(ctx context.Context, tmp string) error {
		if err := f.needTools(r); err != nil {
			return err
		}
		if err := fill(ctx, tmp); err != nil {
			return err
		}
		data, err := json.Marshal(record{Candidate: v, Arch: f.cfg.Arch, PkgArch: v.pkgArch})
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(tmp, recordFile), data, 0o600)
	})
	if err != nil {
		// What is about the package is told without mentioning the cache; a
		// full disk is about the cache.
		var e *Error
		if errors.As(err, &e) && !errors.Is(err, syscall.ENOSPC) {
			return "", false, e
		}
		return "", false, fmt.Errorf("fetch %s: %w", r, err)
	}
	return dir, hit, nil
}

// install downloads the packages and unpacks them into dir.
func (f *Fetcher) install(ctx context.Context, r ref, pkgs []pkg, dir string) error {
	// Inside of the entry's temporary directory, so that it is swept with it.
	dl := filepath.Join(dir, ".download")
	if err := os.Mkdir(dl, 0o700); err != nil {
		return err
	}
	var total int64
	for _, p := range pkgs {
		total += p.bytes
	}
	what := pkgs[0].name + " " + pkgs[0].version
	f.progress(Progress{Step: "download", What: what, Total: total})
	files, err := f.apt.download(ctx, dl, pkgs, func(done int64) {
		f.progress(Progress{Step: "download", What: what, Done: min(done, total), Total: total})
	})
	if err != nil {
		return downloadError(ctx, r, what, err)
	}
	f.progress(Progress{Step: "unpack", What: what})
	for _, file := range files {
		if err := f.apt.unpack(ctx, file, dir); err != nil {
			return &Error{Ref: r.String(), Kind: ErrPackage, Detail: "cannot unpack " + filepath.Base(file), Err: err}
		}
	}
	return os.RemoveAll(dl)
}

// downloadError sorts apt's failures by their cure.
func downloadError(ctx context.Context, r ref, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("fetch %s: %w", r, context.Cause(ctx))
	}
	e := &Error{Ref: r.String(), Kind: ErrDownload, Detail: "apt-get cannot download " + what, Err: err,
		Cure: "check the network; if the package was replaced by a newer one: sudo apt-get update"}
	var te *toolError
	if !errors.As(err, &te) {
		return e
	}
	switch {
	case strings.Contains(te.stderr, "authenticated"): // "Some packages could not be authenticated"
		e.Kind = ErrUnauthenticated
		e.Detail = "apt-get refuses " + what + ", whose archive is not signed by a key of this machine"
		e.Cure = "install the archive's keyring and: sudo apt-get update"
	case strings.Contains(te.stderr, "Hash Sum mismatch"), strings.Contains(te.stderr, "unexpected size"):
		e.Kind = ErrUnauthenticated
		e.Detail = what + " is not the file that the archive's signature covers"
		e.Cure = "sudo apt-get update; if that does not help, the mirror or a proxy is broken"
	}
	return e
}

// find asks apt for exactly this version of a package, and for those of its
// dependencies that belong to the same kernel: Ubuntu, and Debian after 13,
// split kernels into several packages.
func (f *Fetcher) find(ctx context.Context, r ref, name, version, release string) ([]pkg, error) {
	pattern := regexp.QuoteMeta(name)
	if release != "" {
		pattern += "|linux-(?:modules|binary|base|config)-" + regexp.QuoteMeta(release)
	}
	all, err := f.search(ctx, r, "linux-", regexp.MustCompile("^(?:"+pattern+")$"))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(p pkg) bool { return p.name == name && p.version == version })
	if i < 0 {
		return nil, &Error{Ref: r.String(), Kind: ErrDownload, Detail: fmt.Sprintf("apt's package lists have no %s of version %s", name, version),
			Cure: "sudo apt-get update"}
	}
	pkgs := []pkg{all[i]}
	needs := dependencies(all[i].depends)
	for _, p := range all {
		if p.name != name && p.version == version && needs[p.name] {
			pkgs = append(pkgs, p)
		}
	}
	return pkgs, nil
}

// dependencies returns the names in a Depends field; of alternatives all.
func dependencies(field string) map[string]bool {
	names := map[string]bool{}
	for _, dep := range strings.FieldsFunc(field, func(c rune) bool { return c == ',' || c == '|' }) {
		name, _, _ := strings.Cut(strings.TrimSpace(dep), " ")
		name, _, _ = strings.Cut(name, ":")
		names[name] = true
	}
	return names
}

// get returns a certain kernel.
func (f *Fetcher) get(ctx context.Context, r ref, v Candidate) (*Kernel, error) {
	// Debian has both in the modules' directory from Linux 7 on.
	modules := filepath.Join("usr", "lib", "modules", v.Release)
	images := []string{filepath.Join("boot", "vmlinuz-"+v.Release), filepath.Join(modules, "vmlinuz")}
	configs := []string{filepath.Join("boot", "config-"+v.Release), filepath.Join(modules, "config")}
	dir, hit, err := f.entry(ctx, r, kindKernel, v, func(ctx context.Context, tmp string) error {
		pkgs, err := f.find(ctx, r, v.Package, v.Version, v.Release)
		if err != nil {
			return err
		}
		if err := f.install(ctx, r, pkgs, tmp); err != nil {
			return err
		}
		for _, want := range [][]string{images, configs} {
			if _, err := firstRegular(tmp, want); err != nil {
				return &Error{Ref: r.String(), Kind: ErrPackage, Detail: fmt.Sprintf("%s %s has no %s", v.Package, v.Version, strings.Join(want, " and no ")), Err: err}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	image, err := firstRegular(dir, images)
	if err != nil {
		return nil, err
	}
	v.Cached = true
	return &Kernel{Candidate: v, Path: image, Dir: dir, Hit: hit}, nil
}

// firstRegular returns the first of the paths below dir that is a regular file, else
// the error of the first one.
func firstRegular(dir string, paths []string) (string, error) {
	var first error
	for _, p := range paths {
		p = filepath.Join(dir, p)
		err := regular(p)
		if err == nil {
			return p, nil
		}
		if first == nil {
			first = err
		}
	}
	return "", first
}

// regular says whether path is a regular file and no link out of the package.
func regular(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	return nil
}

// FetchDebug returns the path of the vmlinux with debug information that
// belongs to a fetched kernel. It is some 100 MB to download and 1 GB to keep.
// The caller should compare build-ids.
func (f *Fetcher) FetchDebug(ctx context.Context, k *Kernel) (string, error) {
	r, err := parseRef(k.Ref(), false)
	if err != nil {
		return "", err
	}
	var firstErr error
	for _, pattern := range r.distro.debug {
		v := k.Candidate
		v.Package = expand(pattern, f.cfg.Arch, v.Release)
		v.pkgArch = f.cfg.Arch
		vmlinux := filepath.Join("usr", "lib", "debug", "boot", "vmlinux-"+v.Release)
		dir, _, err := f.entry(ctx, r, kindDebug, v, func(ctx context.Context, tmp string) error {
			pkgs, err := f.find(ctx, r, v.Package, v.Version, "")
			if err != nil {
				return err
			}
			if err := f.install(ctx, r, pkgs, tmp); err != nil {
				return err
			}
			for _, other := range []string{filepath.Join("usr", "lib", "debug", "lib", "modules", v.Release, "vmlinux"),
				filepath.Join("usr", "lib", "debug", "usr", "lib", "modules", v.Release, "vmlinux")} {
				// Where newer packages have it; the name of old stays valid.
				if regular(filepath.Join(tmp, other)) != nil || regular(filepath.Join(tmp, vmlinux)) == nil {
					continue
				}
				if err := os.MkdirAll(filepath.Dir(filepath.Join(tmp, vmlinux)), 0o700); err != nil {
					return err
				}
				_ = os.Remove(filepath.Join(tmp, vmlinux)) // a link, perhaps
				if err := os.Rename(filepath.Join(tmp, other), filepath.Join(tmp, vmlinux)); err != nil {
					return err
				}
			}
			if err := regular(filepath.Join(tmp, vmlinux)); err != nil {
				return &Error{Ref: r.String(), Kind: ErrPackage, Detail: fmt.Sprintf("%s %s has no vmlinux", v.Package, v.Version), Err: err}
			}
			return nil
		})
		if err == nil {
			return filepath.Join(dir, vmlinux), nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if !errors.Is(err, ErrDownload) || ctx.Err() != nil {
			break
		}
	}
	return "", firstErr
}

// FetchSource returns the distribution's source tree for the version that the
// reference names, with the distribution's patches applied. It is some 150 MB
// to download and 1.6 GB to keep.
func (f *Fetcher) FetchSource(ctx context.Context, reference string) (*Source, error) {
	r, err := parseRef(reference, false)
	if err != nil {
		return nil, err
	}
	v, note, err := f.choose(ctx, r, kindSource, func(ctx context.Context) ([]Candidate, error) {
		pkgs, err := f.search(ctx, r, "linux-source-", regexp.MustCompile(r.distro.source))
		var list []Candidate
		for _, p := range pkgs {
			list = append(list, f.candidate(r, p, ""))
		}
		return list, err
	})
	if err != nil {
		return nil, err
	}
	dir, hit, err := f.entry(ctx, r, kindSource, *v, func(ctx context.Context, tmp string) error {
		pkgs, err := f.find(ctx, r, v.Package, v.Version, "")
		if err != nil {
			return err
		}
		parts := filepath.Join(tmp, ".package")
		if err := os.Mkdir(parts, 0o700); err != nil {
			return err
		}
		if err := f.install(ctx, r, pkgs, parts); err != nil {
			return err
		}
		tarball, err := findTarball(parts)
		if err != nil {
			return &Error{Ref: r.String(), Kind: ErrPackage, Detail: fmt.Sprintf("%s %s has no source archive", v.Package, v.Version), Err: err}
		}
		f.progress(Progress{Step: "unpack", What: filepath.Base(tarball)})
		if err := f.apt.untar(ctx, tarball, filepath.Join(tmp, sourceDir)); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &Error{Ref: r.String(), Kind: ErrPackage, Detail: "cannot unpack " + filepath.Base(tarball), Err: err}
		}
		if err := regular(filepath.Join(tmp, sourceDir, "Kconfig")); err != nil {
			return &Error{Ref: r.String(), Kind: ErrPackage, Detail: v.Package + " is not a kernel source tree", Err: err}
		}
		return os.RemoveAll(parts)
	})
	if err != nil {
		return nil, err
	}
	return &Source{Package: v.Package, Version: v.Version, Upstream: v.Upstream, Dir: filepath.Join(dir, sourceDir),
		Hit: hit, Note: joinNotes(note, r.note())}, nil
}

// findTarball looks for usr/src/linux-source-*.tar.*, which Ubuntu keeps one
// level deeper.
func findTarball(dir string) (string, error) {
	for _, pattern := range []string{"usr/src/linux-source-*.tar.*", "usr/src/linux-source-*/linux-source-*.tar.*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", err
		}
		for _, path := range found {
			if regular(path) == nil {
				return path, nil
			}
		}
	}
	return "", fs.ErrNotExist
}
