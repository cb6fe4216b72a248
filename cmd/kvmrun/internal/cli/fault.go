// SPDX-License-Identifier: Apache-2.0

package cli

// faultHelp is the grammar of -fault, in short; package fault has all of it.
const faultHelp = `-fault KIND[:TARGET][,KEY=VALUE...] makes things go wrong in the guest's kernel,
from the first test, or from the program's first instruction on. KIND is
  failslab, fail_page_alloc, fail_futex, fail_usercopy,
  fail_make_request:DEVICE, fail_io_timeout:DEVICE, fail_function:NAME=-ENOMEM
KEY is nth=N, every=N or prob=PERCENT (with seed=N always the same); times=N;
in=FUNCTION, notin=FUNCTION; who=tree (the program and its children), task or
all (fail_function and fail_io_timeout: always all); gfp=wide or narrow;
cache=NAME; order=N.
From outside: disk-read:DISK, disk-write:DISK, disk-flush:DISK (nth, every,
times), disk-full:DISK (nth), power-cut:DISK (nth=WRITE, flush=N or
after=DURATION; the test then runs again on the same disks, in a machine that
boots anew), vcpu-pause (for, after, times), nmi (after), balloon (mib, after).`
