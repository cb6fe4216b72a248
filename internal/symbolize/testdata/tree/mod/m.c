/* SPDX-License-Identifier: GPL-2.0-only */
/* A module: two sections of code, both of which begin at address 0. */
#include "inl.h"

__attribute__((noinline)) void m_work(int x)
{
	outer(x);
	sink("work");
	fence++;
}

__attribute__((noinline, section(".init.text"))) int m_init(int x)
{
	sink("init");
	m_work(x);
	inner(x);
	return fence;
}

__attribute__((noinline)) void m_last(int x)
{
	sink("last");
	fence += x;
}
