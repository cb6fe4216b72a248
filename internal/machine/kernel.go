// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/kimage"
	"github.com/kvmrun/kvmrun/suites"
)

// Kernel is a kernel image and what belongs to it.
type Kernel struct {
	Path    string
	Image   *kimage.Image
	Release string // what uname -r will say
	// Details are nil for a kernel that could not be looked into and may
	// still boot.
	Details *kimage.Details
	// ConfigText is the .config and Config its values, both nil when it is
	// not known; ConfigSource says where it was found.
	ConfigText   []byte
	Config       suites.Config
	ConfigSource string
	// ModulesDir is its lib/modules/RELEASE, "" when there is none.
	ModulesDir string
	// SuiteFiles are host files of the kernel's build that suites find below
	// suites.GuestSuiteFiles, by base name: the key that signs IPE policies.
	SuiteFiles []string
}

// OpenKernel examines a kernel before anything boots. modulesDir and config
// override what is found beside the image; "" does not. A kernel in the cache
// stays there as long as this process runs.
func (h *Host) OpenKernel(ctx context.Context, path, modulesDir, config string) (*Kernel, error) {
	if _, ok := h.held.Load(path); !ok {
		if lock := h.Cache.Hold(path); lock != nil {
			if _, other := h.held.LoadOrStore(path, lock); other {
				_ = lock.Close()
			}
		}
	}
	img, err := kimage.Open(path)
	if err != nil {
		return nil, err
	}
	if err := img.CheckArch(kimage.X86_64); err != nil {
		return nil, err
	}
	k := &Kernel{Path: path, Image: img}
	if k.Details, err = img.Details(ctx, h.Cache); err != nil && !errors.Is(err, kimage.ErrUnsupported) {
		return nil, err
	}
	if k.Release, err = img.Release(ctx, h.Cache); err != nil && !errors.Is(err, kimage.ErrUnsupported) {
		return nil, err
	}
	if config != "" {
		if k.ConfigText, err = os.ReadFile(config); err != nil {
			return nil, fmt.Errorf("read the kernel's configuration: %w", err)
		}
		k.ConfigSource = config
	} else if c, err := img.Config(ctx, h.Cache); err == nil {
		k.ConfigText, k.ConfigSource = c.Text, c.Source
	} else if !errors.Is(err, kimage.ErrNoConfig) {
		return nil, err
	}
	if k.ConfigText != nil {
		k.Config = suites.ParseConfig(k.ConfigText)
	}
	if k.ModulesDir, err = img.ModulesDir(ctx, h.Cache, modulesDir); err != nil {
		return nil, err
	}
	// kvmrun kernel build puts its throw-away key beside the image.
	if key := filepath.Join(filepath.Dir(path), "signing_key.pem"); readable(key) {
		k.SuiteFiles = append(k.SuiteFiles, key)
	}
	return k, k.usable()
}

func readable(path string) bool {
	f, err := os.Open(path)
	if err == nil {
		_ = f.Close()
	}
	return err == nil
}

// basics are the options without which nothing can be run, with what they are
// for. Those that may be modules are loaded from the initramfs.
var basics = []struct{ need, why string }{
	{"BLK_DEV_INITRD=y", "the tests are in an initramfs"},
	{"BINFMT_ELF=y", "programs could not be started"},
	{"SERIAL_8250_CONSOLE=y", "the kernel log is read from the serial console"},
	{"VIRTIO_CONSOLE", "the tests' output comes over virtio-serial ports"},
	{"VIRTIO_PCI", "virtio devices are on the PCI bus"},
}

// usable refuses, before a VM starts, a kernel that is known to be unable to
// run anything here.
func (k *Kernel) usable() error {
	var missing []string
	for _, b := range basics {
		if !k.Config.Has(b.need) {
			missing = append(missing, fmt.Sprintf("CONFIG_%s (%s)", b.need, b.why))
		}
	}
	for _, sym := range []string{"VIRTIO_CONSOLE", "VIRTIO_PCI"} {
		if k.Config[sym] == "m" && k.ModulesDir == "" {
			missing = append(missing, fmt.Sprintf("CONFIG_%s=y (it is a module, and no lib/modules/%s was found; name it with -modules)", sym, k.Release))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("use kernel %s: its configuration (%s) lacks %s; build one with them, or with `kvmrun kernel build`",
			k.Path, k.ConfigSource, strings.Join(missing, ", "))
	}
	return nil
}

// bootable returns the file for QEMU's -kernel: the uncompressed vmlinux when
// it has a PVH entry, which saves the guest its own decompression.
func (k *Kernel) bootable(ctx context.Context, c *cache.Cache) (string, error) {
	if k.Details == nil || !k.Details.PVH() {
		return k.Path, nil
	}
	return k.Image.Vmlinux(ctx, c)
}

// builtIn says, by the configuration alone, whether a kernel without a modules
// directory needs no file for the module: most symbols are the module's name
// in capitals, block devices' have BLK_DEV_ in front.
func (k *Kernel) builtIn(module string) bool {
	sym := strings.ToUpper(strings.ReplaceAll(module, "-", "_"))
	return k.Config[sym] == "y" || k.Config["BLK_DEV_"+sym] == "y"
}

// hz is the kernel's CONFIG_HZ, or 0 when its configuration is not known.
func (k *Kernel) hz() int {
	n, err := strconv.Atoi(k.Config["HZ"])
	if err != nil {
		return 0
	}
	return n
}

// Extras are the kernel's own files for the guest.
func (k *Kernel) Extras() []initramfs.File {
	var out []initramfs.File
	for _, f := range k.SuiteFiles {
		out = append(out, initramfs.File{Host: f, Guest: path.Join(suites.GuestSuiteFiles, filepath.Base(f))})
	}
	return out
}
