package oops_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/internal/oops"
	"gotest.tools/v3/assert"
)

// corpusEnv names a folder of console logs with expectations. It is not part
// of the project: the logs carry their own license.
const corpusEnv = "KVMRUN_CRASHLOGS"

// corpusMin is the share of expectations that must be met, in percent.
const corpusMin = 97

// sample is one log of the corpus and what is known about it.
type sample struct {
	name      string
	title     string
	alts      []string
	kind      string
	frame     string
	corrupted bool
	panicked  bool
	count     int // reports in the log, 0 if not said
	log       []byte
}

// readSample parses "KEY: value" lines, an empty line, the log, and an optional
// "REPORT:" block.
func readSample(t testing.TB, file string) sample {
	t.Helper()
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	s := sample{name: filepath.Base(file)}
	head, log, ok := bytes.Cut(data, []byte("\n\n"))
	if bytes.HasPrefix(data, []byte("\n")) {
		head, log, ok = nil, data[1:], true
	}
	assert.Assert(t, ok, "%s: no empty line after the header", file)
	for _, line := range strings.Split(string(head), "\n") {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "TITLE":
			s.title = value
		case "ALT":
			s.alts = append(s.alts, value)
		case "TYPE":
			s.kind = value
		case "FRAME":
			s.frame = value
		case "CORRUPTED":
			s.corrupted = value == "Y"
		case "COUNT":
			s.count = countOf(value)
		case "PANICKED":
			s.panicked = value == "Y"
		}
	}
	if i := bytes.Index(log, []byte("\nREPORT:\n")); i >= 0 {
		log = log[:i+1]
	}
	s.log = log
	return s
}

// score counts met expectations.
type score struct{ ok, all int }

func (s *score) add(ok bool) {
	s.all++
	if ok {
		s.ok++
	}
}

func (s score) String() string { return fmt.Sprintf("%d/%d", s.ok, s.all) }

func samples(t testing.TB) []sample {
	t.Helper()
	dir := os.Getenv(corpusEnv)
	if dir == "" {
		t.Skipf("no crash logs to score against (set %s to a folder of them)", corpusEnv)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	assert.NilError(t, err)
	assert.Assert(t, len(files) > 0, "no *.txt in %s", dir)
	slices.Sort(files)
	var out []sample
	for _, file := range files {
		out = append(out, readSample(t, file))
	}
	return out
}

func TestCorpusScore(t *testing.T) {
	var titles, types, corrupted, clean, alts, panicked, frames score
	for _, s := range samples(t) {
		r := oops.ParseFirst(s.log)
		if s.title == "" {
			clean.add(r == nil)
			if r != nil {
				t.Logf("%s: found %q in a log without a crash", s.name, r.Title)
			}
			continue
		}
		if r == nil {
			titles.add(false)
			types.add(false)
			corrupted.add(false)
			t.Logf("%s: found nothing, want %q", s.name, s.title)
			continue
		}
		titles.add(r.Title == s.title)
		types.add(string(r.Kind) == s.kind)
		corrupted.add(r.Corrupted == s.corrupted)
		alts.add(slices.Equal(r.AltTitles, s.alts))
		panicked.add(r.Panicked == s.panicked)
		if s.frame != "" {
			frames.add(r.Frame == s.frame)
		}
		if r.Title != s.title || string(r.Kind) != s.kind || r.Corrupted != s.corrupted {
			t.Logf("%s:\n got %q %s corrupted=%v (%s)\nwant %q %s corrupted=%v", s.name,
				r.Title, r.Kind, r.Corrupted, r.CorruptedReason, s.title, s.kind, s.corrupted)
		}
		if !slices.Equal(r.AltTitles, s.alts) || r.Panicked != s.panicked {
			t.Logf("%s: alt titles %q, want %q; panicked %v, want %v", s.name, r.AltTitles, s.alts, r.Panicked, s.panicked)
		}
	}
	fmt.Printf("crash log score: titles %v types %v corrupted %v clean %v\n", titles, types, corrupted, clean)
	t.Logf("alt titles %v, panicked %v, frames %v", alts, panicked, frames)
	for name, s := range map[string]score{"titles": titles, "types": types, "corrupted": corrupted, "clean": clean} {
		if s.ok*100 < s.all*corpusMin {
			t.Errorf("%s: %v right, want at least %d %%", name, s, corpusMin)
		}
	}
}
