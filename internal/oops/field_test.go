package oops_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/internal/oops"
	"gotest.tools/v3/assert"
)

// fieldEnv names a folder of logs from public reports, NN-NAME.log, with what is
// right in NN-NAME.want.json. They are not part of the project.
const fieldEnv = "KVMRUN_FIELD"

// fieldWant is a report that a log holds.
type fieldWant struct {
	Title string `json:"title"`
	Type  string `json:"type"`
	// Accept is a list of other right titles, or a string: "~" and an expression
	// that the title must match from its beginning, or "*" and a type.
	Accept json.RawMessage `json:"accept"`
}

// accepts reports whether r is the report.
func (w fieldWant) accepts(t testing.TB, r *oops.Report) bool {
	t.Helper()
	if len(w.Accept) > 0 && w.Accept[0] == '"' {
		var rule string
		assert.NilError(t, json.Unmarshal(w.Accept, &rule))
		if kind, ok := strings.CutPrefix(rule, "*"); ok {
			return string(r.Kind) == kind
		}
		return regexp.MustCompile("^(?:" + strings.TrimPrefix(rule, "~") + ")").MatchString(r.Title)
	}
	titles := []string{}
	if len(w.Accept) > 0 {
		assert.NilError(t, json.Unmarshal(w.Accept, &titles))
	}
	return (r.Title == w.Title || slices.Contains(titles, r.Title)) && (w.Type == "" || string(r.Kind) == w.Type)
}

// TestField reads logs from public reports. A log is right when each report in
// it is found once and nothing else is.
func TestField(t *testing.T) {
	dir := os.Getenv(fieldEnv)
	if dir == "" {
		t.Skipf("no logs from public reports to read (set %s to a folder of NN-NAME.log and NN-NAME.want.json)", fieldEnv)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.want.json"))
	assert.NilError(t, err)
	assert.Assert(t, len(files) > 0, "no *.want.json in %s", dir)
	var all score
	for _, file := range files {
		data, err := os.ReadFile(file)
		assert.NilError(t, err)
		var want struct {
			Expect struct {
				Splats *[]fieldWant `json:"splats"`
			} `json:"expect"`
		}
		assert.NilError(t, json.Unmarshal(data, &want), file)
		if want.Expect.Splats == nil {
			continue // for another parser
		}
		name := strings.TrimSuffix(file, ".want.json")
		log, err := os.ReadFile(name + ".log")
		assert.NilError(t, err)
		left := oops.Parse(log)
		var missed, extra []string
		for _, w := range *want.Expect.Splats {
			i := slices.IndexFunc(left, func(r *oops.Report) bool { return w.accepts(t, r) })
			if i < 0 {
				missed = append(missed, w.Title)
				continue
			}
			left = slices.Delete(left, i, i+1)
		}
		for _, r := range left {
			extra = append(extra, fmt.Sprintf("%s (%s)", r.Title, r.Kind))
		}
		ok := len(missed)+len(extra) == 0
		all.add(ok)
		verdict := "right"
		if !ok {
			verdict = fmt.Sprintf("missed %q, found %q besides", missed, extra)
		}
		fmt.Printf("field case: %-36s %s\n", filepath.Base(name), verdict)
	}
	fmt.Printf("field score: %v logs right\n", all)
	assert.Assert(t, all.ok*100 >= all.all*fieldMin, "%v logs are right, want at least %d %%", all, fieldMin)
}

// fieldMin is the share of logs that must be right, in percent.
const fieldMin = 80
