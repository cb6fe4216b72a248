/* SPDX-License-Identifier: GPL-2.0-only */
/* Inlined twice, one in the other, from a header. */
extern void sink(const char *);
extern int fence;

static inline __attribute__((always_inline)) void inner(int x)
{
	if (x > fence)
		sink("inner");
	fence++;
}

static inline __attribute__((always_inline)) void outer(int x)
{
	fence += x;
	inner(x * 3);
	fence -= x;
}
