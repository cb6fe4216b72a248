// Package oops finds kernel crash reports in console output.
//
// The input is whatever a console, dmesg or a CI system printed: with or
// without printk timestamps, levels and caller ids, with prefixes of log
// shippers, ANSI colours, CR LF, NUL bytes and lines of any length. The output
// is one [Report] per splat, hang or panic, with the title under which the
// public kernel dashboard (syzbot) knows such a bug, its [Kind], the function
// blamed, structured facts, and the bytes it was taken from.
//
// # Contract
//
//   - [Parse], [Reader] and [Scanner] agree: feeding the same bytes in pieces
//     of any size gives the same reports, in the order of their first line.
//   - Parsing again from a report's Start finds the same report first, or first
//     but for others that begin on the same line; parsing from its End does not
//     find that report.
//   - Time is linear in the input. Memory is constant: lines, the lines kept
//     per report and the number of reports open at one moment are bounded.
//   - A report that is cut short, or mixed with other output beyond repair, is
//     marked Corrupted and kept, never dropped.
//   - The package is pure: no files, no clock, no addresses looked up. Filling
//     in [Frame.File] and [Frame.Line] is the work of a symbolizer elsewhere.
//
// # How it works
//
// A line is stripped of its prefixes (line.go) and compared with the table of
// formats (formats*.go). Each row of the table says how a kind of report
// begins, how its title is built, which [Kind] it is, which stack rule finds
// the function to blame (blame.go, with the lists of functions never to blame
// in skip.go) and what the report must hold to be complete. A report that has
// begun collects the lines of its own context (the `[T123]` or `[C0]` of
// PRINTK_CALLER, where the log has them) until it ends (scanner.go), and is
// then analysed in one go (analyze.go).
//
// Reports and the slices in them belong to the caller once they are handed
// over. A Scanner is for one goroutine; everything else is safe for concurrent
// use.
//
// It must not know tests, VMs or verdicts.
package oops
