// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if IsInit() {
		Main()
	}
	os.Exit(m.Run())
}
