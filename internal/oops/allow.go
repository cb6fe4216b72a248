package oops

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// AllowEntry is one line of an allow-list: a report that is known and
// tolerated until a day.
type AllowEntry struct {
	// File is the allow-list's name, Line the entry's line number in it, from 1.
	File string `json:"file"`
	Line int    `json:"line"`
	// Title is a title, or a glob in the syntax of [path.Match] where "*" also
	// spans "/". Exactly one of Title and Fingerprint is set.
	Title       string `json:"title,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	// Reason and Link say why the report is tolerated and where it is tracked.
	Reason string `json:"reason"`
	Link   string `json:"link"`
	// Expires is the last day (UTC) the entry holds.
	Expires time.Time `json:"expires"`

	text string // as it stands in the file
	used atomic.Int64
}

// String names the entry by what it matches.
func (e *AllowEntry) String() string {
	if e.Fingerprint != "" {
		return "fingerprint " + e.Fingerprint
	}
	return "title " + e.Title
}

// Expired reports whether the entry's last day is over at now.
func (e *AllowEntry) Expired(now time.Time) bool {
	return !now.Before(e.Expires.AddDate(0, 0, 1))
}

// Why says in one line why the entry tolerates what it matches, and until when.
func (e *AllowEntry) Why() string {
	return fmt.Sprintf("%s (%s), until %s", e.Reason, e.Link, e.Expires.Format(time.DateOnly))
}

// Used is how many reports the entry has allowed so far.
func (e *AllowEntry) Used() int { return int(e.used.Load()) }

// AllowList holds reports that do not fail a run. It counts what its entries
// match, and is safe for concurrent use but for Add. The nil list allows
// nothing.
type AllowList struct {
	entries []*AllowEntry
}

// Add takes over the entries of another list, behind its own.
func (l *AllowList) Add(other *AllowList) { l.entries = append(l.entries, other.Entries()...) }

// Active is the list without what has expired at now, as the text of an
// allow-list file.
func (l *AllowList) Active(now time.Time) []byte {
	var b bytes.Buffer
	for _, e := range l.Entries() {
		if !e.Expired(now) {
			b.WriteString(e.text + "\n")
		}
	}
	return b.Bytes()
}

// Complaints names, a line each, the entries that have become useless: those
// expired at now, and those that never matched. It makes sense after a run.
func (l *AllowList) Complaints(now time.Time) []string {
	var out []string
	say := func(e *AllowEntry, what string) {
		out = append(out, fmt.Sprintf("allow-list %s:%d: %s: %s", e.File, e.Line, what, e))
	}
	for _, e := range l.Entries() {
		switch {
		case e.Expired(now):
			say(e, "expired on "+e.Expires.Format(time.DateOnly)+" and not applied")
		case e.Used() == 0:
			say(e, "never matched")
		}
	}
	return out
}

// Limits of an allow-list file.
const (
	maxAllowFile = 4 << 20
	maxAllowLine = 4096
)

// ParseAllowList reads an allow-list. Each line holds fields separated by tabs
// or by " | ": what to match ("title: GLOB" or "fingerprint: HEX"), "reason:
// TEXT", "link: URL" and "expires: YYYY-MM-DD", all of them required. Empty
// lines and lines that begin with "#" are skipped. The error names every bad
// line by file name and number; name is used for messages alone.
//
//	title: WARNING in foo_* | reason: driver quirk | link: https://bugs/1 | expires: 2027-01-31
func ParseAllowList(name string, data []byte) (*AllowList, error) {
	if len(data) > maxAllowFile {
		return nil, fmt.Errorf("parse allow-list %s: %d bytes are more than %d", name, len(data), maxAllowFile)
	}
	list := &AllowList{}
	seen := map[string]int{}
	var errs []error
	fail := func(n int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s:%d: %s", name, n, fmt.Sprintf(format, args...)))
	}
	for i, raw := range bytes.Split(data, []byte("\n")) {
		n := i + 1
		text := strings.TrimSpace(string(raw))
		if n == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if len(text) > maxAllowLine || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			fail(n, "line is longer than %d bytes or not text", maxAllowLine)
			continue
		}
		e, err := parseAllowEntry(text)
		if err != nil {
			fail(n, "%v", err)
			continue
		}
		e.File, e.Line, e.text = name, n, text
		if first, ok := seen[e.String()]; ok {
			fail(n, "%s is already on line %d", e, first)
			continue
		}
		seen[e.String()] = n
		list.entries = append(list.entries, e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return list, nil
}

func parseAllowEntry(text string) (*AllowEntry, error) {
	e := &AllowEntry{}
	got := map[string]bool{}
	for _, field := range strings.Split(strings.ReplaceAll(text, " | ", "\t"), "\t") {
		field = strings.TrimSpace(field)
		if field == "" {
			continue
		}
		key, value, ok := strings.Cut(field, ":")
		value = strings.TrimSpace(value)
		if !ok || value == "" {
			return nil, fmt.Errorf("field %q is not of the form \"key: value\"", field)
		}
		if got[key] {
			return nil, fmt.Errorf("%q is given twice", key)
		}
		got[key] = true
		switch key {
		case "title":
			if _, err := path.Match(globOf(value), ""); err != nil {
				return nil, fmt.Errorf("bad title pattern %q: %w", value, err)
			}
			e.Title = value
		case "fingerprint":
			if strings.Trim(value, "0123456789abcdef") != "" {
				return nil, fmt.Errorf("fingerprint %q is not lower-case hexadecimal", value)
			}
			e.Fingerprint = value
		case "reason":
			e.Reason = value
		case "link":
			e.Link = value
		case "expires":
			day, err := time.Parse(time.DateOnly, value)
			if err != nil {
				return nil, fmt.Errorf("expires %q is not a date like 2027-01-31", value)
			}
			e.Expires = day
		default:
			return nil, fmt.Errorf("unknown field %q", key)
		}
	}
	if got["title"] == got["fingerprint"] {
		return nil, errors.New("want exactly one of title and fingerprint")
	}
	for _, key := range []string{"reason", "link", "expires"} {
		if !got[key] {
			return nil, fmt.Errorf("%s is missing", key)
		}
	}
	return e, nil
}

// globOf makes "/" an ordinary character for path.Match.
func globOf(s string) string { return strings.ReplaceAll(s, "/", "\x01") }

// match reports whether the entry is about r.
func (e *AllowEntry) match(r *Report) bool {
	if e.Fingerprint != "" {
		return e.Fingerprint == r.Fingerprint
	}
	for _, title := range append([]string{r.Title}, r.AltTitles...) {
		if title == e.Title {
			return true
		}
		if ok, err := path.Match(globOf(e.Title), globOf(title)); err == nil && ok {
			return true
		}
	}
	return false
}

// Allow returns the entry that allows r at now, nil if none does. Expired
// entries allow nothing.
func (l *AllowList) Allow(r *Report, now time.Time) *AllowEntry {
	if l == nil {
		return nil
	}
	for _, e := range l.entries {
		if !e.Expired(now) && e.match(r) {
			e.used.Add(1)
			return e
		}
	}
	return nil
}

// Entries returns the entries in file order. They belong to the list.
func (l *AllowList) Entries() []*AllowEntry {
	if l == nil {
		return nil
	}
	return l.entries
}
