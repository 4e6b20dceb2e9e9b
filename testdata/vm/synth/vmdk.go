package main

import (
	"encoding/binary"
	"fmt"
	"os"
)

// The disk is a hosted sparse extent of VMware's "Virtual Disk Format 1.1" (section "Hosted Sparse Extent
// Metadata"): a header, a text descriptor, two copies of a directory of grain tables with their tables, grains.
const (
	sector         = 512
	grainSize      = 64 << 10
	grainSectors   = grainSize / sector
	blocksPerGrain = grainSize / blockSize
	tableEntries   = 512 // of four bytes: a table takes four sectors and maps 32 MiB
	tableSectors   = tableEntries * 4 / sector
	descSectors    = 20
)

// layout is where the parts of the vmdk lie, in sectors.
type layout struct {
	capacity, tables                 int64 // of the disk; number of grain tables
	redundant, directory, firstGrain int64
}

func newLayout(disk int64) layout {
	l := layout{capacity: disk / sector}
	l.tables = (disk/grainSize + tableEntries - 1) / tableEntries
	dir := (l.tables*4 + sector - 1) / sector
	l.redundant = 1 + descSectors
	l.directory = l.redundant + dir + l.tables*tableSectors
	l.firstGrain = roundUp(l.directory+dir+l.tables*tableSectors, grainSectors)
	return l
}

// writeVMDK writes the disk as it stands: grains in the order in which the guest first wrote to them, blocks
// that it never wrote left as holes. State i gives the content id, which changes whenever a disk was written.
func (g *guest) writeVMDK(path string, i int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(g.vmdkTables(i), 0)
	if err == nil {
		err = g.writeBlocks(f, g.vmdkInfo.firstGrain*sector, len(g.written)*blocksPerGrain, true, func(b int) ref {
			return g.disk[int(g.written[b/blocksPerGrain])*blocksPerGrain+b%blocksPerGrain]
		})
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// vmdkTables returns everything before the first grain.
func (g *guest) vmdkTables(i int) []byte {
	le := binary.LittleEndian
	l := g.vmdkInfo
	b := make([]byte, l.firstGrain*sector)

	copy(b, "KDMV")
	le.PutUint32(b[4:], 1)                     // version
	le.PutUint32(b[8:], 3)                     // valid newline test, redundant table in use
	le.PutUint64(b[12:], uint64(l.capacity))   // sectors
	le.PutUint64(b[20:], grainSectors)         // sectors
	le.PutUint64(b[28:], 1)                    // descriptor's sector
	le.PutUint64(b[36:], descSectors)          // its length
	le.PutUint32(b[44:], tableEntries)         // entries of a grain table
	le.PutUint64(b[48:], uint64(l.redundant))  // redundant directory's sector
	le.PutUint64(b[56:], uint64(l.directory))  // directory's sector
	le.PutUint64(b[64:], uint64(l.firstGrain)) // overhead, in sectors
	copy(b[73:], "\n \r\n")                    // shows a transfer as text; byte 72 is "unclean shutdown"

	cylinders := min(l.capacity/(255*63), 65535)
	copy(b[sector:], fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW %d SPARSE "vm.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.virtualHWVersion = "19"
`, 0x5b790256+uint32(g.seed)*16+uint32(i), l.capacity, cylinders))

	dir := (l.tables*4 + sector - 1) / sector
	for _, at := range []int64{l.redundant, l.directory} {
		for t := range l.tables {
			table := at + dir + t*tableSectors
			le.PutUint32(b[at*sector+t*4:], uint32(table))
			for e := range int64(tableEntries) {
				grain := t*tableEntries + e
				if grain < int64(len(g.grains)) && g.grains[grain] != 0 {
					where := l.firstGrain + int64(g.grains[grain]-1)*grainSectors
					le.PutUint32(b[table*sector+e*4:], uint32(where))
				}
			}
		}
	}
	return b
}
