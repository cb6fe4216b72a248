// SPDX-License-Identifier: Apache-2.0

// Package gitrepo reads a git repository and puts commits of it into a
// directory of its own, by running git.
//
// # Contract
//
// The repository is only read: no ref, no index, no configuration and no work
// tree of the user is written to, so that a dirty tree stays as it is and
// nothing is left behind. A [Worktree] has its own index outside the repository.
// Errors say what git said.
//
// # Concurrency and lifetime
//
// A [Repo] is safe for concurrent use and needs no closing. A Worktree belongs
// to one process at a time, which a lock ensures, and to one goroutine; what it
// holds stays on disk for the next time, when only files that differ are
// written.
//
// It must not know what a commit is wanted for, nor how it is built.
package gitrepo
