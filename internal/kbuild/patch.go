// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// patchFile is a patch as given.
type patchFile struct {
	Name   string `json:"name"` // base name
	SHA256 string `json:"sha256"`
	path   string
	text   []byte
	hunks  []hunk
	files  []string // slash paths it touches, sorted
}

// hunk is one hunk of a patch.
type hunk struct {
	file   string
	number int    // within its file, from 1
	line   int    // of the patch file
	header string // "@@ -1,2 +3,4 @@ function"
}

var hunkRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@`) })

// readPatch reads a unified diff and refuses what leads out of the tree.
func readPatch(name string) (patchFile, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return patchFile{}, fmt.Errorf("read patch: %w", err)
	}
	p := patchFile{Name: filepath.Base(name), SHA256: sum(text), path: name, text: text}
	seen := map[string]bool{}
	touch := func(f string) error {
		if f == "/dev/null" || f == "" {
			return nil
		}
		clean := path.Clean(f)
		if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
			return fmt.Errorf("patch %s: the file name %q leads out of the tree", name, f)
		}
		if !seen[clean] {
			seen[clean] = true
			p.files = append(p.files, clean)
		}
		return nil
	}
	lines := strings.Split(string(text), "\n")
	file, count := "", map[string]int{}
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		var err error
		switch {
		case strings.HasPrefix(l, "--- ") && i+1 < len(lines) && strings.HasPrefix(lines[i+1], "+++ "):
			from, to := diffName(l[4:]), diffName(lines[i+1][4:])
			if file = to; to == "/dev/null" {
				file = from
			}
			err = errors.Join(touch(from), touch(to))
			i++
		case strings.HasPrefix(l, "rename from "), strings.HasPrefix(l, "rename to "), strings.HasPrefix(l, "copy to "):
			err = touch(l[strings.LastIndexByte(l, ' ')+1:])
		case strings.HasPrefix(l, "@@ ") && file != "":
			m := hunkRE().FindStringSubmatch(l)
			if m == nil {
				return p, fmt.Errorf("patch %s:%d: bad hunk header %q", name, i+1, clip(l))
			}
			count[file]++
			p.hunks = append(p.hunks, hunk{file: file, number: count[file], line: i + 1, header: l})
			i = skipHunk(lines, i, m[1], m[2])
		}
		if err != nil {
			return p, err
		}
	}
	if len(p.files) == 0 {
		return p, fmt.Errorf("patch %s: there is no unified diff in it (want lines of --- a/FILE and +++ b/FILE)", name)
	}
	slices.Sort(p.files)
	return p, nil
}

// skipHunk returns the last line of the hunk whose header is at i, so that
// removed lines that look like headers ("--- x") are not taken for them.
func skipHunk(lines []string, i int, oldCount, newCount string) int {
	number := func(s string) int {
		if s == "" {
			return 1
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0
		}
		return n
	}
	from, to := number(oldCount), number(newCount)
	for i+1 < len(lines) && (from > 0 || to > 0) {
		next := lines[i+1]
		switch {
		case strings.HasPrefix(next, "-"):
			from--
		case strings.HasPrefix(next, "+"):
			to--
		case strings.HasPrefix(next, " "), next == "":
			from, to = from-1, to-1
		case strings.HasPrefix(next, `\`):
		default:
			return i
		}
		i++
	}
	return i
}

// diffName returns the file of a --- or +++ line, without its first component
// (-p1) and without a time stamp.
func diffName(s string) string {
	s, _, _ = strings.Cut(s, "\t")
	s = strings.TrimSpace(s)
	if s == "/dev/null" {
		return s
	}
	if _, rest, ok := strings.Cut(s, "/"); ok && !strings.HasPrefix(s, "/") {
		return rest
	}
	return s
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

// PatchError is a patch that does not apply.
type PatchError struct {
	Patch string // as given
	File  string // of the tree
	Hunk  string // its number and header, "" when the patch as a whole is at fault
	Text  string // what patch(1) said
}

func (e *PatchError) Error() string {
	where := ""
	if e.File != "" {
		where = " to " + e.File
	}
	if e.Hunk != "" {
		return fmt.Sprintf("patch %s does not apply%s: %s does not match (fuzz is refused; regenerate the patch against this tree)", e.Patch, where, e.Hunk)
	}
	return fmt.Sprintf("patch %s does not apply%s: %s", e.Patch, where, e.Text)
}

// overlay is what patches make of a source: new content by path, in a directory
// of its own.
type overlay struct {
	dir   string
	files fileSet
	gone  []string
}

// patch applies patches to copies of the files they touch, below dir.
func (r *request) patch(ctx context.Context, src *source, patches []patchFile, dir string) (*overlay, error) {
	o := &overlay{dir: dir, files: fileSet{}}
	touched := map[string]bool{}
	for _, p := range patches {
		for _, f := range p.files {
			touched[f] = true
		}
	}
	for f := range touched {
		to := filepath.Join(dir, filepath.FromSlash(f))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return nil, fmt.Errorf("prepare patching: %w", err)
		}
		want, ok := src.files[f]
		if !ok {
			continue // a file the patch adds, or patch(1) will complain
		}
		if err := place(filepath.Join(src.dir, filepath.FromSlash(f)), to, want, false, false); err != nil {
			return nil, fmt.Errorf("prepare patching: %w", err)
		}
	}
	for _, p := range patches {
		if err := r.applyOne(ctx, p, dir); err != nil {
			return nil, err
		}
	}
	after, _, err := scan(dir, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("read patched files: %w", err)
	}
	for f, s := range after {
		if src.files[f] != s {
			o.files[f] = s
		}
	}
	for f := range touched {
		if _, left := after[f]; !left && src.files[f] != "" {
			o.gone = append(o.gone, f)
		}
	}
	slices.Sort(o.gone)
	return o, nil
}

var (
	patchingRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^(?:patching|checking) file '?(.+?)'?(?: \(.*\))?$`)
	})
	failedRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^Hunk #(\d+) FAILED`) })
)

// applyOne runs patch(1): -F0 refuses fuzz (an offset is allowed), -N refuses
// to apply backwards, -t never asks.
func (r *request) applyOne(ctx context.Context, p patchFile, dir string) error {
	cmd := exec.CommandContext(ctx, "patch", "-p1", "-F0", "-N", "-t", "--no-backup-if-mismatch", "-r", "-", "-d", dir)
	cmd.Env = r.env
	cmd.Stdin = strings.NewReader(string(p.text))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("run patch: %w", err)
	}
	return requestErr(p.explain(string(out)))
}

// explain reads what patch(1) printed.
func (p patchFile) explain(out string) *PatchError {
	e := &PatchError{Patch: p.path, Text: strings.TrimSpace(out)}
	for _, line := range strings.Split(out, "\n") {
		if m := patchingRE().FindStringSubmatch(line); m != nil {
			e.File = m[1]
		}
		if m := failedRE().FindStringSubmatch(line); m != nil {
			e.Hunk = "hunk #" + m[1]
			for _, h := range p.hunks {
				if h.file == e.File && strconv.Itoa(h.number) == m[1] {
					e.Hunk = fmt.Sprintf("hunk #%d (line %d of the patch, %s)", h.number, h.line, strings.TrimSpace(h.header))
				}
			}
			return e
		}
		switch {
		case strings.Contains(line, "previously applied"):
			e.Text = "it is already applied to this tree"
			return e
		case strings.Contains(line, "find file to patch"):
			e.Text = "the tree has no such file: " + strings.Join(p.files, ", ")
			return e
		case strings.HasPrefix(line, "patch: **** "):
			e.Text = strings.TrimPrefix(strings.TrimSpace(line), "patch: **** ")
			return e
		}
	}
	return e
}

// CheckPatches says whether patches apply, in their order, to a source
// directory, without building and without writing to it. The error is a
// *[PatchError] or one of reading.
func CheckPatches(ctx context.Context, srcDir string, patches []string, env []string) error {
	r := &request{env: cleanEnv(env)}
	src := &source{dir: srcDir, files: fileSet{}}
	var read []patchFile
	for _, name := range patches {
		p, err := readPatch(name)
		if err != nil {
			return requestErr(err)
		}
		read = append(read, p)
		for _, f := range p.files {
			file := filepath.Join(srcDir, filepath.FromSlash(f))
			fi, err := os.Lstat(file)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read kernel source: %w", err)
			}
			if src.files[f], err = sumFile(file, fi); err != nil {
				return fmt.Errorf("read kernel source: %w", err)
			}
		}
	}
	tmp, err := os.MkdirTemp("", "kvmrun-patch-")
	if err != nil {
		return fmt.Errorf("prepare patching: %w", err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a temporary directory
	_, err = r.patch(ctx, src, read, tmp)
	return err
}
