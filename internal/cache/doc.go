// SPDX-License-Identifier: Apache-2.0

// Package cache keeps what is expensive to make (extracted kernels, fetched
// packages, built initramfs archives and kernels) in one directory of the
// user, so that it is made once.
//
// # Contract
//
// An entry is a directory named by a kind and a key. The key must be derived
// from everything the content depends on (usually a hash), because an entry is
// never updated: it exists completely or not at all. Whoever gets an entry's
// path may read it and must not write to it; an entry whose recorded files
// changed size counts as damaged and is built again.
//
// The whole directory, or any part of it, may be deleted at any time, also by
// rm -r while kvmrun runs: what is missing is built again. A file that is
// already open stays readable, as always on Unix; a caller that gets ENOENT
// under a path that Get returned may call Get again.
//
// # Concurrency and lifetime
//
// A *Cache is safe for concurrent use, and so is one directory by any number of
// processes: each entry has a lock file held with flock(2) while the entry is
// built, so that two builders of one entry share one build. The lock dies with
// its process. An entry is built in a temporary directory beside its final
// place and renamed; leftovers of killed builders are recognised by their free
// lock and removed by the next build or Prune.
//
// Whoever uses an entry for long holds a shared flock(2) on its directory, see
// [Cache.Hold]: Prune and Trim leave it then.
//
// A hit takes no lock and works in a directory that cannot be written.
//
// # Layout
//
//	ROOT/CACHEDIR.TAG           see https://bford.info/cachedir/
//	ROOT/<kind>/<key>/...       a complete entry
//	ROOT/<kind>/<key>/.entry.json   its record: sizes, written last
//	ROOT/<kind>/.lock-<key>     flock(2)ed while the entry is built or removed
//	ROOT/<kind>/.tmp-<key>-*    an entry being built or removed
//	ROOT/.memo/*                hashes of files outside, see [Cache.HashFile]
//
// The package knows nothing about what it stores and reads no environment.
//
// It knows keys, directories and locks. It must not know what an entry is of.
package cache
