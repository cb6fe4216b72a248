// SPDX-License-Identifier: Apache-2.0

package ktap

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// maxNumber bounds test numbers and plans; larger ones are not numbers.
const maxNumber = 1_000_000_000

// parseVersion parses "TAP version 14" into "TAP 14".
func parseVersion(s string) (string, bool) {
	kind := "TAP"
	rest, ok := strings.CutPrefix(s, "TAP version ")
	if !ok {
		kind = "KTAP"
		if rest, ok = strings.CutPrefix(s, "KTAP version "); !ok {
			return "", false
		}
	}
	n, ok := parseNumber(strings.TrimSpace(rest))
	if !ok {
		return "", false
	}
	return kind + " " + strconv.Itoa(n), true
}

// parsePlan parses "1..N", with an optional comment or Perl's list of the tests
// that are TODO. skip is the reason of a plan that skips everything.
func parsePlan(s string, escapes bool) (n int, skip string, todo []int, ok bool) {
	rest, ok := strings.CutPrefix(s, "1..")
	if !ok {
		return 0, "", nil, false
	}
	number, comment, _ := strings.Cut(rest, "#")
	number = strings.TrimSpace(number)
	if head, list, ok := strings.Cut(number, " todo "); ok {
		// "1..5 todo 3 2;", from before there were directives.
		number = strings.TrimSpace(head)
		for _, w := range strings.Fields(strings.TrimRight(list, "; ")) {
			n, ok := parseNumber(w)
			if !ok || len(todo) >= maxRemarks {
				return 0, "", nil, false
			}
			todo = append(todo, n)
		}
	}
	n, ok = parseNumber(number)
	if !ok {
		return 0, "", nil, false
	}
	if n == 0 {
		comment = unescape(strings.TrimSpace(comment), escapes)
		skip = comment
		if d, reason := parseDirective(comment); d == Skip {
			skip = reason
		}
		if skip == "" {
			skip = "skipped"
		}
	}
	return n, skip, todo, true
}

// parseNumber parses a decimal number without a sign, up to maxNumber.
func parseNumber(s string) (int, bool) {
	if s == "" || len(s) > 10 {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, n <= maxNumber
}

// parseResult parses a result line. escapes is whether the document is of a
// version that has backslash escapes.
func parseResult(s string, escapes bool) (*Test, bool) {
	t := &Test{}
	rest, notOK := strings.CutPrefix(s, "not ok")
	if !notOK {
		rest, t.OK = strings.CutPrefix(s, "ok")
		if !t.OK {
			return nil, false
		}
	}
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return nil, false // "okay", "ok:"
	}
	rest = strings.TrimSpace(rest)
	if r, ok := cutRange(rest); ok {
		// "ok 1..2 selftests: x: y [PASS]" of kselftest's runner in Linux 4.18
		// to 5.1: test 2.
		rest = r
		if r, ok := strings.CutSuffix(rest, " [SKIP]"); ok {
			rest, t.Directive = r, Skip
		}
	}
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	if n, ok := parseNumber(rest[:digits]); ok && n > 0 && (digits == len(rest) || strings.ContainsRune(" \t#-", rune(rest[digits]))) {
		t.Number = n
		rest = strings.TrimLeft(rest[digits:], " \t")
	}
	if rest == "-" {
		rest = ""
	}
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "- "), " \t")
	name, comment, found := cutComment(rest, t.OK)
	t.Name = unescape(strings.TrimSpace(name), escapes)
	if found {
		t.Directive, t.Reason = parseDirective(unescape(strings.TrimSpace(comment), escapes))
	}
	return t, true
}

// cutRange cuts the "1.." of a result's number.
func cutRange(s string) (string, bool) {
	rest, ok := strings.CutPrefix(s, "1..")
	n := digits(rest)
	if !ok || n == 0 || !strings.HasPrefix(rest[n:], " selftests:") {
		return s, false
	}
	return rest, true
}

// cutComment splits s around the "#" that begins its comment: the first that
// is followed by a blank or nothing, or is a word of its own and followed by a
// directive. Others are part of a name, as in "seed#0" and "issue #12", and so is
// one behind a backslash in any version: a "\# TODO" must excuse nobody.
//
// Behind "ok" a directive of a later "#" counts, as it does for Perl: what was
// skipped must not read as passed. Behind "not ok" it does not.
func cutComment(s string, ok bool) (before, after string, found bool) {
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
			continue
		}
		if s[i] != '#' {
			continue
		}
		word := i == 0 || isBlank(s[i-1])
		directive := false
		if ok || word && !found {
			d, _ := parseDirective(strings.TrimLeft(s[i+1:min(len(s), i+1+maxDirective)], " \t"))
			directive = d != None && (word || i+1 < len(s) && isBlank(s[i+1]))
		}
		switch {
		case directive:
			return s[:i], s[i+1:], true
		case !found && (i+1 == len(s) || isBlank(s[i+1])):
			before, after, found = s[:i], s[i+1:], true
		}
	}
	if !found {
		return s, "", false
	}
	return before, after, true
}

// maxDirective is how far behind a "#" a directive is looked for, so that a
// line of nothing but "#" takes linear time.
const maxDirective = 32

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// parseDirective splits the text after "#" into the directive and the rest.
func parseDirective(s string) (Directive, string) {
	end := strings.IndexAny(s, " \t")
	if end < 0 {
		end = len(s)
	}
	word, rest := s[:end], s[end:]
	upper := ""
	if len(word) <= maxDirective {
		upper = strings.ToUpper(strings.TrimRight(word, ":,;"))
	}
	var d Directive
	switch upper {
	case "SKIP", "SKIPPED", "SKIPPING", "SKIPS":
		d = Skip
	case "TODO":
		d = Todo
	case "XFAIL":
		d = XFail
	case "XPASS":
		d = XPass
	case "TIMEOUT":
		d = Timeout
	case "ERROR":
		d = Error
	default:
		return None, s
	}
	return d, strings.TrimSpace(rest)
}

// unescape undoes TAP 14's escapes of "#" and the backslash.
func unescape(s string, escapes bool) string {
	if !escapes || !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && (s[i+1] == '\\' || s[i+1] == '#' || s[i+1] == '{') {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseTotals parses kselftest.h's "Totals: pass:9 fail:0 ..." and KUnit's
// "name: pass:9 fail:0 skip:0 total:9". kunit is whether it is KUnit's, which has
// a total and is about the group that ends here, or, named Totals, about all
// tests in it at any depth.
func parseTotals(s string) (t *Totals, total int, kunit, ok bool) {
	at := strings.Index(s, ": pass:")
	if at <= 0 || at > maxPrefix {
		return nil, 0, false, false
	}
	name, rest := s[:at], s[at+2:]
	t = &Totals{}
	fields := []struct {
		name string
		n    *int
	}{
		{"pass", &t.Pass}, {"fail", &t.Fail}, {"xfail", &t.XFail},
		{"xpass", &t.XPass}, {"skip", &t.Skip}, {"error", &t.Error}, {"total", &total},
	}
	for _, word := range strings.Fields(rest) {
		name, value, _ := strings.Cut(word, ":")
		known := false
		for _, f := range fields {
			if f.name == name {
				*f.n, known = parseNumber(value)
				kunit = kunit || name == "total"
			}
		}
		if !known {
			return nil, 0, false, false
		}
	}
	return t, total, kunit, kunit || name == "Totals"
}

// check compares the totals with the results they are about and says what
// differs, "" if nothing does.
func (t *Totals) check(tests []*Test) string {
	got := sum(tests)
	if got == *t {
		return ""
	}
	return fmt.Sprintf("the totals say %s, the results %s", t, &got)
}

// sum returns the totals of results as kselftest.h counts them.
func sum(tests []*Test) Totals {
	var got Totals
	for _, test := range tests {
		switch d := test.Directive; {
		case d == Skip:
			got.Skip++
		case d == XFail:
			got.XFail++
		case d == XPass:
			got.XPass++
		case d == Error:
			got.Error++
		case test.OK:
			got.Pass++
		default:
			got.Fail++
		}
	}
	return got
}

// String returns the totals as the line has them.
func (t *Totals) String() string {
	return fmt.Sprintf("pass:%d fail:%d xfail:%d xpass:%d skip:%d error:%d",
		t.Pass, t.Fail, t.XFail, t.XPass, t.Skip, t.Error)
}

// harnessRun returns the test's name in kselftest_harness.h's line
// "#  RUN           fixture.test ...", without the "#".
func harnessRun(s string) (string, bool) {
	rest, ok := strings.CutPrefix(s, "  RUN ")
	if !ok {
		return "", false
	}
	return strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "...")), true
}

// An embedded result is one that stands within another line.
type embedded struct {
	number int
	line   string // the whole line
	at     int    // where the result begins in it
	host   *Test  // the result that begins the line, or nil
	group  bool   // it may be the result of a group whose line was broken
}

// findEmbedded returns the results that may begin within line, not at its
// beginning.
func findEmbedded(line string) []embedded {
	var found []embedded
	for i, tries := 1, 0; i < len(line) && len(found) < 8 && tries < 64; {
		j := strings.Index(line[i:], "ok ")
		if j < 0 {
			break
		}
		at := i + j
		i = at + len("ok ")
		if !isDigit(line[min(i, len(line)-1)]) {
			continue
		}
		tries++ // a line of nothing else takes linear time all the same
		if before, ok := strings.CutSuffix(line[:at], "not "); ok {
			at = len(before)
		} else if strings.HasSuffix("not ", line[:at]) {
			continue // what is left of "not ok" must not pass
		} else if strings.HasSuffix(strings.TrimRightFunc(line[:at], func(r rune) bool { return !unicode.IsLetter(r) }), "not") {
			continue // nor what has another character for the blank
		}
		if at >= 4 && strings.Trim(line[:at], " ") == "" {
			continue // of a group whose beginning is lost
		}
		if t, ok := parseResult(line[at:], false); ok && t.Number > 0 && at > 0 {
			found = append(found, embedded{number: t.Number, line: line, at: at})
		}
	}
	return found
}
