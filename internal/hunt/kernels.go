// SPDX-License-Identifier: Apache-2.0

package hunt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
)

// existing are kernels that exist, in order.
type existing struct {
	plain
	m     *runner.Machine
	find  func(ctx context.Context, name string) (string, error)
	what  string // as given
	list  []existingKernel
	bad   string
	names map[string]string
}

type existingKernel struct {
	id      string // a path or a reference
	release string
	version string // "6.12.117"
}

// newKernels lists the kernels that -kernels names.
func newKernels(ctx context.Context, q *Question, t Tools) (*existing, error) {
	e := &existing{m: t.Machine, find: t.Find, what: q.Kernels, bad: q.Bad, names: map[string]string{}}
	var err error
	switch fi, serr := os.Stat(q.Kernels); {
	case kfetch.IsRef(q.Kernels) && serr != nil:
		err = e.fromArchive(ctx)
	case serr == nil && fi.IsDir():
		err = e.fromDir(ctx)
	case serr == nil && !strings.Contains(q.Kernels, ","):
		err = e.fromFile(ctx)
	default:
		err = e.fromList(ctx, strings.Split(q.Kernels, ","))
	}
	if err != nil {
		return nil, err
	}
	if len(e.list) < 2 {
		return nil, refusef("bisect: -kernels %s: there are %d kernels, and two at least are needed: a good one and a bad one", q.Kernels, len(e.list))
	}
	count := map[string]int{}
	for _, k := range e.list {
		count[k.release]++
	}
	for _, k := range e.list {
		if e.names[k.id] = k.release; count[k.release] > 1 || k.release == "" {
			e.names[k.id] = k.id
		}
	}
	return e, nil
}

func (e *existing) fromArchive(ctx context.Context) error {
	list, err := kfetch.New(kfetch.Config{Cache: e.m.Cache}).Versions(ctx, e.what)
	if err != nil && len(list) == 0 {
		return err
	}
	if err != nil {
		e.m.Progress(fmt.Sprintf("only what was fetched before, because: %v", err))
	}
	seen := map[string]bool{}
	for _, c := range list {
		if ref := c.Ref(); !seen[ref] { // flavours of one version
			seen[ref] = true
			e.list = append(e.list, existingKernel{ref, c.Release, c.Upstream})
		}
	}
	return nil
}

// kernelFile says whether a file's name is that of a kernel.
func kernelFile(name string) bool {
	for _, p := range []string{"vmlinuz", "bzImage", "vmlinux"} {
		if name == p || strings.HasPrefix(name, p+"-") || strings.HasPrefix(name, p+".") {
			return true
		}
	}
	return false
}

// fromDir finds kernels in a directory, and one in each directory below it: an
// unpacked package, or what kvmrun kernel build made.
func (e *existing) fromDir(ctx context.Context) error {
	var paths []string
	entries, err := os.ReadDir(e.what)
	if err != nil {
		return refuse(fmt.Errorf("bisect: -kernels: %w", err))
	}
	for _, d := range entries {
		path := filepath.Join(e.what, d.Name())
		fi, err := os.Stat(path)
		switch {
		case err != nil:
		case fi.Mode().IsRegular() && kernelFile(d.Name()):
			paths = append(paths, path)
		case fi.IsDir():
			for _, pattern := range []string{"vmlinux", "bzImage", "vmlinuz*", "boot/vmlinuz*"} {
				if found, _ := filepath.Glob(filepath.Join(path, pattern)); len(found) > 0 {
					paths = append(paths, found[0])
					break
				}
			}
		}
	}
	if err := e.fromList(ctx, paths); err != nil {
		return err
	}
	slices.SortStableFunc(e.list, func(a, b existingKernel) int { return kfetch.CompareVersions(a.release, b.release) })
	return nil
}

func (e *existing) fromFile(ctx context.Context) error {
	f, err := os.Open(e.what)
	if err != nil {
		return refuse(fmt.Errorf("bisect: -kernels: %w", err))
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, listLimit+1))
	if err != nil {
		return fmt.Errorf("bisect: -kernels: %w", err)
	}
	if len(text) > listLimit || bytes.IndexByte(text, 0) >= 0 {
		return refusef("bisect: -kernels %s: this is one kernel, or no list: want a directory, or kernels with commas between, or a text file with one per line", e.what)
	}
	var paths []string
	for _, l := range strings.Split(string(text), "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			paths = append(paths, l)
		}
	}
	return e.fromList(ctx, paths)
}

// listLimit bounds a list of kernels, in bytes.
const listLimit = 1 << 20

// fromList opens kernels in the order given. One that cannot be used stays in
// the list: it may lie between good and bad, and is skipped then.
func (e *existing) fromList(ctx context.Context, paths []string) error {
	for _, p := range paths {
		if p = strings.TrimSpace(p); p == "" {
			continue
		}
		if _, err := os.Stat(p); err != nil && kfetch.IsRef(p) {
			_, version, _ := strings.Cut(p, ":")
			e.list = append(e.list, existingKernel{p, p, version})
			continue
		}
		path, err := e.find(ctx, p)
		switch _, missing := os.Stat(p); {
		case err == nil:
		case !theQuestions(err):
			return err
		case missing != nil:
			return refusef("bisect: -kernels: %w", err)
		default:
			if path, err = filepath.Abs(p); err != nil {
				return err
			}
		}
		k := existingKernel{id: path}
		if kernel, err := e.m.OpenKernel(ctx, path, "", ""); err == nil {
			k.release = kernel.Release
			k.version, _, _ = strings.Cut(kernel.Release, "-")
			k.version, _, _ = strings.Cut(k.version, "+")
		} else if ctx.Err() != nil {
			return ctx.Err()
		}
		e.list = append(e.list, k)
	}
	return nil
}

// find returns the kernel that the user calls so: by version, release, file or
// reference.
func (e *existing) named(end, name string) (int, error) {
	var hits []int
	abs, err := filepath.Abs(name)
	if err != nil {
		return 0, err
	}
	for i, k := range e.list {
		if name == k.id || name == k.release || name == k.version || name == filepath.Base(k.id) || abs == k.id || strings.HasPrefix(k.id, abs+"/") {
			hits = append(hits, i)
		}
	}
	var known []string
	for _, k := range e.list {
		known = append(known, e.names[k.id])
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return 0, fmt.Errorf("bisect: -%s %s: there is no such kernel; there are: %s", end, name, strings.Join(known, ", "))
	}
	return 0, fmt.Errorf("bisect: -%s %s: %d kernels are called so; name the file; there are: %s", end, name, len(hits), strings.Join(known, ", "))
}

func (e *existing) history(_ context.Context, good string) (bisect.History, error) {
	bad, first := len(e.list)-1, 0
	var err error
	if e.bad != "" {
		if bad, err = e.named("bad", e.bad); err != nil {
			return bisect.History{}, err
		}
	}
	if good != "" {
		if first, err = e.named("good", good); err != nil {
			return bisect.History{}, err
		}
		if first >= bad {
			return bisect.History{}, fmt.Errorf("bisect: the good kernel, %s, does not come before the bad one, %s; to find what mended something, swap the two, with a test that fails where it is mended",
				e.names[e.list[first].id], e.names[e.list[bad].id])
		}
	}
	var points []bisect.Point
	for _, k := range e.list[first : bad+1] {
		points = append(points, bisect.Point{ID: k.id, Subject: e.names[k.id]})
	}
	return bisect.Linear(points), nil
}

func (e *existing) name(id string) string {
	if n := e.names[id]; n != "" {
		return n
	}
	return id
}

func (e *existing) report(r *bisect.Report) { r.Source = e.what }

func (e *existing) cost() float64 { return 0 }

// Build finds a kernel, fetching it if need be.
func (e *existing) Build(ctx context.Context, id string) (bisect.Build, error) {
	path := id
	if !filepath.IsAbs(id) {
		var err error
		if path, err = e.m.FetchKernel(ctx, id); err != nil {
			if ctx.Err() != nil || result.HostsFault(err) {
				return bisect.Build{}, err
			}
			if errors.Is(err, kfetch.ErrNotFound) {
				return bisect.Build{Word: bisect.BuildFailed, Reason: firstLine(err)}, nil
			}
			return bisect.Build{Word: bisect.Infra, Reason: firstLine(err)}, nil
		}
	}
	sum, err := e.m.Cache.HashFile(path)
	if err != nil {
		return bisect.Build{Word: bisect.Infra, Reason: err.Error()}, nil
	}
	return bisect.Build{Path: path, Kernel: sum}, nil
}
