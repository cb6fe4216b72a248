// SPDX-License-Identifier: Apache-2.0

// Package args turns the description of a virtual machine into QEMU's command
// line.
//
// It is pure: it opens no file, starts no process and reads no environment.
// Everything that has an identity outside the command line (inherited file
// descriptors) arrives as a number in [Spec].
//
// Arguments are typed values. A unique argument ("-kernel") may occur once, a
// repeatable one ("-device") once per id; [Argv] refuses anything else, so two
// parts of the driver cannot silently overrule each other on the command line
// (QEMU itself takes the last one without a word).
//
// What differs between guest architectures is one row in a table, see [ForArch].
package args
