// SPDX-License-Identifier: Apache-2.0

// Package bisect finds the point of a history at which a symptom appeared, and
// says how sure it is.
//
// # Scope
//
// The search is pure: a [History] is data, kernels come from a [Builder] and
// verdicts from a [Tester], both declared here and implemented elsewhere.
// [Search] decides what to test next and when to stop; [Run] drives one with
// retries and a [Journal] from which a killed bisection goes on. [Symptom] says
// what counts as bad, [Minimize] is the same question over sets of options, and
// the writers of reports are here too. Nothing in it knows git, make or VMs.
//
// # Model
//
// One point of the history, the culprit, brought the symptom in: it and every
// point that descends from it is bad, all others are good. A run at a bad point
// shows the symptom with probability p, a run at a good one never does (with
// probability 1e-6, so that one wrong run cannot make the search impossible).
// The belief over the culprits is Bayes' with equal priors, a small part (2 %)
// of the prior being that the good end is bad already. p is integrated out: half
// of its prior is p = 1, the other half uniform; runs at the bad end come first,
// so that little depends on that. The next point is the one whose run is
// expected to tell most about the culprit for its cost.
//
// Four words say nothing about the symptom: other, boot-failed, build-failed
// and infra. They leave the belief as it is; the point and its neighbours are
// avoided. What cannot be told apart for that reason is a range, not a guess.
// Two points with one kernel cannot differ, so that what lies between them is
// never the culprit; the second is built, to find that out, and not run.
//
// # Concurrency and lifetime
//
// A [Search] is not safe for concurrent use. Run calls Builder and Tester from
// several goroutines when [Config].Parallel is more than one, and returns after
// all of them have.
//
// It knows beliefs, runs and what they say. It must not know git, make or VMs: what is
// tried is the caller's.
package bisect
