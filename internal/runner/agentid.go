// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	agentcode "github.com/kvmrun/kvmrun/initramfs/guest"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// agentID names the agent in this program, which is that of every program built with
// it: its source, what that imports, and how it was compiled. Two programs with the
// same one make the same warm machine.
var agentID = sync.OnceValue(func() string {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "golang.org/x/sys" {
				fmt.Fprintf(h, "%s %s\n", d.Version, d.Sum)
			}
		}
		for _, s := range info.Settings {
			if strings.HasPrefix(s.Key, "-") || strings.HasPrefix(s.Key, "GO") {
				fmt.Fprintf(h, "%s=%s\n", s.Key, s.Value)
			}
		}
	}
	for _, f := range []embed.FS{agentcode.Source, wire.Source} {
		names, err := f.ReadDir(".")
		for _, n := range names {
			var text []byte
			if strings.HasSuffix(n.Name(), "_test.go") {
				continue
			}
			if text, err = f.ReadFile(n.Name()); err != nil {
				break
			}
			fmt.Fprintf(h, "%s %d\n%s", n.Name(), len(text), text)
		}
		if err != nil { // cannot be: they are in memory
			panic(err)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
})
