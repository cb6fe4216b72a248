// SPDX-License-Identifier: Apache-2.0

// Package plan describes jobs as data: kernels x programs under a [Policy] to a list
// of [JobSpec], each with an ID that says what it is and does not depend on the
// others or on their order.
//
// It knows what can be said of a job before it is run, and how that is written down
// and read again (JSON, both ways): the one format of replay, of a file that names a
// matrix, and of a shard. It must not know how anything of it is done: no VM, no
// files but by name, no flags.
package plan
