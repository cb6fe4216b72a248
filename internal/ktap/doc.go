// SPDX-License-Identifier: Apache-2.0

// Package ktap reads and writes the Test Anything Protocol: TAP 12, 13 and 14
// (testanything.org) and the kernel's KTAP (Documentation/dev-tools/ktap.rst).
//
// One model, [Doc], serves both directions. [Parser] is tolerant: it takes
// what kernel selftests really print, and names what is wrong with it.
// [Emit] is strict: it prints TAP 14 and nothing else, whatever is in the
// model.
//
// What the parser accepts beyond the letter of the protocols:
//
//   - documents nested by indentation of any width, and nested in "# " comments
//     as tools/testing/selftests/kselftest/runner.sh prints them;
//   - no version line, no plan, a plan at the end, several documents one after
//     the other;
//   - foreign lines in between, such as a program's own output;
//   - results that ran into another process's line ("ok 1 foo# comment",
//     "not ok 2 bar ok 3 baz"), if their number is missing otherwise;
//   - the directives of kselftest.h (XFAIL, XPASS, ERROR, TIMEOUT) and its
//     "# Totals:" line;
//   - the "#  RUN" lines of kselftest_harness.h, which name the test that ran
//     when the output ends early.
//
// Tolerance never turns into a pass: a test that was planned and has no
// result is missing, and that, like a bail-out, a number used twice or totals
// that do not add up, makes [Doc.Failed] true.
//
// Input may come from a hostile guest. Memory is bounded by [Config] whatever
// is written, and nothing is an error. Text in the model is as it came in;
// printing it on a terminal is for others to make safe, except that Emit
// replaces what TAP cannot carry.
//
// A Parser belongs to one goroutine; a Doc is plain data.
package ktap
