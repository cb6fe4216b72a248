package oops

import (
	_ "embed"
	"strings"
)

//go:generate go run ./helpergen -o helpers.txt $KVMRUN_KERNEL_SRC

// helpers are the names of functions that do what a caller asks for, see
// helpergen: comment lines that begin with "#" and then a sorted list, one a
// line. It is searched as it is, so that it costs a program that finds no crash
// nothing but its size.
//
//go:embed helpers.txt
var helpers string

// isHelper reports whether the table of helpers lists name.
func isHelper(name string) bool {
	// lo is the beginning of a line, or the end; hi too.
	for lo, hi := 0, len(helpers); lo < hi; {
		mid := lo + strings.LastIndexByte(helpers[lo:lo+(hi-lo)/2], '\n') + 1
		line, _, _ := strings.Cut(helpers[mid:], "\n")
		switch c := strings.Compare(name, line); {
		case c == 0:
			return line != ""
		case c < 0:
			hi = mid
		default:
			lo = mid + len(line) + 1
		}
	}
	return false
}
