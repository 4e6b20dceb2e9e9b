package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (p *program) docsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "docs DIR",
		Short:  "Write manual pages and Markdown",
		Long:   "Writes a manual page and a page in Markdown for tarvm and each of its commands into DIR, made from what --help says.",
		Hidden: true,
		Args:   args(1, 1, "one directory"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if err := os.MkdirAll(a[0], 0o777); err != nil {
				return plainPath(err)
			}
			for _, c := range documented(cmd.Root()) {
				page := strings.ReplaceAll(c.CommandPath(), " ", "-")
				for ending, text := range map[string]string{".1": manPage(c), ".md": markdownPage(c)} {
					if err := os.WriteFile(filepath.Join(a[0], page+ending), []byte(text), 0o666); err != nil {
						return plainPath(err)
					}
				}
			}
			return nil
		},
	}
}

// documented lists a command and those below it that have a page.
func documented(c *cobra.Command) []*cobra.Command {
	list := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			list = append(list, documented(sub)...)
		}
	}
	return list
}

// A flagText is what a page says of a flag.
type flagText struct{ names, usage string }

func flagTexts(fs *pflag.FlagSet) []flagText {
	var list []flagText
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		names := "--" + f.Name
		if f.Shorthand != "" {
			names = "-" + f.Shorthand + ", " + names
		}
		if value != "" {
			names += " " + value
		}
		list = append(list, flagText{names, text})
	})
	return list
}

func about(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short + "."
}

// related lists the pages that one refers to.
func related(c *cobra.Command) []string {
	var list []string
	for _, o := range documented(c.Root()) {
		if o != c {
			list = append(list, strings.ReplaceAll(o.CommandPath(), " ", "-"))
		}
	}
	return list
}

// manPage makes a page in the macros of man(7). It has no date, so that the same program makes the same page.
func manPage(c *cobra.Command) string {
	var b strings.Builder
	page := strings.ReplaceAll(c.CommandPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 1 \"\" tarvm \"tarvm\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(page), roff(page), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n%s\n.SH DESCRIPTION\n", roff(c.UseLine()))
	literal := false
	for _, line := range strings.Split(about(c), "\n") {
		if code := strings.HasPrefix(line, "  "); code != literal {
			literal = code
			b.WriteString(map[bool]string{true: ".PP\n.nf\n", false: ".fi\n"}[code])
		}
		if line == "" {
			b.WriteString(".PP\n")
			continue
		}
		b.WriteString(roff(line) + "\n")
	}
	if literal {
		b.WriteString(".fi\n")
	}
	section := func(title string, fs []flagText) {
		if len(fs) == 0 {
			return
		}
		fmt.Fprintf(&b, ".SH %s\n", title)
		for _, f := range fs {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(f.names), roff(f.usage))
		}
	}
	section("OPTIONS", flagTexts(c.NonInheritedFlags()))
	section("COMMON OPTIONS", flagTexts(c.InheritedFlags()))
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(c.Example))
	}
	if c.HasParent() {
		b.WriteString(".SH EXIT STATUS\n")
		for _, e := range exitCodes {
			fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", e.code, roff(e.text))
		}
	}
	b.WriteString(".SH SEE ALSO\n")
	for i, o := range related(c) {
		if i > 0 {
			b.WriteString(",\n")
		}
		fmt.Fprintf(&b, ".BR %s (1)", roff(o))
	}
	b.WriteString("\n")
	return b.String()
}

// roff escapes text for man pages.
func roff(s string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

func markdownPage(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n\n```\n%s\n```\n\n", c.CommandPath(), c.Short, c.UseLine())
	code := false
	for _, line := range strings.Split(about(c), "\n") {
		if in := strings.HasPrefix(line, "  "); in != code {
			code = in
			b.WriteString("```\n")
		}
		b.WriteString(line + "\n")
	}
	if code {
		b.WriteString("```\n")
	}
	section := func(title string, fs []flagText) {
		if len(fs) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n| flag | |\n|---|---|\n", title)
		for _, f := range fs {
			fmt.Fprintf(&b, "| `%s` | %s |\n", f.names, strings.NewReplacer("|", `\|`, "<", `\<`, "*", `\*`).Replace(f.usage))
		}
	}
	section("Options", flagTexts(c.NonInheritedFlags()))
	section("Common options", flagTexts(c.InheritedFlags()))
	if c.Example != "" {
		fmt.Fprintf(&b, "\n## Examples\n\n```\n%s\n```\n", strings.ReplaceAll(c.Example, "  tarvm", "tarvm"))
	}
	if c.HasParent() {
		b.WriteString("\n## Exit status\n\n| code | |\n|---|---|\n")
		for _, e := range exitCodes {
			fmt.Fprintf(&b, "| %d | %s |\n", e.code, e.text)
		}
	}
	b.WriteString("\nSee also:")
	for i, o := range related(c) {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, " [%s](%s.md)", o, o)
	}
	b.WriteString("\n")
	return b.String()
}
