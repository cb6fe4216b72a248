// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/words"
)

// tree is cobra's commands, and ours that they were made of.
type tree struct {
	io   IO
	root *cobra.Command
	ours map[*cobra.Command]command
}

func newTree(io IO) *tree {
	cobra.EnableCommandSorting = false // ours have an order
	t := &tree{io: io, ours: map[*cobra.Command]command{}, root: &cobra.Command{
		Use: "kvmrun", Short: "boot Linux kernels in virtual machines and run tests and programs in them",
		Long:              "Boots Linux kernels in virtual machines and runs tests and programs in them.",
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		SilenceErrors:     true, SilenceUsage: true, // front.Status prints them
	}}
	t.parent(t.root, append(commands(), t.completionCommand(), t.manCommand()))
	t.root.SetIn(io.In)
	t.root.SetOut(io.Out)
	t.root.SetErr(io.Err)
	return t
}

// parent gives a command its children, and what it does without one.
func (t *tree) parent(cmd *cobra.Command, children []command) {
	cmd.DisableFlagParsing, cmd.DisableFlagsInUseLine = true, true
	cmd.Args = cobra.ArbitraryArgs // what is no command is refused in our words
	for _, c := range children {
		cmd.AddCommand(t.command(c))
	}
	help := &cobra.Command{
		Use: "help", Hidden: true, DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			of := cmd
			for len(args) > 0 && !isHelp(args[0]) && of.HasSubCommands() {
				next, err := child(of, args[0])
				if err != nil {
					return err
				}
				of, args = next, args[1:]
			}
			t.describe(t.io.Out, of)
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			of, _, err := cmd.Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return names(of), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.AddCommand(help)
	cmd.SetHelpCommand(help)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			t.describe(t.io.Err, cmd)
			return &front.Error{Code: result.ExitUsage}
		case isHelp(args[0]):
			t.describe(t.io.Out, cmd)
			return nil
		}
		_, err := child(cmd, args[0])
		return err
	}
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

// names are those of a command's children.
func names(cmd *cobra.Command) (out []string) {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			out = append(out, c.Name())
		}
	}
	return out
}

// child finds a command by its name.
func child(cmd *cobra.Command, name string) (*cobra.Command, error) {
	for _, c := range cmd.Commands() {
		if c.Name() == name {
			return c, nil
		}
	}
	return nil, front.Usagef("unknown command %q%s; see %s help", name, words.Nearest(name, names(cmd)), cmd.CommandPath())
}

// command makes cobra's command of ours.
func (t *tree) command(c command) *cobra.Command {
	cmd := &cobra.Command{Use: c.name, Short: c.short, Long: strings.TrimSpace(c.long)}
	if c.sub != nil {
		t.parent(cmd, c.sub)
		return cmd
	}
	t.ours[cmd] = c
	cmd.Use = strings.TrimSpace(c.name + " [flags] " + c.args)
	cmd.DisableFlagParsing, cmd.DisableFlagsInUseLine = true, true
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if c.rewrite != nil {
			args = c.rewrite(args)
		}
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		run := c.flags(fs)
		err := parse(fs, verb(cmd), args)
		switch {
		case errors.Is(err, flag.ErrHelp):
			t.describe(t.io.Out, cmd)
			return nil
		case err != nil && c.wrong != nil:
			return c.wrong(err)
		case err != nil:
			return err
		}
		return run(cmd.Context(), t.io, fs, args)
	}
	cmd.ValidArgsFunction = t.complete
	return cmd
}

// verb is a command's name without the program's.
func verb(cmd *cobra.Command) string { return strings.TrimPrefix(cmd.CommandPath(), "kvmrun ") }

// flags are a command's, none where it has none of its own.
func (t *tree) flags(cmd *cobra.Command) *flag.FlagSet {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	if c, ok := t.ours[cmd]; ok {
		c.flags(fs)
	}
	return fs
}

// describe prints a command's help.
func (t *tree) describe(w io.Writer, cmd *cobra.Command) {
	if cmd.HasSubCommands() {
		fmt.Fprintf(w, "Usage: %s COMMAND [flags]\n\n", cmd.CommandPath())
		if cmd.Long != "" {
			fmt.Fprintf(w, "%s\n\n", cmd.Long)
		}
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				fmt.Fprintf(w, "  %-11s %s\n", c.Name(), c.Short)
			}
		}
		fmt.Fprintf(w, "\n%s help COMMAND tells more.\n", cmd.CommandPath())
		return
	}
	fmt.Fprintf(w, "Usage: %s\n\n%s\n", cmd.UseLine(), cmd.Long)
	fs := t.flags(cmd)
	if len(flagNames(fs)) > 0 {
		fmt.Fprintln(w, "\nFlags:")
		fs.SetOutput(w)
		fs.PrintDefaults()
	}
}

func flagNames(fs *flag.FlagSet) (out []string) {
	fs.VisitAll(func(f *flag.Flag) { out = append(out, f.Name) })
	return out
}
