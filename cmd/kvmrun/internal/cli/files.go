// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	// maxList bounds a list of files, in bytes: beyond any that a guest's memory
	// could take the files of.
	maxList = 1 << 20
	// maxFiles bounds how many values of -file come of lists and patterns.
	maxFiles = 100_000
)

// expandFiles replaces, among the values of -file, @LIST by the lines of the file LIST
// and PATTERN or PATTERN:DIR by the files that match as in a shell (path.Match). A file
// that has such a name is meant itself. A list names no further lists.
func expandFiles(values []string) ([]string, error) {
	var out []string
	for _, v := range values {
		name, list := strings.CutPrefix(v, "@")
		if !list || exists(v) {
			more, err := matches(v)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
			continue
		}
		st, err := os.Stat(name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("-file %s: %w; the file lists one value of -file a line", v, err)
		case !st.Mode().IsRegular() || st.Size() > maxList:
			return nil, fmt.Errorf("-file %s: want a regular file of at most %d bytes with one value of -file a line", v, maxList)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("-file %s: %w", v, err)
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			line = strings.TrimRight(line, "\r\n")
			if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
				continue
			}
			more, err := matches(line)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, n, err)
			}
			out = append(out, more...)
		}
	}
	if len(out) > maxFiles {
		return nil, fmt.Errorf("-file: %d files: at most %d can be named; name directories", len(out), maxFiles)
	}
	return out, nil
}

// matches are the values that a pattern stands for, or the value itself.
func matches(value string) ([]string, error) {
	host, guest, given := strings.Cut(value, ":")
	if !strings.ContainsAny(host, "*?[") || exists(host) {
		return []string{value}, nil
	}
	found, err := filepath.Glob(host)
	if err != nil {
		return nil, fmt.Errorf("-file %s: %w", value, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("-file %s: no file matches", value)
	}
	var out []string
	for _, f := range found {
		if strings.Contains(f, ":") {
			return nil, fmt.Errorf("-file %s: %s has a colon, which divides HOST:GUEST", value, f)
		}
		if given {
			f += ":" + filepath.Join(guest, filepath.Base(f))
		}
		out = append(out, f)
	}
	return out, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
