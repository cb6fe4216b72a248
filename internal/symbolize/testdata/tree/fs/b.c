/* SPDX-License-Identifier: GPL-2.0-only */
#include "inl.h"

static __attribute__((noinline)) void dup(int x)
{
	sink("dup of b");
	fence *= x;
	sink("dup of b again");
	fence -= x;
	sink("and again");
	fence += x;
}

static __attribute__((noinline)) void twin(void)
{
	sink("twin of b");
	fence++;
}

__attribute__((noinline)) void b_entry(int x)
{
	dup(x);
	twin();
	outer(x + 1);
	fence++;
}
