// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// The injection itself needs a kernel built for it and is tested by the suite
// ext4 in its VM (TestFaultLibrary).

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		want string
	}{
		{Kind{Injector: Slab}, "FAULT_INJECTION FAULT_INJECTION_DEBUG_FS FAILSLAB"},
		{Kind{Injector: Slab, Cache: "dentry"}, "FAULT_INJECTION FAULT_INJECTION_DEBUG_FS FAILSLAB SLUB_DEBUG"},
		{Kind{Injector: Page, Waiting: true}, "FAULT_INJECTION FAULT_INJECTION_DEBUG_FS FAIL_PAGE_ALLOC"},
		{Kind{Injector: Request, Device: "vda"}, "FAULT_INJECTION FAULT_INJECTION_DEBUG_FS FAIL_MAKE_REQUEST"},
		{Kind{Injector: Futex}, "FAULT_INJECTION FAULT_INJECTION_DEBUG_FS FAIL_FUTEX"},
		{Kind{Injector: Timeout, Device: "vda"}, "FAULT_INJECTION FAULT_INJECTION_DEBUG_FS FAIL_IO_TIMEOUT"},
		{Kind{Injector: UserCopy}, "FAULT_INJECTION FAULT_INJECTION_DEBUG_FS FAULT_INJECTION_USERCOPY"},
	} {
		assert.Equal(t, strings.Join(c.kind.Options(), " "), c.want, "%v", c.kind)
	}
}

func TestString(t *testing.T) {
	assert.Equal(t, Kind{Injector: Slab, Waiting: true, Cache: "dentry"}.String(), "failslab,waiting,dentry")
	assert.Equal(t, Kind{Injector: Request, Device: "vda"}.String(), "fail_make_request,vda")
}
