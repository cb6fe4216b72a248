// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"strings"

	"github.com/kvmrun/kvmrun/internal/kfetch"
)

// FetchKernel returns the path of a distribution's kernel, as debian:VERSION,
// fetching it when the cache does not have it.
func (m *Machine) FetchKernel(ctx context.Context, ref string) (string, error) {
	k, err := m.Fetcher().Fetch(ctx, ref)
	if err != nil {
		return "", err
	}
	if k.Note != "" {
		m.Say("%s", k.Note)
	}
	return k.Path, nil
}

// Fetcher fetches distributions' kernels into the machine's cache and reports to
// its Progress.
func (m *Machine) Fetcher() *kfetch.Fetcher {
	said := map[string]bool{}
	return kfetch.New(kfetch.Config{Cache: m.Cache, Progress: func(p kfetch.Progress) {
		if line := strings.TrimSpace(p.Step + " " + p.What); p.Step != "look up" && !said[line] {
			said[line] = true
			m.Say("%s", line)
		}
	}})
}
