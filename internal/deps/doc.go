// SPDX-License-Identifier: Apache-2.0

// Package deps has the module's rules on imports, as tests, and keeps in
// go.mod what is only built at run time: the guest's u-root tools.
//
// It knows the order of the layers. It must not know what any of them does.
package deps
