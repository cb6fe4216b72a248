// SPDX-License-Identifier: Apache-2.0

package oops

import (
	"regexp"
	"sync"
)

// lazyRE is a regular expression that is compiled at its first use. The tables
// hold some hundred of them, and every test binary that runs in an emulated
// guest links this package: compiled at start-up they cost each process more
// than the rest of its initialization.
type lazyRE struct {
	text string
	once sync.Once
	re   *regexp.Regexp
}

// compile returns the pattern of an expression that must be valid; a test
// compiles all of them.
func compile(text string) *lazyRE {
	p := &lazyRE{text: text}
	lazyREs = append(lazyREs, p)
	return p
}

// lazyREs are all of them. Only package initialization adds to it.
var lazyREs []*lazyRE

func (p *lazyRE) get() *regexp.Regexp {
	p.once.Do(func() { p.re = regexp.MustCompile(p.text) })
	return p.re
}

func (p *lazyRE) String() string                       { return p.text }
func (p *lazyRE) Match(b []byte) bool                  { return p.get().Match(b) }
func (p *lazyRE) MatchString(s string) bool            { return p.get().MatchString(s) }
func (p *lazyRE) FindSubmatch(b []byte) [][]byte       { return p.get().FindSubmatch(b) }
func (p *lazyRE) FindSubmatchIndex(b []byte) []int     { return p.get().FindSubmatchIndex(b) }
func (p *lazyRE) FindStringSubmatch(s string) []string { return p.get().FindStringSubmatch(s) }
func (p *lazyRE) FindStringIndex(s string) []int       { return p.get().FindStringIndex(s) }
func (p *lazyRE) FindIndex(b []byte) []int             { return p.get().FindIndex(b) }
func (p *lazyRE) ReplaceAllString(src, repl string) string {
	return p.get().ReplaceAllString(src, repl)
}
func (p *lazyRE) ReplaceAll(src, repl []byte) []byte         { return p.get().ReplaceAll(src, repl) }
func (p *lazyRE) FindAllString(s string, n int) []string     { return p.get().FindAllString(s, n) }
func (p *lazyRE) FindAllSubmatch(b []byte, n int) [][][]byte { return p.get().FindAllSubmatch(b, n) }
func (p *lazyRE) FindAllStringSubmatch(s string, n int) [][]string {
	return p.get().FindAllStringSubmatch(s, n)
}
