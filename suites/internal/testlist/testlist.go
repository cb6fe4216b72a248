// SPDX-License-Identifier: Apache-2.0

// Package testlist reaches into package testing for what it offers to nobody: the
// lists of a binary's tests, and what became of a test's subtests. Every use says
// which Go version brought the field, and panics in one that has lost it.
package testlist

import (
	"flag"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// tests returns the list of m's top-level tests, which may be changed in
// place. package testing has no way to run something around every test, and
// attribution needs to know, inside the guest and at that very moment, which
// test runs. The field has had this name and type since Go 1.0; should that
// ever change, every suite fails here at once, and loudly.
func tests(m *testing.M) *[]testing.InternalTest {
	f := reflect.ValueOf(m).Elem().FieldByName("tests")
	if !f.IsValid() || f.Type() != reflect.TypeFor[[]testing.InternalTest]() {
		panic("testlist: testing.M has no field tests of type []testing.InternalTest in this Go version")
	}
	return (*[]testing.InternalTest)(unsafe.Pointer(f.UnsafeAddr()))
}

// KeepTestsOnly drops benchmarks, examples and fuzz targets, for a run in which
// nothing must run.
func KeepTestsOnly(m *testing.M) {
	for _, name := range []string{"benchmarks", "examples", "fuzzTargets"} {
		f := reflect.ValueOf(m).Elem().FieldByName(name)
		if !f.IsValid() || f.Kind() != reflect.Slice {
			panic("testlist: testing.M has no list " + name + " in this Go version")
		}
		reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().SetZero()
	}
}

// Names returns the names of the top-level tests.
func Names(m *testing.M) (out []string) {
	for _, t := range *tests(m) {
		out = append(out, t.Name)
	}
	return out
}

// Rest returns the names of the examples and fuzz targets, by which package
// testing selects them as if they were tests.
func Rest(m *testing.M) (out []string) {
	for _, name := range []string{"examples", "fuzzTargets"} {
		f := reflect.ValueOf(m).Elem().FieldByName(name)
		for i := range f.Len() {
			out = append(out, f.Index(i).FieldByName("Name").String())
		}
	}
	return out
}

// NoSubtest says that a test, which is about to end, asked for subtests and that
// none was selected by -test.run. Package testing does not count such a test as one
// that ran (testing.common.ran, since Go 1.7) and says so to nobody if others did.
func NoSubtest(t *testing.T) bool {
	if f := flag.Lookup("test.run"); f == nil || !strings.Contains(f.Value.String(), "/") {
		return false // nor is package reflect needed, which takes time at first use
	}
	v := reflect.ValueOf(t).Elem()
	asked, ran := v.FieldByName("hasSub"), v.FieldByName("ran")
	if !asked.IsValid() || ran.Kind() != reflect.Bool {
		panic("testlist: testing.T has no fields hasSub and ran in this Go version")
	}
	return asked.FieldByName("v").Uint() != 0 && !ran.Bool()
}

// Drop removes tests by name.
func Drop(m *testing.M, names []string) {
	list := tests(m)
	*list = slices.DeleteFunc(*list, func(t testing.InternalTest) bool { return slices.Contains(names, t.Name) })
}

// Wrap puts each test into around.
func Wrap(m *testing.M, around func(t *testing.T, name string, f func(*testing.T))) {
	list := *tests(m)
	for i := range list {
		name, f := list[i].Name, list[i].F
		list[i].F = func(t *testing.T) { around(t, name, f) }
	}
}
