// Command graft brings a VMDK up to date with a raw image of the same disk, as a running guest would have done.
//
//	go run ./testdata/vm/graft NEW.raw DISK.vmdk
//
// Grains that differ are written where they stand; new ones are appended and entered in both grain tables.
// Converting the raw image anew would put all grains elsewhere, which no hypervisor does between two snapshots.
//
// It reads and writes hosted sparse extents ("monolithicSparse", VMware's Virtual Disk Format 1.1) of version 1
// with 64 KiB grains, tables of 512 entries and a redundant directory, as qemu-img makes them; it refuses others.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	sector       = 512
	grainSectors = 128
	grainSize    = grainSectors * sector
	tableEntries = 512
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: graft NEW.raw DISK.vmdk")
		os.Exit(2)
	}
	if err := graftFiles(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "graft:", err)
		os.Exit(1)
	}
}

func graftFiles(raw, vmdk string) error {
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(vmdk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	changed, added, err := graft(in, out)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", vmdk, err)
	}
	fmt.Printf("%d grains changed in place, %d appended\n", changed, added)
	return nil
}

// graft makes vmdk hold what raw holds, and counts the grains that it wrote.
func graft(raw, vmdk *os.File) (changed, added int, err error) {
	le := binary.LittleEndian
	h := make([]byte, sector)
	if _, err := vmdk.ReadAt(h, 0); err != nil {
		return 0, 0, fmt.Errorf("header: %w", err)
	}
	capacity := int64(le.Uint64(h[12:]))
	if string(h[:4]) != "KDMV" || le.Uint32(h[4:]) != 1 || le.Uint64(h[20:]) != grainSectors || le.Uint32(h[44:]) != tableEntries || le.Uint32(h[8:])&2 == 0 {
		return 0, 0, errors.New("not a monolithicSparse disk of the kind that qemu-img makes")
	}
	info, err := raw.Stat()
	if err != nil {
		return 0, 0, err
	}
	if capacity < 1 || info.Size() != capacity*sector {
		return 0, 0, fmt.Errorf("the disk has %d sectors, the raw image %d bytes", capacity, info.Size())
	}
	end, err := vmdk.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	end = (end + sector - 1) / sector * sector

	const span = tableEntries * grainSize // bytes of the disk that a table maps
	tables := (info.Size() + span - 1) / span
	if tables*4 > end {
		return 0, 0, fmt.Errorf("%d grain tables cannot fit into a file of %d bytes", tables, end)
	}
	var dirs [2][]byte // the redundant directory, the directory
	for i, at := range []uint64{le.Uint64(h[48:]), le.Uint64(h[56:])} {
		dirs[i] = make([]byte, tables*4)
		if at > uint64(end)/sector {
			return 0, 0, fmt.Errorf("directory at sector %d is behind the end", at)
		}
		if _, err := vmdk.ReadAt(dirs[i], int64(at)*sector); err != nil {
			return 0, 0, fmt.Errorf("directory: %w", err)
		}
	}
	table, want, have := make([]byte, tableEntries*4), make([]byte, grainSize), make([]byte, grainSize)
	zero := make([]byte, grainSize)
	for t := range tables {
		where := [2]int64{int64(le.Uint32(dirs[0][t*4:])) * sector, int64(le.Uint32(dirs[1][t*4:])) * sector}
		if where[0] == 0 || where[1] == 0 {
			return changed, added, fmt.Errorf("grain table %d is missing", t)
		}
		if _, err := vmdk.ReadAt(table, where[1]); err != nil {
			return changed, added, fmt.Errorf("grain table %d: %w", t, err)
		}
		grown := false
		for e := range int64(tableEntries) {
			off := t*span + e*grainSize
			if off >= info.Size() {
				break
			}
			n, err := raw.ReadAt(want, off)
			if err != nil && err != io.EOF {
				return changed, added, err
			}
			clear(want[n:])
			at := int64(le.Uint32(table[e*4:])) * sector
			if at == 0 {
				if bytes.Equal(want, zero) {
					continue
				}
				le.PutUint32(table[e*4:], uint32(end/sector))
				if _, err := vmdk.WriteAt(want, end); err != nil {
					return changed, added, err
				}
				end += grainSize
				grown = true
				added++
				continue
			}
			n, err = vmdk.ReadAt(have, at)
			if err != nil && err != io.EOF {
				return changed, added, err
			}
			clear(have[n:])
			if bytes.Equal(want, have) {
				continue
			}
			if _, err := vmdk.WriteAt(want, at); err != nil {
				return changed, added, err
			}
			changed++
		}
		if grown {
			for _, at := range where {
				if _, err := vmdk.WriteAt(table, at); err != nil {
					return changed, added, err
				}
			}
		}
	}
	return changed, added, nil
}
