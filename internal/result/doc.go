// SPDX-License-Identifier: Apache-2.0

// Package result is the model of what a run found out: cases, kernel splats,
// jobs and the verdict over them.
//
// It holds data and the two policies that give the data a meaning: [Judge]
// turns the facts of one job into its verdict, and [Run.ExitCode] turns the
// verdicts of a run into an exit status. It knows no formats, no clocks, no
// terminals and no files; who fills the model (package suiterun) and who prints
// it (package report) live elsewhere.
//
// The zero [Status] and the zero [Verdict] are invalid, never a pass, and the
// verdict of zero [Facts] is not a pass either: a job is green only because
// somebody stated every fact a pass needs.
//
// Text in the model may come from a hostile guest. It is kept as it came;
// printers neutralise it.
//
// Values are plain data: copy them freely, and do not change one that another
// goroutine reads.
//
// It must not know who found anything out, nor how results are printed.
package result
