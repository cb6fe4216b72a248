// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// Config is a kernel's configuration: the text of its .config.
type Config struct {
	Text []byte
	// Source says where it was found, for people: "embedded (IKCONFIG)" or a
	// path.
	Source string
}

// embeddedSource is the Source of a config found in the kernel.
const embeddedSource = "embedded (IKCONFIG)"

// bootDir and rootDir are where distributions put what belongs to a kernel.
const (
	bootDir = "/boot"
	rootDir = "/"
)

// Value returns a symbol's value as written: "y", "m", a number, a quoted
// string; "n" for a symbol that is not set or not mentioned, which is the same
// in a complete configuration. The symbol goes without CONFIG_.
func (c *Config) Value(symbol string) string {
	key := []byte("CONFIG_" + symbol + "=")
	text := c.Text
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		if v, ok := bytes.CutPrefix(line, key); ok {
			return strings.TrimSpace(string(v))
		}
		text = rest
	}
	return "n"
}

// Config returns the kernel's configuration: the embedded one (CONFIG_IKCONFIG),
// else config-<release> in the kernel's directory, else config in the directory of its
// modules (Fedora, and Debian from Linux 7 on), else config-<release> in /boot. When
// there is none, the error is an [*Error] of kind [ErrNoConfig] that lists where it
// was looked for.
func (img *Image) Config(ctx context.Context, c *cache.Cache) (*Config, error) {
	return img.config(ctx, c, bootDir, rootDir)
}

func (img *Image) config(ctx context.Context, c *cache.Cache, boot, root string) (*Config, error) {
	var tried []string
	d, err := img.Details(ctx, c)
	switch {
	case errors.Is(err, ErrUnsupported):
		tried = append(tried, "inside (cannot be unpacked)")
	case err != nil:
		return nil, err
	case d.config != nil:
		return &Config{Text: d.config, Source: embeddedSource}, nil
	default:
		tried = append(tried, "inside (CONFIG_IKCONFIG)")
	}
	release := img.headerRelease()
	if release == "" && d != nil {
		release = d.Release
	}
	if validRelease(release) {
		var places []string
		for _, dir := range img.dirs() {
			places = append(places, filepath.Join(dir, "config-"+release))
		}
		modules, err := img.modulesDir(ctx, c, "", root)
		if err != nil {
			return nil, err
		}
		if modules != "" {
			places = append(places, filepath.Join(modules, "config"))
		}
		for _, path := range append(places, filepath.Join(boot, "config-"+release)) {
			text, err := readBounded(path)
			if err == nil {
				return &Config{Text: text, Source: path}, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("read kernel config: %w", err)
			}
			tried = append(tried, path)
		}
	}
	return nil, &Error{Path: img.Path, Kind: ErrNoConfig,
		Detail: "its configuration was not found; tried: " + strings.Join(tried, ", "),
		Cure:   "give it by -kconfig FILE, or build the kernel with CONFIG_IKCONFIG=y"}
}

// readBounded reads a config file, which nobody may use to fill our memory.
func readBounded(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxConfig {
		return nil, fmt.Errorf("%s: not a kernel config", path)
	}
	return os.ReadFile(path)
}

// dirs returns the directory the kernel was named in and, when that was a
// symbolic link, the one it really is in.
func (img *Image) dirs() []string {
	dirs := []string{filepath.Dir(img.Path)}
	if real, err := filepath.EvalSymlinks(img.Path); err == nil && filepath.Dir(real) != dirs[0] {
		dirs = append(dirs, filepath.Dir(real))
	}
	return dirs
}

// validRelease guards paths made of a release, which comes from the kernel
// file and could be "../../x".
func validRelease(release string) bool {
	return release != "" && release != "." && release != ".." && !strings.ContainsAny(release, "/\x00")
}
