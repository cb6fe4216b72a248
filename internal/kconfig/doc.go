// SPDX-License-Identifier: Apache-2.0

// Package kconfig reads and merges kernel configurations, and finds out what
// the kernel's own configuration system made of a request.
//
// # Scope
//
// It parses .config files and fragments ([Parse], [ParseConfig]), merges
// fragments and refuses those that contradict each other ([Merge]), compares
// the request with the configuration that came out ([Merged.Missing]), compares
// two configurations ([Diff]), and says what a kernel lacks ([Check],
// [Unbootable]). [Tree] is a reader of Kconfig files that is good enough to
// explain why an option did not survive. It does not evaluate a configuration:
// that is left to the kernel's scripts/kconfig.
//
// # Contract
//
// Symbols are written without "CONFIG_". Values are as in a .config: y, m, n,
// a number, or a string in double quotes. A symbol that is absent or "is not
// set" has the value "n".
//
// Everything but [ReadTree] is a pure function of its arguments; [ReadTree]
// only reads. Nothing is safe against concurrent modification, everything may
// be read concurrently.
//
// It must not know what a kernel is built or booted for.
package kconfig
