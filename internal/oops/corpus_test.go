package oops_test

import (
	"bytes"
	"fmt"
	"maps"
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

// corpusMin is the share of expectations that must be met, in percent, and
// unreadMin that in the folds that nobody looked at: what the worst of its scores,
// the titles, was when it was first measured. It is there to be raised.
const (
	corpusMin = 97
	unreadMin = 84
)

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

// unreadEnv lists folds, by number and separated by commas, whose misses are
// counted and not shown: whoever works on the parser keeps them to measure what
// it does on logs that nobody looked at.
const unreadEnv = "KVMRUN_UNREAD"

// fold is the part of the corpus a log belongs to: the last digit of its number.
func (s *sample) fold() byte {
	name := strings.TrimSuffix(s.name, ".txt")
	return name[len(name)-1]
}

// scores are those of one fold.
type scores struct{ crash, titles, types, corrupted, alts, panicked, frames score }

func TestCorpusScore(t *testing.T) {
	folds := map[byte]*scores{}
	unread := os.Getenv(unreadEnv)
	var all, read, hidden scores
	for _, s := range samples(t) {
		part := &read
		if strings.Contains(unread, string(s.fold())) {
			part = &hidden
		}
		if folds[s.fold()] == nil {
			folds[s.fold()] = &scores{}
		}
		miss := s.score(folds[s.fold()], &all, part)
		if miss != "" && !strings.Contains(unread, string(s.fold())) {
			t.Logf("%s: %s", s.name, miss)
		}
	}
	fmt.Println("crash log score by fold (the last digit of the log's number):")
	fmt.Println("fold  crash or none  titles   types    corrupted alt titles")
	for _, f := range slices.Sorted(maps.Keys(folds)) {
		fmt.Printf("%c     %v\n", f, folds[f])
	}
	fmt.Printf("all   %v\n", all)
	t.Logf("panicked %v, frames %v", all.panicked, all.frames)
	for _, part := range []struct {
		what string
		min  int
		s    scores
	}{{"the folds that are read", corpusMin, read}, {"the unread folds", unreadMin, hidden}} {
		for name, s := range map[string]score{
			"titles": part.s.titles, "types": part.s.types, "corrupted": part.s.corrupted, "crash or none": part.s.crash,
		} {
			if s.ok*100 < s.all*part.min {
				t.Errorf("%s: %v right in %s, want at least %d %%", name, s, part.what, part.min)
			}
		}
	}
}

func (s scores) String() string {
	return fmt.Sprintf("%-14v %-8v %-8v %-9v %v", s.crash, s.titles, s.types, s.corrupted, s.alts)
}

// score adds what the parser made of the log to all of to. It returns what
// differs from what is right, "" if nothing does.
func (s *sample) score(to ...*scores) (miss string) {
	r := oops.ParseFirst(s.log)
	for _, sc := range to {
		sc.crash.add((r != nil) == (s.title != ""))
	}
	switch {
	case s.title == "" && r == nil:
		return ""
	case s.title == "":
		return fmt.Sprintf("found %q in a log without a crash", r.Title)
	case r == nil:
		miss = fmt.Sprintf("found nothing, want %q", s.title)
		r = &oops.Report{Title: "no crash", Kind: "none", Corrupted: !s.corrupted, Panicked: s.panicked, AltTitles: s.alts}
	case r.Title != s.title || string(r.Kind) != s.kind || r.Corrupted != s.corrupted:
		miss = fmt.Sprintf("\n got %q %s corrupted=%v (%s)\nwant %q %s corrupted=%v",
			r.Title, r.Kind, r.Corrupted, r.CorruptedReason, s.title, s.kind, s.corrupted)
	case !slices.Equal(r.AltTitles, s.alts) || r.Panicked != s.panicked:
		miss = fmt.Sprintf("alt titles %q, want %q; panicked %v, want %v", r.AltTitles, s.alts, r.Panicked, s.panicked)
	}
	for _, sc := range to {
		sc.titles.add(r.Title == s.title)
		sc.types.add(string(r.Kind) == s.kind)
		sc.corrupted.add(r.Corrupted == s.corrupted)
		sc.alts.add(slices.Equal(r.AltTitles, s.alts))
		sc.panicked.add(r.Panicked == s.panicked)
		if s.frame != "" {
			sc.frames.add(r.Frame == s.frame)
		}
	}
	return miss
}
