// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Code identifies what the kernel and its modules load into memory, without what
// differs between builds of the same code: the build-id, and the version that
// uname -v shows. Two artifacts with the same Code are the same kernel, although
// their sources differ in a comment or in what is not compiled. (Where the lines
// of a file move, the positions in its warnings do, and the code differs.)
func (a *Artifact) Code() (string, error) {
	var masks [][]byte
	if id, err := hex.DecodeString(a.Manifest.BuildID); err == nil && len(id) >= 8 {
		masks = append(masks, id)
	}
	if v := buildVersion(a.Manifest.Key); v != "" {
		masks = append(masks, []byte(v))
	}
	h := sha256.New()
	if err := loaded(h, a.Vmlinux, masks); err != nil {
		return "", fmt.Errorf("identify kernel: %w", err)
	}
	if a.ModulesDir != "" {
		err := filepath.WalkDir(a.ModulesDir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".ko") {
				return err
			}
			rel, err := filepath.Rel(a.ModulesDir, p)
			if err != nil {
				return err
			}
			fmt.Fprintf(h, "module %s\n", rel)
			return loaded(h, p, nil)
		})
		if err != nil {
			return "", fmt.Errorf("identify kernel's modules: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// loaded hashes the sections of an ELF file that are loaded.
func loaded(h hash.Hash, path string, masks [][]byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	e, err := elf.NewFile(f)
	if err != nil {
		return err
	}
	for _, s := range e.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Name == ".note.gnu.build-id" {
			continue
		}
		fmt.Fprintf(h, "%s %d %d\n", s.Name, s.Addr, s.Size)
		if s.Type == elf.SHT_NOBITS {
			continue
		}
		data, err := s.Data()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, s.Name, err)
		}
		for _, m := range masks {
			data = bytes.ReplaceAll(data, m, make([]byte, len(m)))
		}
		_, _ = h.Write(data)
	}
	return nil
}

// buildVersion is what a build with the key shows in uname -v.
func buildVersion(key string) string {
	v := key[strings.LastIndexByte(key, '-')+1:]
	if len(v) < 12 {
		return ""
	}
	return v[:12]
}
