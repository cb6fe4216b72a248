// SPDX-License-Identifier: Apache-2.0

// Package report prints the results of a run: a table for people, TAP 14, JSON,
// JUnit XML and Markdown for GitHub's step summary. JSON can be read back.
//
// Every reporter takes a result.Run and a writer, and writes the same bytes for
// the same run: there are no clocks, no environment and no terminal here. A
// reporter does not change the run, and returns the writer's error.
//
// Names, reasons and outputs come from the guest, which may be hostile. In all
// formats control characters, invalid UTF-8 and characters that reorder text
// are replaced by visible escapes such as \x1b, so that printing a report on a
// terminal, or reading it with a strict parser, is safe. JSON alone keeps
// them, as \u escapes of its own (invalid UTF-8 becomes U+FFFD).
//
// [FromTAP] goes the other way for programs that print TAP themselves: it
// turns a parsed document into cases.
//
// It must not know how results come about.
package report
