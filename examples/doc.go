// SPDX-License-Identifier: Apache-2.0

// Package examples tests the example module beside it, which is outside this
// module: that its code is sound, and that it runs with a kernel.
package examples
