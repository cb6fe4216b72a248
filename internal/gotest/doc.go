// SPDX-License-Identifier: Apache-2.0

// Package gotest reads what a Go test binary prints when it runs with
// -test.v=test2json, and folds it into test cases.
//
// In that mode package testing begins every line of its own with the byte
// 0x16 (^V), even in the middle of a line that the test printed; see
// cmd/internal/test2json and testing.chattyPrinter in Go's source. [Parser]
// believes only such lines: "--- PASS: TestX" without the byte is output like
// any other. For the output of a real test binary its events are those of
// "go tool test2json", without the times of arrival and without the package's
// start event.
//
// [Folder] turns the events into result.Case values. It takes nothing for
// granted: a test that began and did not end failed, a result for a test that
// never began is a failure, and of two results for one test the worse one
// stands. A binary that is bent on lying can print the byte itself, so the
// events are the word of the guest; exit status, end marker and kernel log
// come from elsewhere and outrank them (result.Judge).
//
// [Joiner] makes the output of several binaries, which ran one suite by turns, that of
// one. What the host knows of a test it is told by methods, and becomes text in it only.
//
// Neither Parser nor Folder ever fails on its input: lines of any length, NULs and invalid
// UTF-8 are output, and memory stays within the limits of [FoldConfig]
// whatever is written.
//
// A Parser belongs to one goroutine. A Folder may be used by several.
//
// It must not know where the output comes from, nor what the verdict on a job is.
package gotest
