// SPDX-License-Identifier: Apache-2.0

package ktap

import (
	"fmt"
	"slices"
	"strings"
)

// foreign reads what is no TAP and holds results all the same, from the lines at
// the top level. It counts where TAP has nothing to say.
type foreign struct {
	progs tally // bpf's test_progs and test_verifier
	ltp   tally // a program of LTP
	kunit tally // kunit.py
	prove tally // Perl's prove, without -v
	old   tally // kselftest's runner before Linux 4.18

	progsPadded bool
	progsKids   map[string]*Test // subtests' parents that have no result yet
	progsSum    string           // the summary

	ltpSum     string // of the Summary being read
	ltpAt      int    // the first result that is not summed up
	ltpCount   [5]int // the Summary's numbers
	ltpNew     bool   // a result of the new interface, which has a Summary
	ltpOld     string // a line of the old one
	ltpRefused *Refusal
	kirk       string // a line that only kirk prints

	kunitOpen []*Test // groups that are open
	kunitEnd  string  // "Testing complete. ..."
	kunitSeen bool

	proveFiles, proveTests int
	proveResult            string
}

// A tally is a list of results, bounded.
type tally struct {
	tests    []*Test
	byKey    map[string]*Test
	problems []string
	full     bool
}

// maxForeign bounds the results kept in each form, and maxName their names.
const (
	maxForeign = 20_000
	maxName    = 200
)

// add keeps a result. One with the same key is the same test, printed again, and
// the worse result is right.
func (l *tally) add(key, name string, d Directive, ok bool, reason string) *Test {
	if t := l.byKey[key]; key != "" && t != nil {
		if !ok {
			t.OK, t.Directive = false, d
		}
		return t
	}
	if len(l.byKey)+len(l.tests) >= maxForeign {
		l.full = true
		return nil
	}
	t := &Test{Name: clone(name), OK: ok, Directive: d, Reason: clone(reason)}
	l.tests = append(l.tests, t)
	if key != "" {
		if l.byKey == nil {
			l.byKey = make(map[string]*Test)
		}
		l.byKey[clone(key)] = t
	}
	return t
}

func (l *tally) problem(format string, args ...any) {
	if len(l.problems) < maxRemarks {
		l.problems = append(l.problems, fmt.Sprintf(format, args...))
	}
}

// doc returns the results as a document.
func (l *tally) doc(format string) *Doc {
	if l.full {
		l.problem("more than can be kept; %d results were", len(l.tests))
	}
	return &Doc{Version: format, Planned: -1, Tests: l.tests, Problems: l.problems}
}

func clone(s string) string { return strings.Clone(clip(s)) }

// line takes a line.
func (f *foreign) line(s string) {
	switch s[0] {
	case '#':
		f.progsLine(s)
		return
	case '[', '=':
		f.kunitLine(s)
		return
	case 'S':
		if strings.HasPrefix(s, "Summary:") {
			f.summary(s)
			return
		}
		if name, ok := strings.CutPrefix(s, "Starting suite: "); ok && f.kirk == "" {
			f.kirk = clone("Starting suite: " + name)
			return
		}
	case 'T':
		if strings.HasPrefix(s, "Testing complete. ") {
			f.kunitEnd = clone(s)
			return
		}
	case 'F', 'R':
		f.proveEnd(s)
	case 'p', 'b', 'w':
		f.ltpSummary(s)
	case '<', 'I':
		f.panLine(s)
	case 's':
		f.ltpSummary(s)
		f.oldLine(s)
	case ' ', '\t':
		f.kirkSummary(s)
	}
	if s[0] == 'f' {
		f.ltpSummary(s)
	}
	f.kirkLine(s)
	f.ltpLine(s)
	f.proveLine(s)
}

// finish returns the document, nil if there is none.
func (f *foreign) finish() *Doc {
	switch {
	case f.ltpRefused != nil:
		f.ltpRefused.Failed = f.ltpRefused.Failed || slices.ContainsFunc(f.ltp.tests, func(t *Test) bool { return t.Status() == StatusFail })
		return &Doc{Planned: -1, Refused: f.ltpRefused}
	case len(f.progs.tests) > 2 || f.progsSum != "" || f.progsPadded:
		return f.progsDoc()
	case f.kunitSeen || f.kunitEnd != "" && len(f.kunit.tests) > 0:
		return f.kunitDoc()
	case f.ltpNew:
		return f.ltpDoc()
	case f.ltpOld != "":
		return &Doc{Planned: -1, Refused: &Refusal{
			Format: "LTP's old interface", Line: f.ltpOld, Advice: "it does not say how many tests there were: its exit status tells",
			Failed: slices.ContainsFunc(f.ltp.tests, func(t *Test) bool { return t.Status() == StatusFail }),
		}}
	case f.proveResult != "":
		return f.proveDoc()
	case len(f.old.tests) > 0:
		f.old.problem("no plan says that these were all")
		return f.old.doc("kselftest")
	}
	return nil
}

// contradicts says what a summary has against the results in TAP.
func (f *foreign) contradicts(d *Doc) []string {
	switch {
	case f.proveResult == "":
	case f.proveResult == "FAIL" && !d.Failed():
		return []string{"prove says Result: FAIL, and no result does"}
	case f.proveTests > len(d.Tests):
		return []string{fmt.Sprintf("prove says Tests=%d, saw %d", f.proveTests, len(d.Tests))}
	}
	return nil
}

// progsLine takes test_progs' "#12/3    name/sub:OK" and test_verifier's
// "#12/p name OK" (tools/testing/selftests/bpf).
func (f *foreign) progsLine(s string) {
	n := digits(s[1:])
	if n == 0 || n > 6 {
		return
	}
	num, rest := s[1:1+n], s[1+n:]
	sub, kind := "", false
	if strings.HasPrefix(rest, "/") {
		m := digits(rest[1:])
		if m == 0 && len(rest) > 1 && (rest[1] == 'u' || rest[1] == 'p') {
			m, kind = 1, true // unprivileged or privileged
		}
		if m == 0 || m > 6 {
			return
		}
		sub, rest = rest[1:1+m], rest[1+m:]
	}
	name := strings.TrimLeft(rest, " ")
	blanks := len(rest) - len(name)
	if blanks == 0 {
		return
	}
	cut := strings.LastIndexByte(name, ':')
	if kind {
		cut = -1
		for _, r := range []string{" OK", " FAIL", " SKIP"} {
			if i := strings.LastIndex(name, r); i > cut {
				cut = i
			}
		}
	} else if i := strings.LastIndex(name, ":OK (SKIP: "); i >= 0 {
		cut = i
	}
	if cut < 0 {
		return
	}
	name, result := name[:cut], strings.TrimSpace(name[cut+1:])
	word, reason, _ := strings.Cut(result, " ")
	if word != "OK" && word != "FAIL" && word != "SKIP" || reason != "" && reason[0] != '(' {
		return
	}
	d := None
	if word == "SKIP" {
		d = Skip
	}
	if !strings.HasPrefix(reason, "(SKIP:") {
		reason = strings.Trim(reason, "()")
	} else {
		reason = ""
	}
	// print_test_result pads the number to seven digits.
	f.progsPadded = f.progsPadded || blanks > 1 && len(s)-len(rest)-1+blanks == 8
	if sub == "" || kind {
		key := num + "/" + sub
		kids := f.progsKids[num]
		t := f.progs.add(key, name, d, word != "FAIL", reason)
		if kids != nil && t != nil && t.Sub == nil && !kind {
			t.Sub = kids.Sub
			delete(f.progsKids, num)
		}
		return
	}
	key := num + "/" + sub
	if t := f.progs.byKey[key]; t != nil {
		t.OK = t.OK && word != "FAIL"
		return
	}
	if p := f.progs.byKey[num+"/"]; p != nil {
		// Printed again, among all errors, and for the first time now.
		if p.Sub == nil {
			p.Sub = &Doc{Planned: -1}
		}
		f.progsSub(p.Sub, key, name, d, word != "FAIL", reason)
		return
	}
	parent := f.progsKids[num]
	if parent == nil {
		if len(f.progsKids) >= maxRemarks {
			f.progs.full = true
			return
		}
		parent = &Test{Name: clone(strings.SplitN(name, "/", 2)[0]), Reason: "the group of tests has no result", Sub: &Doc{Planned: -1}}
		if f.progsKids == nil {
			f.progsKids = make(map[string]*Test)
		}
		f.progsKids[strings.Clone(num)] = parent
	}
	f.progsSub(parent.Sub, key, name, d, word != "FAIL", reason)
}

func (f *foreign) progsSub(d *Doc, key, name string, dir Directive, ok bool, reason string) {
	if t := f.progs.add(key, name, dir, ok, reason); t != nil {
		f.progs.tests = f.progs.tests[:len(f.progs.tests)-1]
		d.Tests = append(d.Tests, t)
	}
}

func (f *foreign) progsDoc() *Doc {
	l := &f.progs
	var left []string
	for num := range f.progsKids {
		left = append(left, num)
	}
	slices.Sort(left)
	for _, num := range left {
		l.tests = append(l.tests, f.progsKids[num])
	}
	if f.progsSum == "" {
		l.problem("test_progs did not come to its summary")
		return l.doc("bpf test_progs")
	}
	good, failed := 0, 0
	skipped := 0
	for _, t := range l.tests {
		switch t.Status() {
		case StatusFail:
			failed++
		case StatusSkip:
			skipped++
		default:
			good++
		}
	}
	n := numbersOf(f.progsSum, 4)
	differs := true
	switch {
	case strings.Contains(f.progsSum, "/") && len(n) == 4:
		// calculate_summary_and_print_errors counts what was skipped as good.
		differs = n[0] != good+skipped || n[3] != failed
	case len(n) == 3:
		differs = n[0] != good || n[1] != skipped || n[2] != failed
	case len(n) == 2:
		differs = n[0] != good || n[1] != failed
	}
	if differs {
		l.problem("the summary says %q, the results %d passed, %d skipped, %d failed", f.progsSum, good, skipped, failed)
	}
	return l.doc("bpf test_progs")
}

// numbersOf returns the numbers in s, at most n.
func numbersOf(s string, n int) (out []int) {
	for i := 0; i < len(s) && len(out) < n; {
		d := digits(s[i:])
		if d == 0 {
			i++
			continue
		}
		v, _ := parseNumber(s[i : i+d])
		out = append(out, v)
		i += d
	}
	return out
}

// summary takes a line that begins with "Summary:".
func (f *foreign) summary(s string) {
	rest := strings.TrimSpace(strings.TrimPrefix(s, "Summary:"))
	switch {
	case rest == "":
		f.ltpSum = "open"
		f.ltpCount = [5]int{}
	case strings.Contains(rest, " PASSED, ") && strings.HasSuffix(rest, " FAILED") && len(f.progs.tests) > 0:
		f.progsSum = clone(rest)
	}
}

// ltpLine takes LTP's "file.c:12: TPASS: text", the shell's "name 1 TPASS: text"
// and the old interface's "name    1  TPASS  :  text".
func (f *foreign) ltpLine(s string) {
	at := strings.Index(s[:min(len(s), maxPrefix)], " T")
	if at <= 0 {
		return
	}
	for _, r := range []struct {
		word string
		d    Directive
		ok   bool
	}{{"TPASS", None, true}, {"TFAIL", None, false}, {"TBROK", Error, false}, {"TCONF", Skip, true}, {"TWARN", Error, false}} {
		i := strings.Index(s[:min(len(s), maxPrefix)], " "+r.word)
		if i <= 0 {
			continue
		}
		before, after := s[:i], s[i+1+len(r.word):]
		trimmed := strings.TrimLeft(after, " ")
		if !strings.HasPrefix(trimmed, ":") && !strings.HasPrefix(trimmed, "+") {
			continue
		}
		text := strings.TrimSpace(strings.TrimLeft(trimmed, ":+ "))
		before = strings.TrimSpace(before)
		who := strings.TrimSuffix(before, ":")
		old := false
		switch w := strings.Fields(before); {
		case len(w) == 1 && strings.HasSuffix(before, ":") && (strings.Contains(who, ".c:") || strings.Contains(who, ".h:")):
			who = who[:strings.IndexByte(who, '.')]
		case len(w) == 2 && number(w[1]):
			who = w[0]
			old = len(trimmed) != len(after)
		default:
			continue
		}
		if old {
			if f.ltpOld == "" {
				f.ltpOld = clone(s)
			}
		} else {
			f.ltpNew = true
		}
		reason := ""
		if !r.ok || r.d == Skip {
			reason = r.word
		}
		name := who + ": " + text
		f.ltp.add("", name, r.d, r.ok, reason)
		return
	}
}

// ltpSummary takes the lines below "Summary:".
func (f *foreign) ltpSummary(s string) {
	if f.ltpSum == "" {
		return
	}
	w := strings.Fields(s)
	if len(w) != 2 {
		return
	}
	n, ok := parseNumber(w[1])
	i := slices.Index([]string{"passed", "failed", "broken", "skipped", "warnings"}, w[0])
	if !ok || i < 0 {
		return
	}
	f.ltpCount[i] = n
	if i < 4 {
		return
	}
	f.ltpSum = ""
	f.ltpNew = true
	var got [5]int
	for _, t := range f.ltp.tests[f.ltpAt:] {
		switch {
		case t.Status() == StatusPass:
			got[0]++
		case t.Status() == StatusSkip:
			got[3]++
		case t.Reason == "TBROK":
			got[2]++
		case t.Reason == "TWARN":
			got[4]++
		default:
			got[1]++
		}
	}
	f.ltpAt = len(f.ltp.tests)
	if got != f.ltpCount {
		f.ltp.problem("the summary says passed %d, failed %d, broken %d, skipped %d, warnings %d; the results %d, %d, %d, %d, %d",
			f.ltpCount[0], f.ltpCount[1], f.ltpCount[2], f.ltpCount[3], f.ltpCount[4], got[0], got[1], got[2], got[3], got[4])
	}
}

func (f *foreign) ltpDoc() *Doc {
	if f.ltpAt < len(f.ltp.tests) || f.ltpSum != "" {
		f.ltp.problem("LTP's program did not come to its summary")
	}
	return f.ltp.doc("LTP")
}

// panLine takes what runltp's ltp-pan prints around its programs.
func (f *foreign) panLine(s string) {
	if s != "<<<test_start>>>" && s != "<<<test_output>>>" && s != "<<<execution_status>>>" && !strings.HasPrefix(s, "INFO: ltp-pan reported ") {
		return
	}
	f.refuse("LTP's runltp", s, "its -l FILE has them", strings.Contains(s, " FAIL"))
}

func (f *foreign) refuse(format, line, advice string, failed bool) {
	if f.ltpRefused == nil {
		f.ltpRefused = &Refusal{Format: format, Line: clone(line), Advice: advice}
	}
	f.ltpRefused.Failed = f.ltpRefused.Failed || failed
}

// kirkLine takes kirk's "name: pass  (1.2s)".
func (f *foreign) kirkLine(s string) {
	if f.kirk == "" || !strings.HasSuffix(strings.TrimRight(s, " "), "s)") {
		return
	}
	_, rest, ok := strings.Cut(s, ": ")
	if !ok {
		return
	}
	word := strings.Fields(rest)
	if len(word) < 2 {
		return
	}
	switch word[0] {
	case "pass", "skip", "conf", "warn":
		f.refuse("LTP's kirk", s, "its --json-report FILE has them", false)
	case "fail", "brok", "broken":
		f.refuse("LTP's kirk", s, "its --json-report FILE has them", true)
	}
}

// kirkSummary takes the indented lines at kirk's end.
func (f *foreign) kirkSummary(s string) {
	name, value, ok := strings.Cut(strings.TrimSpace(s), ":")
	n, isNumber := parseNumber(strings.TrimSpace(value))
	if f.kirk == "" || !ok || !isNumber {
		return
	}
	switch name {
	case "Total runs":
		f.refuse("LTP's kirk", strings.TrimSpace(s), "its --json-report FILE has them", false)
	case "Failed", "Broken":
		if n > 0 {
			f.refuse("LTP's kirk", strings.TrimSpace(s), "its --json-report FILE has them", true)
		}
	}
}

var kunitStatus = []struct {
	word string
	d    Directive
	ok   bool
}{{"[PASSED]", None, true}, {"[FAILED]", None, false}, {"[SKIPPED]", Skip, true}, {"[CRASHED]", Error, false}, {"[NO TESTS RUN]", Error, false}}

// kunitLine takes what tools/testing/kunit/kunit_parser.py prints: headers and
// footers of groups between "=", results, and errors.
func (f *foreign) kunitLine(s string) {
	if s[0] == '=' {
		name := strings.Trim(s, "= ")
		if name == "" || !strings.HasPrefix(s, "==") || !strings.HasSuffix(s, "==") {
			return
		}
		if name[0] == '[' {
			f.kunitResult(name, true)
			return
		}
		if at := strings.LastIndexByte(name, '('); at >= 0 && (strings.HasSuffix(name, " subtests)") || strings.HasSuffix(name, " subtest)")) {
			n, ok := parseNumber(strings.TrimSuffix(strings.TrimSuffix(name[at+1:], " subtests)"), " subtest)"))
			if !ok || len(f.kunitOpen) >= maxDepth {
				return
			}
			f.kunitSeen = true
			f.kunitOpen = append(f.kunitOpen, &Test{Name: clone(strings.TrimSpace(name[:at])), Sub: &Doc{Planned: n}})
		}
		return
	}
	if rest, ok := strings.CutPrefix(s, "[ERROR] Test: "); ok {
		f.kunit.problem("%s", clip(rest))
		f.kunitSeen = true
		return
	}
	f.kunitResult(s, false)
}

func (f *foreign) kunitResult(s string, footer bool) {
	for _, k := range kunitStatus {
		name, ok := strings.CutPrefix(s, k.word)
		if !ok || name != "" && name[0] != ' ' {
			continue
		}
		name = strings.TrimSpace(name)
		open := len(f.kunitOpen)
		if !footer {
			t := f.kunit.add("", name, k.d, k.ok, "")
			if t != nil && open > 0 {
				f.kunit.tests = f.kunit.tests[:len(f.kunit.tests)-1]
				f.kunit.counted(t)
				sub := f.kunitOpen[open-1].Sub
				sub.Tests = append(sub.Tests, t)
			}
			return
		}
		if open == 0 {
			f.kunit.problem("the end of a group that did not begin: %s", clip(s))
			return
		}
		t := f.kunitOpen[open-1]
		f.kunitOpen = f.kunitOpen[:open-1]
		t.OK, t.Directive = k.ok, k.d
		f.kunitGroup(t)
		return
	}
}

// counted keeps a test's place in the bound though it stands elsewhere.
func (l *tally) counted(t *Test) {
	if l.byKey == nil {
		l.byKey = make(map[string]*Test)
	}
	l.byKey[fmt.Sprint(len(l.byKey))] = t
}

func (f *foreign) kunitGroup(t *Test) {
	if saw := len(t.Sub.Tests); saw != t.Sub.Planned {
		t.Sub.Problems = append(t.Sub.Problems, fmt.Sprintf("planned %d, saw %d", t.Sub.Planned, saw))
		t.Sub.Missing = max(0, t.Sub.Planned-saw)
	}
	if open := len(f.kunitOpen); open > 0 {
		sub := f.kunitOpen[open-1].Sub
		sub.Tests = append(sub.Tests, t)
		return
	}
	f.kunit.tests = append(f.kunit.tests, t)
}

func (f *foreign) kunitDoc() *Doc {
	for len(f.kunitOpen) > 0 {
		t := f.kunitOpen[len(f.kunitOpen)-1]
		f.kunitOpen = f.kunitOpen[:len(f.kunitOpen)-1]
		t.Reason = "the group of tests has no result"
		f.kunitGroup(t)
	}
	d := f.kunit.doc("kunit.py")
	if f.kunitEnd == "" {
		d.Problems = append(d.Problems, "kunit.py did not come to its last line")
		return d
	}
	// "Ran 5 tests: passed: 4, failed: 1", "Passed: 4, Failed: 1, ..." or
	// "5 tests run. 1 failed. 0 crashed."
	n := map[string]int{}
	w := strings.FieldsFunc(strings.ToLower(strings.TrimPrefix(f.kunitEnd, "Testing complete. ")), func(r rune) bool { return strings.ContainsRune(" ,.", r) })
	for i := 0; i+1 < len(w); i++ {
		if v, ok := parseNumber(w[i+1]); ok && strings.HasSuffix(w[i], ":") {
			n[strings.TrimSuffix(w[i], ":")] = v
		} else if v, ok := parseNumber(w[i]); ok && (i == 0 || !strings.HasSuffix(w[i-1], ":")) {
			n[w[i+1]] = v
		}
	}
	c := d.Count()
	all, said := n["tests"] > 0, n["failed"]+n["crashed"]
	if _, ok := n["passed"]; ok || !all {
		if n["passed"] != c.Pass || said != c.Fail+c.Missing || n["skipped"] != c.Skip {
			d.Problems = append(d.Problems, fmt.Sprintf("the summary says %q, the results %d passed, %d failed, %d skipped", f.kunitEnd, c.Pass, c.Fail+c.Missing, c.Skip))
		}
	} else if n["tests"] != c.Total() || said != c.Fail+c.Missing {
		d.Problems = append(d.Problems, fmt.Sprintf("the summary says %q, the results %d tests, %d failed", f.kunitEnd, c.Total(), c.Fail+c.Missing))
	}
	if n["errors"] > 0 && !d.Failed() {
		d.Problems = append(d.Problems, "errors: "+f.kunitEnd)
	}
	return d
}

// proveLine takes prove's "t/a.t .. ok".
func (f *foreign) proveLine(s string) {
	if len(s) > maxPrefix*4 {
		return
	}
	at := strings.Index(s, " ..")
	if at <= 0 {
		return
	}
	rest := strings.TrimLeft(s[at+1:], ".")
	if !strings.HasPrefix(rest, " ") {
		return
	}
	rest = strings.TrimSpace(rest)
	name := strings.TrimSpace(s[:at])
	switch {
	case rest == "ok" || timed(rest):
		f.prove.add("", name, None, true, "")
	case strings.HasPrefix(rest, "skipped"):
		_, reason, _ := strings.Cut(rest, ": ")
		f.prove.add("", name, Skip, true, reason)
	case strings.HasPrefix(rest, "Failed "), strings.HasPrefix(rest, "Dubious, "), strings.HasPrefix(rest, "No subtests run"), strings.HasPrefix(rest, "All "):
		f.prove.add("", name, None, false, rest)
	case rest == "":
		// What became of it stands on a line of its own.
		f.prove.add("", name, None, false, "see its lines")
	}
}

// timed reports whether what prove says of a file is "ok  407 ms", which --timer
// follows by processor times.
func timed(s string) bool {
	rest, ok := strings.CutPrefix(s, "ok ")
	rest = strings.TrimLeft(rest, " ")
	rest = strings.TrimLeft(rest[digits(rest):], " ")
	return ok && (rest == "ms" || strings.HasPrefix(rest, "ms ("))
}

// proveEnd takes prove's "Files=2, Tests=5, ..." and "Result: PASS".
func (f *foreign) proveEnd(s string) {
	if strings.HasPrefix(s, "Files=") && strings.Contains(s, ", Tests=") {
		if n := numbersOf(s, 2); len(n) == 2 {
			f.proveFiles, f.proveTests = n[0], n[1]
		}
	}
	if r, ok := strings.CutPrefix(s, "Result: "); ok && f.proveFiles > 0 {
		switch r {
		case "PASS", "FAIL", "NOTESTS":
			f.proveResult = strings.Clone(r)
		}
	}
}

func (f *foreign) proveDoc() *Doc {
	d := f.prove.doc("prove")
	switch {
	case len(d.Tests) != f.proveFiles:
		d.Problems = append(d.Problems, fmt.Sprintf("prove says Files=%d, saw %d", f.proveFiles, len(d.Tests)))
	case (f.proveResult == "FAIL") != d.Failed():
		d.Problems = append(d.Problems, "prove says Result: "+f.proveResult+", and its files do not")
	}
	return d
}

// oldLine takes "selftests: test_maps [PASS]" of kselftest's runner before Linux
// 4.18.
func (f *foreign) oldLine(s string) {
	name, ok := strings.CutPrefix(s, "selftests: ")
	if !ok {
		return
	}
	for _, r := range []struct {
		word string
		d    Directive
		ok   bool
	}{{" [PASS]", None, true}, {" [FAIL]", None, false}, {" [SKIP]", Skip, true}} {
		if n, ok := strings.CutSuffix(name, r.word); ok {
			f.old.add("", n, r.d, r.ok, "")
		}
	}
}
