// SPDX-License-Identifier: Apache-2.0

package result

import (
	"context"
	"errors"
	"syscall"
)

// HostsFault says whether an error that looks like one of the user's has
// another reason.
func HostsFault(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
