// SPDX-License-Identifier: Apache-2.0

// Package symbolize finds the source positions of kernel code: file, line and
// the functions inlined there, for the stacks of a report ([Symbolizer.Report]),
// for a symbol with offset ([Symbolizer.Frame]) and for an address
// ([Symbolizer.Addr]).
//
// # Contract
//
//   - Nothing is guessed. A vmlinux or module of another build is refused, by
//     build-id where the log has it, else by the kernel's first line or release.
//     A function is taken only if its size is the one the log prints after the
//     slash; that also tells static functions of the same name apart. Those that
//     also have the same size are reported as ambiguous, with their places.
//   - A frame that is not found stays as the kernel printed it.
//   - What a stack holds are return addresses. They point behind the call, at
//     code that may belong to another line, inlined function or even function, so
//     one is subtracted before looking them up. It is not for program counters,
//     interrupted code and other exact addresses (see report.go).
//   - Paths are relative to the top of the kernel tree, which is where the unit
//     init/main.c was compiled from (as in scripts/decode_stacktrace.sh), then to
//     the build directory (DW_AT_comp_dir), in which generated sources are.
//   - KASLR matters for addresses only. Its offset is what the report says
//     ("Kernel Offset:"), what was set, or what a frame with both address and name
//     shows.
//   - Logs come from a guest that may be hostile: names and numbers from them are
//     only compared with tables, never used as file names or arguments, and the
//     text and frames added are bounded. No program is called.
//
// # Why debug/dwarf
//
// The standard library's DWARF reader was measured against binutils' addr2line
// 2.40 as one process, on two cores busy with other work (load 15), in ms for 20
// frames of 20 different compilation units:
//
//	                                  debug/dwarf            addr2line -afi
//	                                  cold   other   warm    cold
//	6.12 lean, 67 MB vmlinux          390     60     0.15     290 to 460
//	6.12 with KASAN, 103 MB           450     50     0.17     250 to 420
//	Debian 6.12 cloud, 341 MB         890     60     2.6     1500
//
// Cold includes opening the file; other are units not read before; warm are
// addresses asked for again. addr2line is no faster, has to be installed,
// restarted when it dies, and fed one section of a module at a time; it also
// names the wrong file for many functions from headers. Of 2000 random addresses
// per kernel everything else agreed. A Symbolizer takes 110 to 460 MB for these
// kernels, freed with it.
//
// # Concurrency and lifetime
//
// A Symbolizer is safe for concurrent use; its methods take turns. It holds
// memory, but no open file and no process, so it needs no closing. Files are
// read when first needed: they must not change meanwhile, which is noticed by
// their build-id. Reports are the caller's and must not be used by others during
// [Symbolizer.Report].
//
// It must not know VMs or verdicts.
package symbolize
