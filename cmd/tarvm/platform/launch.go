package platform

import (
	"fmt"
	"slices"
	"strings"
)

// An Action is what is to be done with a machine.
type Action string

// The actions.
const (
	Start   Action = "start"
	Suspend Action = "suspend" // its memory is kept, in files except by QEMU alone; it does not run
	Resume  Action = "resume"  // goes on from there
	Stop    Action = "stop"    // asks the guest to shut down; it may take its time, or not
	Kill    Action = "kill"    // takes the power away
	Status  Action = "status"  // Launch.State tells what the answer means
)

// The platforms.
const (
	VMware     = "vmware"
	VirtualBox = "virtualbox"
	Libvirt    = "libvirt"
	Xen        = "xen"
	QEMU       = "qemu"
)

// A Launch is how an action is done: commands, one after the other, each only if the one before succeeded.
type Launch struct {
	Platform string    `json:"platform"`
	Action   Action    `json:"action"`
	Steps    []Command `json:"steps"`
	// Notes are what the user should know before.
	Notes []string `json:"notes,omitempty"`

	// Saved: the machine was suspended, and its memory is in a file that the action Resume goes on from. To start it
	// from its disks makes that file useless.
	Saved bool `json:"saved,omitempty"`

	config string // absolute
}

// A Command is one program that is run.
type Command struct {
	// Args are the program, by its path, and its arguments.
	Args []string `json:"args"`
	// Env are variables in addition to those of this process: NAME=VALUE.
	Env []string `json:"env,omitempty"`
	// Dir is where it runs, absolute; empty: wherever this process is.
	Dir string `json:"dir,omitempty"`
	// Stdin is what it reads.
	Stdin string `json:"stdin,omitempty"`
	// Unless is a question: where the answer has the line that it should have, the command is not needed.
	Unless *Question `json:"unless,omitempty"`
	// Why is for people: "registers the machine".
	Why string `json:"why,omitempty"`
}

// A Question is a program that changes nothing, and what it prints if it says yes.
type Question struct {
	Args []string `json:"args"`
	Line string   `json:"line"` // one line of its output, all of it
}

// Shell returns one line for a POSIX shell that does the same; it is longer than one if names are.
func (l *Launch) Shell() string {
	steps := make([]string, len(l.Steps))
	for i := range l.Steps {
		steps[i] = l.Steps[i].Shell()
		if len(l.Steps) > 1 && l.Steps[i].Unless != nil {
			steps[i] = "{ " + steps[i] + "; }"
		}
	}
	return strings.Join(steps, " && ")
}

// Shell returns a line for a POSIX shell that does the same.
func (c *Command) Shell() string {
	run := words(c.Args)
	if len(c.Env) > 0 {
		run = words(slices.Concat([]string{"env"}, c.Env)) + " " + run
	}
	if c.Stdin != "" {
		run = words([]string{"printf", "%s", c.Stdin}) + " | " + run
	}
	if u := c.Unless; u != nil {
		run = words(u.Args) + " 2>/dev/null | " + words([]string{"grep", "-Fqx", "-e", u.Line}) + " || " + run
	}
	if c.Dir != "" {
		run = "(cd " + Quote(c.Dir) + " && " + run + ")"
	}
	return run
}

func words(args []string) string {
	list := make([]string, len(args))
	for i, a := range args {
		list[i] = Quote(a)
		if i == 0 && list[i] == a && strings.Contains(a, "=") {
			list[i] = "'" + a + "'" // else a variable
		}
	}
	return strings.Join(list, " ")
}

// Quote writes a word for a shell.
func Quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:=,+@%", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// A State is what a machine is doing.
type State string

// The states.
const (
	Running   State = "running"
	Paused    State = "paused"    // it has its memory, and no processor
	Suspended State = "suspended" // its memory is in a file
	Off       State = "off"
	Unknown   State = "unknown" // the platform says something else
)

// A ProgramError is a program that a platform lacks for an action.
type ProgramError struct {
	Platform string
	Action   Action
	Programs []string // any of these would do
}

func (e *ProgramError) Error() string {
	return fmt.Sprintf("%s cannot %s a machine without %s", e.Platform, e.Action, strings.Join(e.Programs, " or "))
}

// A NameError is a machine that its platform knows by a name that it would take for something else.
type NameError struct{ Platform, Name, Why string }

func (e *NameError) Error() string {
	return fmt.Sprintf("%s: machine %q: %s", e.Platform, e.Name, e.Why)
}

// A NoPlatformError is a form that no installed platform starts.
type NoPlatformError struct {
	Form string
	// Looked are the programs of the platforms for that form, and where each was looked for.
	Looked []Looked
	// Others are the forms of the platforms that are installed.
	Others []string
}

// Looked is a program that was not found.
type Looked struct {
	Platform string
	Program  string
	Places   []string // besides the PATH
}

func (e *NoPlatformError) Error() string {
	if len(e.Looked) == 0 {
		return fmt.Sprintf("machines of form %q are started by nothing that is known here", e.Form)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "nothing that starts machines of form %s is installed:", e.Form)
	for i, l := range e.Looked {
		if i > 0 {
			b.WriteString(";")
		}
		fmt.Fprintf(&b, " %s's %s is not on the PATH", l.Platform, l.Program)
		if len(l.Places) > 0 {
			b.WriteString(", nor is there " + strings.Join(l.Places, ", "))
		}
	}
	return b.String()
}

// Hint says what the user can do.
func (e *NoPlatformError) Hint() string {
	form := "FORM"
	if len(e.Others) > 0 {
		form = strings.Join(e.Others, " or ")
	}
	return "tarvm export --to " + form + " converts the machine"
}
