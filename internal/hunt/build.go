// SPDX-License-Identifier: Apache-2.0

package hunt

import (
	"context"
	"errors"
	"strings"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/result"
)

// buildOne builds a kernel and says in bisect's words what came of it.
func buildOne(ctx context.Context, conf kbuild.Config) (bisect.Build, error) {
	a, err := kbuild.Build(ctx, conf)
	var be *kbuild.BuildError
	switch {
	case ctx.Err() != nil:
		return bisect.Build{}, ctx.Err()
	case errors.Is(err, kbuild.ErrHost), err != nil && result.HostsFault(err):
		return bisect.Build{}, err
	case errors.As(err, &be):
		reason := be.First
		if reason == "" {
			reason = firstLine(be)
		}
		return bisect.Build{Word: bisect.BuildFailed, Reason: reason, Log: be.Log}, nil
	case errors.Is(err, kbuild.ErrRequest):
		// An option that this commit does not know, a patch that does not apply.
		return bisect.Build{Word: bisect.BuildFailed, Reason: strings.Join(strings.Fields(err.Error()), " ")}, nil
	case err != nil:
		return bisect.Build{Word: bisect.Infra, Reason: firstLine(err)}, nil
	}
	b := bisect.Build{Path: a.Vmlinux, Modules: a.ModulesDir, Config: a.Config}
	if !a.Cached {
		b.Seconds = a.Manifest.Seconds
	}
	if b.Kernel, err = a.Code(); err != nil {
		return bisect.Build{Word: bisect.Infra, Reason: firstLine(err)}, nil
	}
	return b, nil
}
