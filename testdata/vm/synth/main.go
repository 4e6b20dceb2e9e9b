// Command synth makes a virtual machine's directory at three moments of its life, from nothing but a seed.
//
//	go run ./testdata/vm/synth -o OUT [-size 4G] [-fill 0.35] [-mem SIZE] [-seed 1]
//
// OUT/S1, OUT/S2 and OUT/S3 each look like a directory of VMware Workstation: vm.vmx, vm.nvram, vm.vmdk (one
// monolithicSparse disk that evolves in place, as under a running guest), vm.vmem and vmware.log. The same
// flags give the same bytes and the same file times on every machine.
//
// The guest holds no file system: its disk is a list of 4 KiB blocks of files that look like what a server
// holds (programs, text, logs, database pages, compressed data), with free space, fragments and duplicates.
// From state to state files are written, deleted, replaced and moved, logs grow, and single blocks change by a
// few bytes. About two fifths of the memory image's pages stand on the disk as well, about a sixth are zero.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// states are the guest's moments. The first's rates are not used: it is an installation.
var states = []struct {
	name string
	when time.Time
	step rates
}{
	{"S1", time.Date(2024, 3, 2, 0, 0, 0, 0, time.UTC), rates{}},
	{"S2", time.Date(2024, 3, 2, 9, 30, 0, 0, time.UTC), rates{patch: 0.03, move: 0.01, remove: 0.02, add: 0.08, upgrade: 0.01, memory: 0.30}},
	{"S3", time.Date(2024, 3, 3, 7, 15, 0, 0, time.UTC), rates{patch: 0.03, move: 0.02, remove: 0.04, add: 0.06, upgrade: 0.05, memory: 0.75}},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "synth:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	fs := flag.NewFlagSet("synth", flag.ContinueOnError)
	out := fs.String("o", "", "directory to make S1, S2 and S3 in; those of an earlier run are replaced")
	size := fs.String("size", "4G", "virtual size of the disk, at least 16M")
	fill := fs.Float64("fill", 0.35, "share of the disk that S1's data takes, 0.01 to 0.7")
	mem := fs.String("mem", "", "size of the memory image; an eighth of the disk when empty")
	seed := fs.Uint64("seed", 1, "another seed is another machine")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" || fs.NArg() != 0 {
		return errors.New("need -o DIR and no other argument")
	}
	disk, err := parseSize(*size)
	if err != nil {
		return fmt.Errorf("-size: %w", err)
	}
	if disk < 16<<20 || disk > 1<<40 {
		return fmt.Errorf("-size %s: want 16M to 1T", *size)
	}
	if !(*fill >= 0.01 && *fill <= 0.7) {
		return fmt.Errorf("-fill %v: want 0.01 to 0.7", *fill)
	}
	memory := disk / 8
	if *mem != "" {
		if memory, err = parseSize(*mem); err != nil {
			return fmt.Errorf("-mem: %w", err)
		}
	}
	if memory < 1<<20 || memory > disk {
		return fmt.Errorf("-mem: %d bytes: want 1M to the disk's size", memory)
	}
	return makeStates(*out, *seed, disk, memory, *fill)
}

// marker stands in a directory whose S1, S2 and S3 were made here, and may be made again.
const marker = ".made-for-measuring"

// claim makes sure that the states below out are not somebody's machines, and marks out as ours.
func claim(out string) error {
	mark := filepath.Join(out, marker)
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	for _, st := range states {
		dir := filepath.Join(out, st.name)
		if _, err := os.Lstat(dir); err == nil {
			return fmt.Errorf("%s exists and was not made here: nothing is replaced; choose another -o", dir)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	return os.WriteFile(mark, nil, 0o644)
}

// makeStates writes every state below out. The sizes are bytes, rounded up to whole MiB.
func makeStates(out string, seed uint64, disk, memory int64, fill float64) error {
	if err := claim(out); err != nil {
		return err
	}
	g := newGuest(seed, roundUp(disk, 1<<20), roundUp(memory, 1<<20))
	for i, st := range states {
		if i == 0 {
			g.install(fill)
		} else {
			g.live(st.step)
		}
		dir := filepath.Join(out, st.name)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := g.save(dir, i, st.when); err != nil {
			return fmt.Errorf("%s: %w", st.name, err)
		}
	}
	return nil
}

// save writes the five files of state i as they stand at the time when.
func (g *guest) save(dir string, i int, when time.Time) error {
	for _, f := range []struct {
		name  string
		write func(path string) error
	}{
		{"vm.vmdk", func(p string) error { return g.writeVMDK(p, i) }},
		{"vm.vmem", g.writeMemory},
		{"vm.vmx", func(p string) error { return os.WriteFile(p, g.vmx(i), 0o644) }},
		{"vm.nvram", func(p string) error { return os.WriteFile(p, g.nvram(i), 0o644) }},
		{"vmware.log", func(p string) error { return os.WriteFile(p, g.log(i), 0o644) }},
	} {
		p := filepath.Join(dir, f.name)
		if err := f.write(p); err != nil {
			return err
		}
		if err := os.Chtimes(p, when, when); err != nil {
			return err
		}
	}
	return os.Chtimes(dir, when, when)
}

// parseSize reads a number of bytes with an optional suffix K, M, G or T (powers of 1024).
func parseSize(s string) (int64, error) {
	shift := 0
	if n := len(s); n > 0 {
		if k := strings.IndexByte("KMGT", s[n-1]&^0x20); k >= 0 {
			shift, s = 10*(k+1), s[:n-1]
		}
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, err
	}
	if v < 0 || v > (1<<62)>>shift {
		return 0, fmt.Errorf("%s: out of range", s)
	}
	return v << shift, nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
