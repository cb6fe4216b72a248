// SPDX-License-Identifier: Apache-2.0

// Package words has what is done to single words of command lines: quoting them
// for a shell, and finding those that a mistyped one may stand for. It knows no
// flag and no command.
//
// It must not know whose words they are.
package words

import "strings"

// Quote makes one word of a POSIX shell's command line of s.
func Quote(s string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+./,:@%"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// QuoteAll makes a shell's command line of words.
func QuoteAll(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = Quote(w)
	}
	return strings.Join(out, " ")
}

// Nearest returns "; nearest: a, b, c" for a name that matches nothing, or "".
func Nearest(name string, have []string) string {
	type cand struct {
		s string
		d int
	}
	var best []cand
	seen := map[string]bool{}
	for _, h := range have {
		if seen[h] {
			continue
		}
		seen[h] = true
		d := distance(strings.ToLower(name), strings.ToLower(h))
		if strings.Contains(strings.ToLower(h), strings.ToLower(strings.Trim(name, "^$"))) {
			d = 0
		}
		if d > (max(len(name), len(h))+1)/2 {
			continue
		}
		i := len(best)
		for i > 0 && best[i-1].d > d {
			i--
		}
		best = append(best[:i], append([]cand{{h, d}}, best[i:]...)...)
	}
	var names []string
	for _, b := range best[:min(3, len(best))] {
		names = append(names, b.s)
	}
	if len(names) == 0 {
		return ""
	}
	return "; nearest: " + strings.Join(names, ", ")
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
