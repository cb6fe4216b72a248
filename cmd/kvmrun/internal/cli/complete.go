// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"flag"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/kconfigs"
)

// shells are those that completion is made for.
var shells = []string{"bash", "zsh", "fish"}

func (t *tree) completionCommand() command {
	return command{
		name: "completion", args: strings.Join(shells, "|"),
		short: "print the completion of kvmrun's command lines for a shell",
		long: `Prints a script with which a shell completes commands, flags and their values:

  source <(kvmrun completion bash)                # this shell; it needs the package bash-completion
  kvmrun completion zsh > "${fpath[1]}/_kvmrun"
  kvmrun completion fish > ~/.config/fish/completions/kvmrun.fish

make install does that for all three.`,
		values: shells,
		flags: func(*flag.FlagSet) action {
			return func(_ context.Context, io IO, fs *flag.FlagSet, _ []string) error {
				if fs.NArg() != 1 || !slices.Contains(shells, fs.Arg(0)) {
					return front.Usagef("completion: want one of %s", strings.Join(shells, ", "))
				}
				switch fs.Arg(0) {
				case "bash":
					return t.root.GenBashCompletionV2(io.Out, true)
				case "zsh":
					return t.root.GenZshCompletion(io.Out)
				}
				return t.root.GenFishCompletion(io.Out, true)
			}
		},
	}
}

// complete says what may stand in place of the word that the user has begun.
// Without an answer the shell completes files.
func (t *tree) complete(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	const nothingElse = cobra.ShellCompDirectiveNoFileComp
	fs := t.flags(cmd)
	for len(args) > 0 {
		name := strings.TrimPrefix(strings.TrimPrefix(args[0], "-"), "-")
		if name == "" || name == args[0] { // -, -- or no flag
			return t.arguments(cmd) // or a program's own flags
		}
		args = args[1:]
		f := fs.Lookup(name)
		if f == nil || strings.Contains(name, "=") || isBool(f) {
			continue
		}
		if len(args) == 0 {
			return values(name)
		}
		args = args[1:]
	}
	if !strings.HasPrefix(word, "-") {
		return t.arguments(cmd)
	}
	dash := "-"
	if strings.HasPrefix(word, "--") {
		dash = "--"
	}
	if name, _, given := strings.Cut(word[len(dash):], "="); given {
		return values(name)
	}
	var out []string
	fs.VisitAll(func(f *flag.Flag) {
		_, text := flag.UnquoteUsage(f)
		text, _, _ = strings.Cut(text, "\n")
		if strings.HasPrefix(dash+f.Name, word) {
			out = append(out, dash+f.Name+"\t"+text)
		}
	})
	return out, nothingElse
}

// arguments are those of a command where they are few, or files.
func (t *tree) arguments(cmd *cobra.Command) ([]string, cobra.ShellCompDirective) {
	if v := t.ours[cmd].values; v != nil {
		return v, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// values are those of a flag, as far as they are few.
func values(name string) ([]string, cobra.ShellCompDirective) {
	if c := front.Choices(name); c != nil {
		return c, cobra.ShellCompDirectiveNoFileComp
	}
	switch name {
	case "profile":
		var out []string
		for _, p := range kconfigs.Profiles() {
			out = append(out, p.Name)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	case "suite":
		if src, err := suiterun.FindSource(front.Absolute(".")); err == nil {
			if suites, err := src.Names(); err == nil {
				return suites, cobra.ShellCompDirectiveDefault // or a file
			}
		}
	}
	return nil, cobra.ShellCompDirectiveDefault
}
