package oops

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// list returns the lines of a data file that hold something.
func list(t *testing.T, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			out = append(out, line)
		}
	}
	return out
}

// raced matches titles that name functions as KCSAN found them.
var raced = regexp.MustCompile(`^KCSAN: `)

// TestTitlesCanBeBlamed: no function that a bug is known under is a helper, and
// every kind of title has its kind.
func TestTitlesCanBeBlamed(t *testing.T) {
	// Dashboard titles without a type of their own.
	untyped := regexp.MustCompile(`^BUG: (?:Bad|stack guard|corrupted list|using|workqueue|spinlock)|^INFO: trying|^WARNING: (?:ODEBUG|kobject)|^CFI|^int3|^Oops`)
	ok, all := 0, 0
	for _, title := range list(t, "testdata/titles.list") {
		all++
		_, fn, found := strings.Cut(title, " in ")
		for next := fn; found; {
			_, next, found = strings.Cut(next, " in ") // "BUG: ... from invalid context in X"
			if found {
				fn = next
			}
		}
		fn, _, _ = strings.Cut(fn, "/")
		if !raced.MatchString(title) && innocent(fn) && kindOf(title) != Lockdep {
			t.Errorf("%s: %s can never be blamed (helper %v, pattern %q)", title, fn, isHelper(fn), neverRe.FindStringSubmatch(fn))
			continue
		}
		if kindOf(title) == Unknown && !untyped.MatchString(title) {
			t.Errorf("%s has no kind", title)
			continue
		}
		if stable(title) != title {
			t.Errorf("%s becomes %s", title, stable(title))
			continue
		}
		ok++
	}
	fmt.Printf("hard set: %d/%d known titles can be given\n", ok, all)
	if all < 1000 {
		t.Errorf("only %d titles", all)
	}
}

// TestHelpersAreNot: what works on request is never blamed.
func TestHelpersAreNot(t *testing.T) {
	ok, all := 0, 0
	for _, line := range list(t, "testdata/helpers.list") {
		for _, fn := range strings.Fields(line) {
			all++
			if !innocent(fn) {
				t.Errorf("%s can be blamed", fn)
				continue
			}
			ok++
		}
	}
	fmt.Printf("hard set: %d/%d helpers are never blamed\n", ok, all)
}
