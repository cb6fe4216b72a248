package main

import (
	"bytes"
	"regexp"
)

// definition matches the name of a function, or of a system call, before the
// parameters of its definition.
var definition = regexp.MustCompile(`([A-Za-z_]\w*)\s*\($`)

// syscallMacro matches the macros that define system calls: they put "sys_" or
// "compat_sys_" before the name.
var syscallMacro = regexp.MustCompile(`^(?:(COMPAT_)?SYSCALL(?:32)?_DEFINE\d)\((\w+)`)

// function is a definition found in C source text.
type function struct {
	name   string
	static bool
}

// functions returns the functions defined in C source text, in the order of the
// text. It knows the kernel's style alone: a definition begins in
// the first column, and so does the brace that closes it.
func functions(src []byte) []function {
	var out []function
	src = blank(src)
	var head []byte // text since the last thing that ended in the first column
	inside := false
	for _, line := range bytes.Split(src, []byte("\n")) {
		if inside {
			if len(line) > 0 && line[0] == '}' {
				inside, head = false, nil
			}
			continue
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		brace := bytes.IndexByte(line, '{')
		semi := bytes.IndexByte(line, ';')
		if brace < 0 || semi >= 0 && semi < brace {
			if semi >= 0 {
				head = nil
				continue
			}
			head = append(append(head, line...), ' ')
			continue
		}
		head = append(head, line[:brace]...)
		if name := defined(head); name != "" {
			out = append(out, function{name, bytes.HasPrefix(bytes.TrimSpace(head), []byte("static "))})
		}
		head = nil
		inside = bytes.IndexByte(line[brace:], '}') < 0
	}
	return out
}

// defined returns the function that text, which stands before an opening brace,
// defines; "" if it defines none.
func defined(text []byte) string {
	text = bytes.TrimSpace(text)
	if m := syscallMacro.FindSubmatch(text); m != nil {
		if len(m[1]) > 0 {
			return "compat_sys_" + string(m[2])
		}
		return "sys_" + string(m[2])
	}
	if bytes.ContainsAny(text, "=") {
		return ""
	}
	// Attributes may follow the parameters and precede the name: the name is what
	// stands before the first parenthesis at the outermost level that is not an
	// attribute's.
	depth := 0
	for i, c := range text {
		switch c {
		case '(':
			if depth == 0 {
				if m := definition.FindSubmatch(text[:i+1]); m != nil && !notName[string(m[1])] {
					return string(m[1])
				}
			}
			depth++
		case ')':
			depth--
		}
	}
	return ""
}

// notName are words before parentheses in definitions that name no function.
var notName = map[string]bool{
	"__attribute__": true, "__printf": true, "__scanf": true, "__acquires": true, "__releases": true, "__must_hold": true,
	"__section": true, "__aligned": true, "__cond_acquires": true, "__acquires_shared": true, "__no_sanitize": true,
	"if": true, "while": true, "for": true, "switch": true, "struct": true, "enum": true, "union": true,
	"__alloc_size": true, "__realloc_size": true, "__counted_by": true, "__cold_section": true, "typeof": true, "__typeof__": true,
	"__bpf_kfunc_start_defs": true, "DEFINE_STATIC_KEY_FALSE": true, "extern": true, "__no_kmsan_checks": true, "__diag_ignore_all": true,
}

// blank replaces comments, string and character literals and preprocessor lines
// by blanks.
func blank(src []byte) []byte {
	out := bytes.Clone(src)
	erase := func(from, to int) {
		for i := from; i < to; i++ {
			if out[i] != '\n' {
				out[i] = ' '
			}
		}
	}
	atStart := true
	for i := 0; i < len(src); {
		c := src[i]
		switch {
		case c == '\n':
			atStart = true
			i++
		case c == '#' && atStart: // to the end of the line, continued by a backslash
			j := i
			for j < len(src) && (src[j] != '\n' || src[j-1] == '\\') {
				j++
			}
			erase(i, j)
			i = j
		case bytes.HasPrefix(src[i:], []byte("/*")):
			j := bytes.Index(src[i+2:], []byte("*/"))
			end := len(src)
			if j >= 0 {
				end = i + 2 + j + 2
			}
			erase(i, end)
			i = end
		case bytes.HasPrefix(src[i:], []byte("//")):
			j := bytes.IndexByte(src[i:], '\n')
			end := len(src)
			if j >= 0 {
				end = i + j
			}
			erase(i, end)
			i = end
		case c == '"' || c == '\'':
			j := i + 1
			for j < len(src) && src[j] != c && src[j] != '\n' {
				if src[j] == '\\' {
					j++
				}
				j++
			}
			j = min(j+1, len(src))
			if j > i+1 && src[j-1] == '\n' {
				j--
			}
			erase(i, j)
			i = j
			atStart = false
		default:
			if c != ' ' && c != '\t' {
				atStart = false
			}
			i++
		}
	}
	return out
}
