// SPDX-License-Identifier: Apache-2.0

// Package hunt finds what brought a failure in, in the three kinds of history that
// there are: kernels that exist, the commits of a git repository, and the options
// by which two configurations differ.
//
// It is where package bisect, which only decides what to try next, meets kernels
// that are fetched or built and VMs that run a suite on them. It must not know
// flags and prints nothing: a [Question] is data, progress goes to a function, and
// what was found is a report, in files too. What is wrong with a question is a
// [QuestionError], which calls its parts as the command line does (-good, -src).
//
// # Lifetime and concurrency
//
// [New] makes nothing but, for commits, opens the repository; [Hunt.Begin] or
// [Hunt.Resume] make or take up a directory with a journal, from which a hunt goes
// on that was killed at any time; [Hunt.Close] gives up the VMs and the work tree. A
// Hunt is used by one goroutine; it runs as many VMs at a time as its question says.
package hunt
