// Command tarvm packs virtual machines into archives that tar can read, and restores them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tarvm/cmd/tarvm/cli"
)

var version string // set by the linker

func main() {
	cli.Version = version
	signal.Ignore(syscall.SIGPIPE) // a closed pipe is an error of Write, after which temporary files are removed
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		time.Sleep(300 * time.Millisecond) // timeout(1) sends each signal twice: to the program, and to its group
		stop()                             // a second signal ends the program at once
	})
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
