// SPDX-License-Identifier: Apache-2.0

package initramfs_test

import (
	"context"
	"fmt"
	"io/fs"
	"log"
	"os"

	"github.com/u-root/mkuimage/cpio"

	"github.com/kvmrun/kvmrun/initramfs"
)

// An archive with this very program as init and a file of our own. With Kernel set
// the modules of that kernel that Modules names would be in it, too.
func ExampleBuild() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	archive, err := initramfs.Build(context.Background(), initramfs.Spec{
		Init:     self,
		Files:    []initramfs.File{{Guest: "/etc/motd", Data: []byte("hello\n")}},
		Symlinks: map[string]string{"/etc/issue": "motd"},
	}, initramfs.Options{CacheDir: dir}) // without CacheDir: the user's cache
	if err != nil {
		log.Fatal(err)
	}
	f, err := os.Open(archive)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	list, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range list {
		switch r.Name {
		case "init", "etc/motd", "etc/issue":
			fmt.Println(r.Name, fs.FileMode(r.Mode).Perm())
		}
	}
	// Output:
	// etc/issue -rwxrwxrwx
	// etc/motd -rw-r--r--
	// init -rwxr-xr-x
}
