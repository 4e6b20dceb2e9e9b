// Package cli is the command tarvm: flags, paths, terminals, progress, environment, messages, and exit codes. What it
// does is done by the packages under archive.
//
// Data goes to standard output, everything else to standard error. With --json a verb writes one JSON object, made of
// the libraries' own types. The exit codes are in [exitCodes].
//
// Environment: SOURCE_DATE_EPOCH (the time of a packed entry, in seconds since 1970), TMPDIR, and Go's GOGC,
// GOMEMLIMIT and GOMAXPROCS.
//
// # Security
//
// Names in archives are untrusted: what is not printable in them is quoted before it reaches a terminal.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/formats"
	disks "tarvm/formats/all"
	"tarvm/formats/machine"
	targets "tarvm/ovf/all"
	"tarvm/ovf/target"
)

// Version is what the program says of itself, set before Main; empty: what the Go toolchain recorded.
var Version string

// Exit codes.
const (
	exitDone = iota
	exitFailed
	exitUsage
	exitWarned
	exitCorrupt
)

// exitCodes is the one table of exit codes, for help and manual pages.
var exitCodes = []struct {
	code int
	text string
}{
	{exitDone, "done"},
	{exitFailed, "failed"},
	{exitUsage, "wrong usage"},
	{exitWarned, "done, with warnings"},
	{exitCorrupt, "an archive, an image or a package is damaged, or could not be verified"},
}

// program is one run of the command.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	codecs         []codec.Codec
	disks          []formats.Format
	configs        []machine.Config
	targets        []target.Target

	quiet   bool
	verbose bool
	json    bool
	bar     *bar
	barMode string
	warned  bool
	repo    string // the repository, of verbs that take entries besides files
}

// Main runs the command with the arguments behind the program's name, and returns its exit code. A cancelled context
// is an interrupt of the user.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	limitMemory()
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr, codecs: codecs.Codecs(), disks: disks.Disks(), configs: disks.Configs()}
	p.targets = targets.Targets(p.configs)
	p.bar = newBar(stderr)
	root := p.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	p.bar.clear()
	if err != nil {
		return p.fail(ctx, err)
	}
	if p.warned {
		return exitWarned
	}
	return exitDone
}

// limitMemory trades a little time for memory, where the environment has not decided: a packer's buffers are reused, and
// what is garbage is mostly manifests.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(240 << 20)
	}
}

// command makes the tree of commands.
func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "tarvm",
		Short: "tar for virtual machines",
		Long: `tarvm packs the directory of a virtual machine into an archive that tar can read, and what changed since into
incremental archives that hold the changed blocks of its disks. It restores any of these states.

  tarvm pack vm -o monday.tar.zst                                 all of it
  tarvm pack vm -o tuesday.tar.zst --parent monday.tar.zst        what changed
  tarvm unpack tuesday.tar.zst -C vm                              Tuesday's state

A repository keeps such archives as numbered entries, and finds by itself what each builds on.

  tarvm init --repo ~/vm-entries --area web=vm                    once
  tarvm save                                                      a new entry
  tarvm restore 3                                                 the state of entry 3

` + exitText(),
		Args:              noVerb,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           version(),
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE:              p.onlyHelp,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if n, err := cmd.Flags().GetInt("workers"); err == nil && n < 0 { // verbs without it have an error
				return hint(usage(errors.New("--workers must not be negative")), "0 is as many as there are processors")
			}
			return p.bar.setMode(p.barMode, p.quiet)
		},
	}
	root.SetVersionTemplate("tarvm {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	f := root.PersistentFlags()
	f.BoolVarP(&p.quiet, "quiet", "q", false, "no progress, no notes: only warnings and errors")
	f.BoolVarP(&p.verbose, "verbose", "v", false, "say more")
	f.StringVar(&p.barMode, "progress", "auto", "`HOW` to show progress on standard error: auto (a line on a terminal, nothing else), plain (a line now and then), json (an object per line), none")
	group := func(title string, cmds ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: title, Title: title + ":"})
		for _, c := range cmds {
			c.GroupID = title
		}
		root.AddCommand(cmds...)
	}
	// Verbs of archives take entries of a repository, too.
	archives := []*cobra.Command{p.listCommand(), p.showCommand(), p.diffCommand(), p.verifyCommand(), p.unpackCommand()}
	convert := []*cobra.Command{p.exportCommand(), p.importCommand(), p.ovfCommand(), p.imageCommand()}
	for _, c := range append(archives, convert[0]) {
		c.ValidArgsFunction = p.completeFilesOrEntries
	}
	for _, c := range append(archives, convert[:2]...) {
		p.repoFlag(c)
	}
	group("Versions of a machine, in a repository", p.initCommand(), p.saveCommand(), p.restoreCommand(), p.openCommand(), p.vmCommand(), p.getCommand(), p.catalogueCommand(), p.statusCommand(),
		p.logCommand(), p.treeCommand(), p.pathCommand())
	group("Upkeep of a repository", p.rmCommand(), p.forgetCommand(), p.mergeCommand(), p.projectCommand(), p.areaCommand(), p.repoCommand())
	group("Archives", append([]*cobra.Command{p.packCommand()}, archives...)...)
	group("Forms of other programs", convert...)
	group("About tarvm", p.completionCommand(), p.versionCommand())
	root.SetHelpCommandGroupID("About tarvm")
	root.AddCommand(p.docsCommand())
	fixed(root, "progress", "auto", "plain", "json", "none")
	return root
}

// onlyHelp is what a command does that has only others below it.
func (p *program) onlyHelp(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(p.stderr)
	if err := cmd.Help(); err != nil {
		return err
	}
	return usage(errors.New("no command given"))
}

// noVerb is called with what stands where a verb should.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	err := fmt.Errorf("unknown command %q", args[0])
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		return hint(usage(err), "did you mean %s?", strings.Join(s, " or "))
	}
	return hint(usage(err), "%s --help lists the commands", cmd.CommandPath())
}

func exitText() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %d  %s\n", e.code, e.text)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// jsonFlag adds --json to a verb.
func (p *program) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.json, "json", false, "write the result as a JSON object")
}

// writeJSON writes v to standard output.
func (p *program) writeJSON(v any) error {
	e := json.NewEncoder(p.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printf writes to standard output.
func (p *program) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(p.stdout, format, args...)
	return err
}

// note tells the user something that is as it should be.
func (p *program) note(format string, args ...any) {
	if !p.quiet {
		p.message("tarvm: " + fmt.Sprintf(format, args...))
	}
}

// warn tells the user something that makes the exit code exitWarned.
func (p *program) warn(format string, args ...any) {
	p.warned = true
	p.message("tarvm: warning: " + fmt.Sprintf(format, args...))
}

// message writes a line to standard error; there is nobody to tell when that fails.
func (p *program) message(s string) {
	p.bar.clear()
	_, _ = fmt.Fprintln(p.stderr, printable(s))
}

// args checks the number of arguments of a verb.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if len(a) >= least && (most < 0 || len(a) <= most) {
			return nil
		}
		return hint(usage(fmt.Errorf("%s: want %s, got %d arguments", cmd.Name(), what, len(a))), "%s --help", cmd.CommandPath())
	}
}

// fixed completes a flag's value from a list.
func fixed(cmd *cobra.Command, flag string, values ...string) {
	f := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // a flag that is not there
	}
}

// flagError says what is wrong with a flag, and which one may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	if verbs := cmd.Flags().Args(); cmd.HasSubCommands() && len(verbs) > 0 {
		return noVerb(cmd, verbs) // its flags are not known here
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
		return hint(usage(err), "%s --help", cmd.CommandPath())
	}
	best, least := "", 3
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if d := distance(unknown.GetSpecifiedName(), f.Name); d < least && !f.Hidden {
			best, least = f.Name, d
		}
	})
	if best == "" {
		return hint(usage(err), "%s --help", cmd.CommandPath())
	}
	return hint(usage(err), "did you mean --%s?", best)
}

// distance is the number of insertions, deletions and replacements between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = min(diagonal, row[j], row[j+1]) + 1
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

func version() string {
	if Version != "" {
		return Version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "devel"
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which version this is",
		Args:  args(0, 0, "nothing"),
		RunE: func(*cobra.Command, []string) error {
			return p.printf("tarvm %s (%s, %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

func (p *program) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Write a script that completes tarvm's command lines",
		Long: `Writes a script for ` + strings.Join(shells, ", ") + ` to standard output. For the current bash:

  source <(tarvm completion bash)`,
		Args:      args(1, 1, "the name of a shell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, a []string) error {
			root := cmd.Root()
			switch a[0] {
			case "bash":
				return root.GenBashCompletionV2(p.stdout, true)
			case "zsh":
				return root.GenZshCompletion(p.stdout)
			case "fish":
				return root.GenFishCompletion(p.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(p.stdout)
			}
			return hint(usage(fmt.Errorf("unknown shell %q", a[0])), "there are %s", strings.Join(shells, ", "))
		},
	}
}

// brokenPipe reports whether the reader of standard output has gone.
func brokenPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}
