// SPDX-License-Identifier: Apache-2.0
//
// uart on|off: whether the first serial port sends to itself alone, by the loop
// bit of its modem control register (MCR; include/uapi/linux/serial_reg.h). What
// the kernel then says on its console, nobody hears.
#include <stdio.h>
#include <string.h>
#include <sys/io.h>

enum { port = 0x3f8, mcr = 4, loop = 0x10 };

int main(int argc, char **argv)
{
	if (argc != 2 || ioperm(port, 8, 1)) {
		perror("uart: ioperm");
		return 1;
	}
	int v = inb(port + mcr);
	outb(strcmp(argv[1], "on") ? v & ~loop : v | loop, port + mcr);
	return 0;
}
