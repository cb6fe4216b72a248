package oops

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

// AllowEntry is one line of an allow-list: a report that is known and
// tolerated until a day.
type AllowEntry struct {
	// Line is the entry's line number in the file, from 1.
	Line int `json:"line"`
	// Title is a title, or a glob in the syntax of [path.Match] where "*" also
	// spans "/". Exactly one of Title and Fingerprint is set.
	Title       string `json:"title,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	// Reason and Link say why the report is tolerated and where it is tracked.
	Reason string `json:"reason"`
	Link   string `json:"link"`
	// Expires is the last day (UTC) the entry holds.
	Expires time.Time `json:"expires"`

	used int
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

// Used is how many reports the entry has allowed so far.
func (e *AllowEntry) Used() int { return e.used }

// AllowList holds reports that do not fail a run. It counts what its entries
// match and is therefore not safe for concurrent use. The nil list allows
// nothing.
type AllowList struct {
	entries []*AllowEntry
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
// line by file name and number; name is used for nothing else.
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
		e.Line = n
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
			e.used++
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

// Expired returns the entries that hold no more at now.
func (l *AllowList) Expired(now time.Time) []*AllowEntry {
	return l.filter(func(e *AllowEntry) bool { return e.Expired(now) })
}

// Unused returns the entries that have allowed nothing. It makes sense after a
// run.
func (l *AllowList) Unused() []*AllowEntry {
	return l.filter(func(e *AllowEntry) bool { return e.used == 0 })
}

func (l *AllowList) filter(keep func(*AllowEntry) bool) []*AllowEntry {
	var out []*AllowEntry
	for _, e := range l.Entries() {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}
