// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/output"
)

func (t *tree) manCommand() command {
	return command{
		name: "man", args: "DIRECTORY",
		short: "write the man pages into a directory",
		long: `Writes a man page for kvmrun and one for each of its commands, kvmrun-run(1) and so
on, with the texts of kvmrun help. make install does that.`,
		flags: func(*flag.FlagSet) action {
			return func(_ context.Context, _ IO, fs *flag.FlagSet, _ []string) error {
				if fs.NArg() != 1 {
					return front.Usagef("man: want one DIRECTORY; to read a text here: kvmrun help COMMAND")
				}
				if err := os.MkdirAll(fs.Arg(0), 0o755); err != nil {
					return front.Usagef("man: %w", err)
				}
				return t.writeMan(fs.Arg(0), t.root)
			}
		},
	}
}

// writeMan writes the pages of a command and its children.
func (t *tree) writeMan(dir string, cmd *cobra.Command) error {
	var b bytes.Buffer
	t.man(&b, cmd)
	if err := output.Save(filepath.Join(dir, page(cmd)+".1"), b.Bytes()); err != nil {
		return fmt.Errorf("write the man pages: %w", err)
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			if err := t.writeMan(dir, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func page(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// man writes one page (man(7)). Texts stay as they were laid out.
func (t *tree) man(w io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(w, ".TH %s 1 \"\" kvmrun\n.SH NAME\n%s \\- %s\n", strings.ToUpper(page(cmd)), page(cmd), roff(cmd.Short))
	use := cmd.UseLine()
	if cmd.HasSubCommands() {
		use = cmd.CommandPath() + " COMMAND [flags]"
	}
	fmt.Fprintf(w, ".SH SYNOPSIS\n.nf\n%s\n.fi\n", roff(use))
	if cmd.Long != "" {
		fmt.Fprintf(w, ".SH DESCRIPTION\n.nf\n%s\n.fi\n", roff(cmd.Long))
	}
	if fs := t.flags(cmd); len(flagNames(fs)) > 0 {
		fmt.Fprint(w, ".SH OPTIONS\n")
		fs.VisitAll(func(f *flag.Flag) {
			value, text := flag.UnquoteUsage(f)
			if f.DefValue != "" && f.DefValue != "0" && f.DefValue != "false" && f.DefValue != "0s" {
				text += " (default " + f.DefValue + ")"
			}
			fmt.Fprintf(w, ".TP\n%s\n%s\n", strings.TrimSpace(`\fB\-`+roff(f.Name)+`\fP `+roff(value)), roff(text))
		})
	}
	var also []string
	if cmd.HasParent() {
		also = append(also, page(cmd.Parent()))
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			also = append(also, page(c))
		}
	}
	fmt.Fprintf(w, ".SH SEE ALSO\n%s\n", roff(strings.Join(also, "(1), ")+"(1)"))
}

// roff keeps text from being read as requests and escapes (groff(7)).
func roff(text string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", "\\`", "'", `\(aq`).Replace(text), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
