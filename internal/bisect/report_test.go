// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
)

// sampleReport is a bisection with everything in it.
func sampleReport(t *testing.T, set func(*world)) Report {
	t.Helper()
	w := testWorld(40, 22, 1)
	for i := range w.h.Points {
		w.h.Points[i].Subject = fmt.Sprintf("mm: change %d of <many> & *more*", i)
		w.h.Points[i].Author = "A. U. Thor <a@example.org>"
		w.h.Points[i].Date = "2024-01-02"
	}
	set(w)
	s, err := New(w.h, Config{})
	assert.NilError(t, err)
	_, err = Run(t.Context(), s, Job{Builder: w, Tester: w})
	assert.NilError(t, err)
	for i := range s.obs {
		if o := &s.obs[i]; o.Word == Bad {
			o.Reason, o.Evidence = "TestPunch: got 1, want 2", "  punch_test.go:12: got 1, want 2\n``` </pre><script>alert(1)</script>"
			o.Repro = "kvmrun run -kernel bzImage -suite ext4 -run '^TestPunch$'"
		} else if o.Word != Good {
			o.Reason = "mm/x.c:1: error: <x>"
		}
	}
	r := s.NewReport()
	r.Git, r.Symptom, r.GoodName, r.BadName = true, "ext4: TestPunch fails", "v6.11", "v6.12"
	r.Source, r.Kernel, r.Command = "/src/linux", "profile kasan", "kvmrun bisect -src /src/linux -good v6.11 -bad v6.12 -suite ext4 -run TestPunch"
	r.Observations = append(r.Observations, Observation{Point: "revert", Word: Good, Phase: Revert})
	return r
}

func worldWithSkips(w *world) {
	w.build[19], w.boot[29] = true, true
	w.kernel[21] = w.kernel[20]
}

func TestReports(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		set  func(*world)
	}{
		{"culprit", worldWithSkips},
		{"range", func(w *world) { w.build[22], w.build[21] = true, true }},
		{"good-fails", func(w *world) { w.culprit = 0 }},
		{"bad-passes", func(w *world) { w.p = 0 }},
		{"untestable", func(w *world) { w.build[w.h.Bad()] = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := sampleReport(t, tc.set)
			for ext, write := range map[string]func(io.Writer) error{"txt": r.Text, "md": r.Markdown, "html": r.HTML, "json": r.JSON} {
				var b bytes.Buffer
				assert.NilError(t, write(&b))
				if tc.name == "culprit" || ext == "txt" {
					golden.Assert(t, b.String(), tc.name+"."+ext)
				}
				switch ext {
				case "html":
					wellFormed(t, b.Bytes())
				case "json":
					var back Report
					assert.NilError(t, json.Unmarshal(b.Bytes(), &back))
					assert.DeepEqual(t, back, r)
				}
			}
		})
	}
}

// wellFormed demands a page that any reader of XML can read, without anything
// from elsewhere and without the guest's markup.
func wellFormed(t *testing.T, page []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(page))
	circles := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		assert.NilError(t, err)
		e, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		assert.Assert(t, e.Name.Local != "script" && e.Name.Local != "img" && e.Name.Local != "link", e.Name.Local)
		if e.Name.Local == "circle" {
			circles++
		}
		for _, a := range e.Attr {
			assert.Assert(t, a.Name.Local != "href" && a.Name.Local != "src", a.Name.Local)
		}
	}
	assert.Assert(t, circles > 1) // the runs and the legend
	for _, from := range []string{"url(", "@import", "http:"} {
		rest := strings.ReplaceAll(string(page), "http://www.w3.org/2000/svg", "")
		assert.Assert(t, !strings.Contains(rest, from), from)
	}
}

// TestGitReplays lets real git read the log of bisections over a real
// repository with a merge: it names the same commit.
func TestGitReplays(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed: apt install git")
	}
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "git %v: %s", args, out)
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	var h History
	parents := map[string]int{}
	point := func(subject string) {
		id := git("rev-parse", "HEAD")
		p := Point{ID: id, Subject: subject, Base: len(h.Points) == 0}
		for _, q := range strings.Fields(git("rev-list", "--parents", "-n1", id))[1:] {
			p.Parents = append(p.Parents, parents[q])
		}
		parents[id] = len(h.Points)
		h.Points = append(h.Points, p)
	}
	commit := func(n int) {
		git("commit", "-q", "--allow-empty", "-m", fmt.Sprint("change ", n))
		point(fmt.Sprint("change ", n))
	}
	for n := range 8 {
		commit(n)
	}
	git("checkout", "-q", "-b", "side", "main~3")
	for n := 8; n < 14; n++ {
		commit(n)
	}
	git("checkout", "-q", "main")
	commit(14)
	git("merge", "-q", "--no-ff", "-m", "merge", "side")
	point("merge")
	commit(16)
	for culprit := 1; culprit < len(h.Points); culprit++ {
		hh := h
		hh.Points = append([]Point{}, h.Points...)
		ids := map[string]string{}
		for i := range hh.Points { // the simulated builder knows points by number
			ids[fmt.Sprint("c", i)] = hh.Points[i].ID
			hh.Points[i].ID = fmt.Sprint("c", i)
		}
		w := testWorld(1, 1, 1)
		w = newWorld(w.rng, hh, 0.7)
		w.culprit = culprit
		s, err := New(hh, Config{Repeat: 50})
		assert.NilError(t, err)
		_, err = Run(t.Context(), s, Job{Builder: w, Tester: w})
		assert.NilError(t, err)
		r := s.NewReport()
		assert.Equal(t, r.Result.Kind, Culprit)
		found := ids[r.Result.Found[0].ID]
		text, err := json.Marshal(r)
		assert.NilError(t, err)
		for i := len(h.Points) - 1; i >= 0; i-- {
			text = bytes.ReplaceAll(text, fmt.Appendf(nil, `"c%d"`, i), fmt.Appendf(nil, "%q", h.Points[i].ID))
		}
		assert.NilError(t, json.Unmarshal(text, &r))
		f, err := os.Create(filepath.Join(t.TempDir(), "log"))
		assert.NilError(t, err)
		assert.NilError(t, errors.Join(r.GitLog(f), f.Close()))
		out := git("bisect", "replay", f.Name())
		log, err := os.ReadFile(f.Name())
		assert.NilError(t, err)
		if !strings.Contains(string(log), "git bisect skip") {
			assert.Assert(t, strings.Contains(out, found+" is the first bad commit"), "%s\n%s", log, out)
		}
		git("bisect", "reset")
	}
}
