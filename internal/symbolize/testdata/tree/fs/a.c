/* SPDX-License-Identifier: GPL-2.0-only */
#include "inl.h"

/* Has a namesake of another size in b.c. */
static __attribute__((noinline)) void dup(int x)
{
	sink("dup of a");
	fence *= x;
}

/* Has a namesake of the same size in b.c. */
static __attribute__((noinline)) void twin(void)
{
	sink("twin of a");
	fence++;
}

__attribute__((noinline)) void a_entry(int x)
{
	dup(x);
	outer(x);
	twin();
	fence++;
}
