/* SPDX-License-Identifier: GPL-2.0-only */
/* A kernel as far as a symbolizer can tell. */
#include "inl.h"

const char linux_banner[] = BANNER;
int fence;

extern void a_entry(int);
extern void b_entry(int);
extern void die(void) __attribute__((noreturn));

__attribute__((noinline)) void sink(const char *s)
{
	__asm__ volatile("" : : "r"(s) : "memory");
}

/* The call is the last instruction: its return address is behind the end. */
__attribute__((noinline, noreturn)) void giveup(void)
{
	sink("giveup");
	die();
}

__attribute__((noinline, noreturn)) void die(void)
{
	for (;;)
		sink("die");
}

void _start(void)
{
	a_entry(1);
	b_entry(2);
	giveup();
}
