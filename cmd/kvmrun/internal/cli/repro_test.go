// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"regexp"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/result"
)

// TestRunDecides: of every flag of kvmrun run it is known whether a command to
// repeat a job must have it.
func TestRunDecides(t *testing.T) {
	var help bytes.Buffer
	assert.Equal(t, Run(t.Context(), []string{"run", "-h"}, IO{Out: &help, Err: &help}), result.ExitPass)
	flags := regexp.MustCompile(`(?m)^  -([a-z-]+)`).FindAllStringSubmatch(help.String(), -1)
	assert.Assert(t, len(flags) > 20)
	machine := map[string]bool{"modules": true, "kconfig": true, "accel": true, "memory": true, "cpus": true, "qemu": true, "cache": true, "append": true}
	for _, f := range flags {
		_, known := runDecides[f[1]]
		assert.Check(t, known || machine[f[1]], "-%s: say in runDecides whether it decides how a run ends", f[1])
	}
}
