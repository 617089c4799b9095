package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completionCommand prints a script that completes flags and commands in a shell.
// It is made from the program's own lists, so that it needs no call of shim later.
func completionCommand() *cli.Command {
	return &cli.Command{
		Name:            "completion",
		Usage:           "print a script for shell completion",
		UsageText:       "shim completion bash|zsh|fish",
		Description:     "bash: source <(shim completion bash)\nzsh:  source <(shim completion zsh)\nfish: shim completion fish | source",
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usageError{errors.New("completion takes the name of a shell: bash, zsh or fish")}
			}
			return completion(c.App.Writer, c.Args().First(), visibleCommands(c.App))
		},
	}
}

// visibleCommands are the names of the commands that help shows.
func visibleCommands(app *cli.App) []string {
	var names []string
	for _, c := range app.Commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

func completion(out io.Writer, shell string, commands []string) error {
	var specs []flagSpec
	var flags []string
	for _, s := range flagSpecs {
		if s.effect != dropped {
			specs, flags = append(specs, s), append(flags, "--"+s.name)
		}
	}
	flags = append(flags, "--help", "--version")
	slices.Sort(flags)
	var b strings.Builder
	switch shell {
	case "bash":
		fmt.Fprintf(&b, bashScript, strings.Join(flags, " "), strings.Join(commands, " "))
	case "zsh":
		fmt.Fprintf(&b, zshScript, strings.Join(flags, " "), strings.Join(commands, " "))
	case "fish":
		for _, s := range specs {
			form := "r" // it needs a value
			if _, truth := s.value.(bool); truth {
				form = "f"
			}
			fmt.Fprintf(&b, "complete -c shim -%s -l %s -d '%s'\n", form, s.name, strings.ReplaceAll(shownUsage(s), "'", `\'`))
		}
		fmt.Fprintf(&b, "complete -c shim -n __fish_use_subcommand -a '%s'\n", strings.Join(commands, " "))
	default:
		return usageError{fmt.Errorf("no completion for %q: bash, zsh or fish", shell)}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

const bashScript = `_shim() {
    local word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    if [[ "$word" == -* ]]; then
        COMPREPLY=($(compgen -W "%s" -- "$word"))
    elif [[ "$COMP_CWORD" -eq 1 ]]; then
        COMPREPLY=($(compgen -W "%s" -- "$word"))
    fi
}
complete -o default -F _shim shim
`

const zshScript = `_shim() {
    if [[ "$PREFIX" == -* ]]; then
        compadd -- %s
    elif (( CURRENT == 2 )); then
        compadd -- %s
    else
        _files
    fi
}
compdef _shim shim
`
