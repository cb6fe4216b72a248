// SPDX-License-Identifier: Apache-2.0

// Package kbuild builds kernels into the cache.
//
// # Scope
//
// [Build] turns a source (a directory, or a reference such as "debian:6.12"
// that package kfetch resolves), patches, fragments
// and a compiler into an [Artifact]: vmlinux, bzImage, the final configuration,
// System.map, modules, a throw-away key pair and a manifest. [Configure] stops
// after the configuration. [List] and [Prune] look after the disk; each build
// leaves 8 GiB of kernels and 12 build trees at most, beyond what is in use.
//
// The package drives make and patch. It knows neither
// VMs nor suites, and reads no environment: what the tools are to see is
// [Config].Env.
//
// # What is guaranteed
//
// The source is never written to. A request that differs in nothing (source
// content, patches, merged configuration, compiler) is answered from the cache;
// one that differs in anything is not. Every option that was asked for is in the
// final configuration with the value asked for, or the build is refused with a
// *[kconfig.UnmetError]. A build that fails, or is interrupted, leaves nothing
// that a later one could mistake for a result.
//
// # How
//
// An artifact is a cache entry of kind "kernel". Beside the entries there are
// build trees, ROOT/.ktree/KEY: a private copy of the source (hard links where
// the source is a cache entry itself) and make's output. One tree serves all
// requests that differ only in the state of the source: before a build the copy
// is made equal to source plus patches, touching only files that differ, so that
// make recompiles only those. Patches are applied outside the tree, fuzz
// refused, and only their result is brought in.
//
// # Concurrency and lifetime
//
// All functions may be called concurrently, by any number of processes. Two
// builds of one artifact share one build. A tree is locked with flock(2) while
// in use, and make inherits the lock: it is held until the last compiler has
// ended, also when kvmrun was killed. A tree that was killed in the middle is
// recognised by a mark and its output is built anew.
//
// It must not know VMs or verdicts.
package kbuild
