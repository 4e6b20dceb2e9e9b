// Command measure runs a program and tells what it took.
//
//	measure FILE PROGRAM ARG...
//
// FILE gets one line: wall seconds, user seconds, system seconds, and the largest resident set of the program
// or of a child that it waited for, in KiB
// (0 where the system does not tell). The exit code is the program's, 125 when it could not be started.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: measure FILE PROGRAM ARG...")
		os.Exit(125)
	}
	c := exec.Command(os.Args[2], os.Args[3:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	began := time.Now()
	err := c.Run()
	wall := time.Since(began)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(125)
	}
	line := fmt.Sprintf("%.3f %.3f %.3f %d\n", wall.Seconds(), c.ProcessState.UserTime().Seconds(), c.ProcessState.SystemTime().Seconds(), maxRSS(c.ProcessState))
	if err := os.WriteFile(os.Args[1], []byte(line), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(125)
	}
	if code := c.ProcessState.ExitCode(); code >= 0 {
		os.Exit(code)
	}
	os.Exit(124) // ended by a signal
}
