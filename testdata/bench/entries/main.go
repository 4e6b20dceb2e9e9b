// Command entries fills a repository with entries of a tiny machine, so that what reads all of them can be measured.
//
//	entries REPOSITORY COUNT
//
// The repository must be new. Every tenth entry is a full one, the others build on the one before. The files have the
// names that archive/repo/FORMAT.md gives them; "tarvm repo reindex" makes them known.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"tarvm/archive"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/manifest"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: entries REPOSITORY COUNT")
		os.Exit(2)
	}
	n, err := strconv.Atoi(os.Args[2])
	if err == nil {
		err = fill(context.Background(), os.Args[1], n)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "entries:", err)
		os.Exit(1)
	}
}

// fill packs a directory with one file n times.
func fill(ctx context.Context, repository string, n int) error {
	vm, err := os.MkdirTemp("", "tarvm-entries-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(vm)
	const project = "p"
	dir := filepath.Join(repository, "entries", project)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var parent *archive.Manifest
	for i := range n {
		if i%10 == 0 {
			parent = nil
		}
		text := fmt.Sprintf("displayName = \"vm\"\nguestinfo.entry = \"%d\"\n", i)
		if err := os.WriteFile(filepath.Join(vm, "vm.vmx"), []byte(text), 0o600); err != nil {
			return err
		}
		name := fmt.Sprintf("state %d", i+1)
		side, err := pack(ctx, vm, filepath.Join(dir, fmt.Sprintf("%06d-vm.tar.lz4", i+1)), archive.PackOptions{
			Codec: codec.ByName(codecs.Codecs(), "lz4"), Workers: 1, Name: name, Project: project, Parent: parent,
			Machine: &manifest.Machine{Name: "vm", UUID: "564d0000-0000-0000-0000-000000000001"},
			Time:    began.Add(time.Duration(i) * time.Hour),
		})
		if err != nil {
			return err
		}
		if parent, err = archive.OpenManifest(bytes.NewReader(side)); err != nil {
			return err
		}
	}
	return nil
}

// pack writes an archive and the manifest beside it, which it returns.
func pack(ctx context.Context, vm, file string, o archive.PackOptions) ([]byte, error) {
	plan, err := archive.MakePlan(ctx, vm, o)
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	var out, side bytes.Buffer
	if _, err := plan.Pack(ctx, &out, &side); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, out.Bytes(), 0o444); err != nil {
		return nil, err
	}
	return side.Bytes(), os.WriteFile(file+".manifest", side.Bytes(), 0o444)
}
