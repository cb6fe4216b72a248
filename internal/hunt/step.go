// SPDX-License-Identifier: Apache-2.0

package hunt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/bisect"
)

// Step builds the kernel in one directory, the source of the question's Build, and
// runs the suite on it, for a search that somebody else drives: until a run is bad,
// or says nothing, or as many as Search.Repeat are good. Its logs go to dir.
func Step(ctx context.Context, q Question, t Tools, dir string) (bisect.Word, string, error) {
	if q.Search.Repeat < 1 {
		return "", "", refuse(errors.New("a step of no runs: want 1 or more"))
	}
	h := newHunt(q, t)
	defer h.Close()
	var err error
	if h.dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "runs"), 0o755); err != nil {
		return "", "", err
	}
	if t.Tester == nil { // what is wrong with the suite is found before anything is built
		if err := h.openSuite(ctx, q.Suite); err != nil {
			return "", "", err
		}
		h.suite.Given = q.Suite
	}
	b, err := buildOne(ctx, q.Build)
	if err != nil {
		return "", "", err
	}
	if b.Word != "" {
		return b.Word, b.Reason, nil
	}
	good := 0
	for tries := 0; good < q.Search.Repeat; tries++ {
		o, err := h.t.Tester.Test(ctx, q.Build.Source, b)
		if err != nil {
			return "", "", err
		}
		switch {
		case o.Word == bisect.Good:
			good++
		case o.Word == bisect.Bad || tries > good:
			return o.Word, o.Reason, nil // once more after what may be bad luck
		}
		if err := ctx.Err(); err != nil {
			return "", "", err
		}
	}
	return bisect.Good, fmt.Sprintf("passed in %d of %d runs", good, q.Search.Repeat), nil
}
