// SPDX-License-Identifier: Apache-2.0

// Package kerneltests shows what a module outside kvmrun's own does with it.
//
// Package tmpfs is a suite of tests that run in a VM:
//
//	go test ./tmpfs -kernel /boot/vmlinuz
//
// This package's test boots a kernel itself and talks to a program in it:
//
//	KVMRUN_KERNEL=/boot/vmlinuz go test .
//
// With KVMRUN_KERNEL set, go test ./... does both.
package kerneltests
