// SPDX-License-Identifier: Apache-2.0

// Command tell is a guest's init and, started by that, tells what it finds in its
// machine, one fact a line.
package main

import (
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/initramfs/guest"
)

var version = "none" // set by the linker

func main() {
	if guest.IsInit() {
		guest.Main()
	}
	say := func(key, value string) { fmt.Printf("fact %s %s\n", key, strings.TrimSpace(value)) }
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	seed := make([]byte, 16)
	_, _ = rand.Read(seed) // never fails
	say("random", fmt.Sprintf("%x", seed))
	say("uuid", read("/proc/sys/kernel/random/uuid"))
	say("wall", fmt.Sprint(time.Now().UnixNano()))
	say("hostname", read("/proc/sys/kernel/hostname"))
	say("args", fmt.Sprintf("%q", os.Args))
	say("env", fmt.Sprintf("%q", os.Environ()))
	dir, _ := os.Getwd()
	say("dir", dir)
	say("version", version)
	say("disk", disk())
	say("given", read("/etc/given"))
	var mounts []string
	for line := range strings.Lines(read("/proc/mounts")) {
		mounts = append(mounts, strings.Fields(line)[1])
	}
	say("mounts", strings.Join(mounts, " "))
	var modules []string
	for line := range strings.Lines(read("/proc/modules")) {
		modules = append(modules, strings.Fields(line)[0])
	}
	say("modules", strings.Join(modules, " "))
	var speeds []string
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "bogomips" {
			speeds = append(speeds, strings.TrimSpace(value))
		}
	}
	say("bogomips", strings.Join(speeds, " "))
	var files []string
	_ = filepath.WalkDir("/", func(p string, d fs.DirEntry, err error) error {
		switch p {
		case "/proc", "/sys", "/dev", "/usr/lib/modules", "/etc/kvmrun":
			return fs.SkipDir
		}
		if err == nil {
			if fi, err := d.Info(); err == nil {
				files = append(files, fmt.Sprintf("%s %s", fi.Mode(), p))
			}
		}
		return nil
	})
	say("files", strings.Join(files, ", "))
}

// disk is the magic number of the file system on the disk "scratch"
// (struct ext4_super_block: s_magic).
func disk() string {
	names, _ := filepath.Glob("/sys/block/*/serial")
	for _, name := range names {
		if serial, err := os.ReadFile(name); err != nil || strings.TrimSpace(string(serial)) != "scratch" {
			continue
		}
		f, err := os.Open("/dev/" + filepath.Base(filepath.Dir(name)))
		if err != nil {
			return err.Error()
		}
		defer f.Close()
		magic := make([]byte, 2)
		if _, err := f.ReadAt(magic, 1024+56); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%x", magic)
	}
	return "none"
}
