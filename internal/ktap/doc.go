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
//   - lines behind what a log puts before them: printk times and callers, levels,
//     /dev/kmsg records, dates and programs of syslog, journald and logcat, times of
//     CI systems, several of them stacked, and any other prefix that stands before
//     a version line, as kunit_parser.py does it. What the kernel said and what
//     everybody else said are two streams, each with its own documents; terminal
//     escape sequences are dropped, and so is dmesg's copy of a console;
//   - documents nested by indentation of any width, in "# " comments as
//     tools/testing/selftests/kselftest/runner.sh prints them, and in braces as
//     node-tap and Perl's Test2 do, before their result or after it;
//   - no version line, a plan at the end, several documents one after the other,
//     KUnit's log without its beginning, results without numbers;
//   - foreign lines in between, such as a program's own output;
//   - results that ran into another process's line ("ok 1 foo# comment",
//     "not ok 2 bar ok 3 baz"), if their number is missing otherwise;
//   - the directives of kselftest.h (XFAIL, XPASS, ERROR, TIMEOUT) and the totals
//     of kselftest.h, kselftest_harness.h, KUnit, node and tape;
//   - the "#  RUN" lines of kselftest_harness.h, which name the test that ran
//     when the output ends early.
//
// Where there is no TAP at all, the results of bpf's test_progs and
// test_verifier, of LTP's programs, of kunit.py and of Perl's prove are counted,
// if their own summary agrees. Those of LTP's kirk and runltp are refused
// ([Doc.Refused]): they are written better elsewhere.
//
// Tolerance never turns into a pass: a test that was planned and has no
// result is missing, and that, like a bail-out, a number used twice, no plan, a
// group without an end, without a beginning or without results, a line that the
// input ends within, or totals that do not add up, makes [Doc.Failed] true. The halves of a "not ok" that was broken in two
// are put together before anything else sees an "ok".
//
// Input may come from a hostile guest. Memory is bounded by [Config] whatever
// is written, time is linear, and nothing is an error. Text in the model is as it
// came in but for escape sequences and control characters; printing it on a
// terminal is for others to make safe, except that Emit replaces what TAP cannot
// carry.
//
// A Parser belongs to one goroutine; a Doc is plain data.
//
// It must not know whose results they are, nor what the verdict on a job is.
package ktap
