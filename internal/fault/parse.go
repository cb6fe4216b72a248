// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxSpec bounds a SPEC, in bytes; symbols are at most 512 (KSYM_NAME_LEN,
// include/linux/kallsyms.h).
const maxSpec = 4096

// nameRE is what functions, devices, disks and caches may be called: all of it
// becomes part of a path in the guest.
var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:-]*$`) })

// Parse reads one SPEC.
func Parse(spec string) (Fault, error) {
	f, err := parse(spec)
	if err != nil {
		return Fault{}, fmt.Errorf("-fault %s: %w", clip(spec), err)
	}
	return f, nil
}

func clip(s string) string {
	if len(s) > 100 {
		s = s[:100] + "..."
	}
	return strconv.Quote(s)
}

func parse(spec string) (f Fault, err error) {
	if len(spec) > maxSpec {
		return f, fmt.Errorf("longer than %d bytes", maxSpec)
	}
	parts := strings.Split(spec, ",")
	kind, target, given := strings.Cut(parts[0], ":")
	f.Kind = Kind(kind)
	t, ok := kinds[f.Kind]
	if !ok {
		return f, fmt.Errorf("unknown kind %s%s", clip(kind), nearestKind(kind))
	}
	if err := f.setTarget(t, target, given); err != nil {
		return f, err
	}
	keys := t.keys
	if !t.host {
		keys += " " + guestKeys
	}
	seen := map[string]bool{}
	for _, p := range parts[1:] {
		key, value, ok := strings.Cut(p, "=")
		switch {
		case !slices.Contains(strings.Fields(keys), key):
			return f, fmt.Errorf("%s takes no %s; it takes %s", f.Kind, clip(key), strings.Join(strings.Fields(keys), ", "))
		case seen[key]:
			return f, fmt.Errorf("%s is given twice", key)
		case !ok || value == "":
			return f, fmt.Errorf("%s has no value", key)
		}
		seen[key] = true
		if err := f.set(key, value); err != nil {
			return f, fmt.Errorf("%s=%s: %w", key, clip(value), err)
		}
	}
	return f, f.check()
}

func (f *Fault) setTarget(t traits, target string, given bool) error {
	switch {
	case t.target == "" && given:
		return fmt.Errorf("%s takes no target", f.Kind)
	case t.target == "":
		return nil
	case !given && t.free:
		return nil
	case target == "":
		return fmt.Errorf("no %s: want %s:%s", strings.ToLower(t.target), f.Kind, t.target)
	}
	if f.Kind == Function {
		name, value, ok := strings.Cut(target, "=")
		if !ok {
			return fmt.Errorf("no value to return: want %s:%s=-ENOMEM", f.Kind, target)
		}
		var err error
		if f.Return, err = parseReturn(value); err != nil {
			return err
		}
		target = name
	}
	f.Target = target
	return checkName(target)
}

func checkName(s string) error {
	if len(s) > 512 || !nameRE().MatchString(s) || strings.Contains(s, "..") {
		return fmt.Errorf("%s is no name", clip(s))
	}
	return nil
}

func parseReturn(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 0, 64); err == nil {
		return n, nil
	}
	if name, ok := strings.CutPrefix(s, "-"); ok {
		for e := 1; e < 4096; e++ { // MAX_ERRNO, include/linux/err.h
			if unix.ErrnoName(unix.Errno(e)) == name {
				return int64(-e), nil
			}
		}
	}
	return 0, fmt.Errorf("%s is neither a number nor an errno such as -ENOMEM", clip(s))
}

func (f *Fault) set(key, value string) (err error) {
	number := func(lo, hi uint64) uint64 {
		n, e := strconv.ParseUint(value, 10, 64)
		if e != nil || n < lo || n > hi {
			err = fmt.Errorf("want %d to %d", lo, hi)
		}
		return n
	}
	span := func() time.Duration {
		d, e := time.ParseDuration(value)
		if e != nil || d <= 0 || d > 24*time.Hour {
			err = errors.New("want a duration, such as 500ms or 3s")
		}
		return d
	}
	name := func() string { err = checkName(value); return value }
	// The knobs are an unsigned long and, for times, an int.
	const most = math.MaxInt64
	switch key {
	case "nth":
		f.Nth = number(1, most)
	case "every":
		f.Every = number(1, most)
	case "prob":
		f.Percent = int(number(1, 100))
	case "seed":
		f.Seed = number(1, most)
	case "flush":
		f.Flush = number(1, most)
	case "times":
		f.Times = int(number(1, math.MaxInt32))
	case "in":
		f.In = name()
	case "notin":
		f.NotIn = name()
	case "cache":
		f.Cache = name()
	case "who":
		if f.Who = Who(value); f.Who != Tree && f.Who != Task && f.Who != All {
			return errors.New("want tree, task or all")
		}
		if f.Kind.everybody() && f.Who != All {
			return fmt.Errorf("the kernel cannot tell tasks apart there: %s is for everybody", f.Kind)
		}
		if f.Who == Tree || f.Kind.everybody() {
			f.Who = ""
		}
	case "gfp":
		if f.Narrow = value == "narrow"; !f.Narrow && value != "wide" {
			return errors.New("want wide or narrow")
		}
	case "order":
		f.Order = int(number(0, 20)) // MAX_PAGE_ORDER is 10 on x86 (include/linux/mmzone.h)
	case "after":
		f.After = span()
	case "for":
		f.For = span()
	case "mib":
		f.MiB = int(number(1, 1<<20))
	}
	return err
}

// check is about keys that do not go together.
func (f *Fault) check() error {
	n := 0
	for _, set := range []bool{f.Nth > 0, f.Every > 0, f.Percent > 0, f.Flush > 0, f.Kind == PowerCut && f.After > 0} {
		if set {
			n++
		}
	}
	switch {
	case n > 1:
		return errors.New("give one of nth, every, prob, flush and after")
	case f.Seed > 0 && f.Percent == 0:
		return errors.New("seed goes with prob")
	case f.Times > 0 && f.Nth > 0:
		return errors.New("nth happens once; for more, every=N with times=N")
	case f.Who == Task && f.Nth == 0:
		return errors.New("who=task goes with nth=N")
	case f.Kind == Pause && f.For == 0:
		return errors.New("give for=DURATION")
	case f.Kind == Balloon && f.MiB == 0:
		return errors.New("give mib=N, the memory that is left")
	}
	return nil
}

func nearestKind(s string) string {
	var hits []string
	for _, k := range Kinds() {
		if s != "" && (strings.Contains(string(k), s) || strings.Contains(s, string(k)) || near(s, string(k))) {
			hits = append(hits, string(k))
		}
	}
	if len(hits) == 0 {
		for _, k := range Kinds() {
			hits = append(hits, string(k))
		}
		return "; there are " + strings.Join(hits, ", ")
	}
	return "; did you mean " + strings.Join(hits, " or ") + "?"
}

// near says whether two names have few letters in different places, with - and
// _ the same.
func near(a, b string) bool {
	norm := func(s string) string { return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s)) }
	a, b = norm(a), norm(b)
	if len(a) > 40 {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0]++
		for j := range len(b) {
			d := prev
			if a[i] != b[j] {
				d++
			}
			prev = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)] <= max(1, len(b)/4)
}

// String returns the SPEC; Parse of it gives an equal Fault.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(string(f.Kind))
	if f.Target != "" {
		b.WriteString(":" + f.Target)
	}
	if f.Kind == Function {
		b.WriteString("=" + formatReturn(f.Return))
	}
	put := func(key string, set bool, value any) {
		if set {
			fmt.Fprintf(&b, ",%s=%v", key, value)
		}
	}
	put("nth", f.Nth > 0, f.Nth)
	put("every", f.Every > 0, f.Every)
	put("prob", f.Percent > 0, f.Percent)
	put("seed", f.Seed > 0, f.Seed)
	put("flush", f.Flush > 0, f.Flush)
	put("times", f.Times > 0, f.Times)
	put("in", f.In != "", f.In)
	put("notin", f.NotIn != "", f.NotIn)
	put("who", f.Who != "", f.Who)
	put("gfp", f.Narrow, "narrow")
	put("cache", f.Cache != "", f.Cache)
	put("order", f.Order > 0, f.Order)
	put("after", f.After > 0, f.After)
	put("for", f.For > 0, f.For)
	put("mib", f.MiB > 0, f.MiB)
	return b.String()
}

func formatReturn(n int64) string {
	if n < 0 && n > -4096 {
		if name := unix.ErrnoName(unix.Errno(-n)); name != "" {
			return "-" + name
		}
	}
	return strconv.FormatInt(n, 10)
}

// ParsePlan reads a plan, a SPEC a line. Errors name the line.
func ParsePlan(text string) (Plan, error) {
	var p Plan
	for i, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		f, err := Parse(l)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		p = append(p, f)
	}
	return p, nil
}

// String returns the plan, a SPEC a line.
func (p Plan) String() string {
	var b strings.Builder
	for _, f := range p {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}
