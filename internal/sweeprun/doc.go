// SPDX-License-Identifier: Apache-2.0

// Package sweeprun carries sweeps out: it injects a fault at one point of a program
// after the other, each in a machine forked from one in which the program stands still
// ([Sweeper]), or cuts the power at one write after the other ([Sweep]).
//
// It knows package runner's programs and templates, the kernel's fault injection and
// kmemleak. Which points there are, and what is made of the outcomes, is package
// sweep's, which touches no VM. It must not know flags or report formats, nor how
// suites are judged.
package sweeprun
