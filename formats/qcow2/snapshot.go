package qcow2

import (
	"fmt"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// The snapshot table is an array of entries of different lengths, each of which
// begins at a multiple of 8 bytes. Fields are big-endian, offsets are in the
// entry.
const (
	snapL1      = 0  // u64, file offset of the L1 table, a multiple of the cluster
	snapL1Size  = 8  // u32, entries of the L1 table
	snapID      = 12 // u16, bytes of the id
	snapName    = 14 // u16, bytes of the name
	snapSeconds = 16 // u32, when it was made, since 1970
	snapState   = 32 // u32, bytes of the saved state; 0: none
	snapExtra   = 36 // u32, bytes of what follows before the id
	snapFixed   = 40
	snapState64 = 40 // u64, if extra is at least 8: instead of snapState
	snapSize    = 48 // u64, if extra is at least 16: guest bytes; else those of the image

	maxSnapshots = 65536    // as in qemu
	maxSnapExtra = 1024     // as in qemu
	maxSnapTable = 64 << 20 // bytes, as in qemu
)

// A snapshot is an entry of the snapshot table.
type snapshot struct {
	id, name string
	unix     int64
	l1       parse.Table
	size     int64 // guest bytes
	state    int64 // bytes of saved state
	good     bool  // it can be read
}

// stateAt returns where state begins in what an L1 table of a disk of size bytes
// describes: at the first L1 entry that the disk does not need.
func (im *image) stateAt(size int64) int64 {
	covers := im.covers()
	n := size / covers
	if size%covers != 0 {
		n++
	}
	return n * covers
}

// openSnapshots reads the snapshot table. What is wrong there is a problem: the
// active disk does not need it.
func (im *image) openSnapshots() error {
	if im.header.snapshots == 0 {
		return nil
	}
	err := im.readSnapshots()
	if err != nil {
		im.snaps, im.snapsLen = nil, 0
	}
	return im.damage(formats.Risk, err)
}

func (im *image) readSnapshots() error {
	m, at := im.m, im.snapshotsOff
	switch {
	case im.header.snapshots > maxSnapshots:
		return m.Corrupt("snapshot table", offSnapshots, "%d snapshots", im.header.snapshots)
	case at%uint64(im.unit) != 0 || at < uint64(im.unit) || at >= uint64(m.Size()):
		return m.Corrupt("snapshot table", offSnapshotTable, "offset 0x%x", at)
	}
	off := int64(at)
	for i := range im.header.snapshots {
		off = (off + 7) &^ 7
		s, n, err := im.readSnapshot(off, i)
		if err != nil {
			return err
		}
		im.snaps = append(im.snaps, s)
		if off += n; off-int64(at) > maxSnapTable {
			return m.Corrupt("snapshot table", int64(at), "more than %d bytes", maxSnapTable)
		}
	}
	im.snapsLen = off - int64(at)
	return nil
}

// readSnapshot reads entry i of the snapshot table, which is at off, and returns
// its length.
func (im *image) readSnapshot(off, i int64) (s snapshot, n int64, err error) {
	b, err := im.m.Bytes("snapshot table", off, snapFixed)
	if err != nil {
		return s, 0, err
	}
	extra := int64(bigEndian.Uint32(b[snapExtra:]))
	id, name := int64(bigEndian.Uint16(b[snapID:])), int64(bigEndian.Uint16(b[snapName:]))
	if extra > maxSnapExtra {
		return s, 0, im.m.Corrupt("snapshot table", off, "snapshot %d has %d bytes of extra data", i, extra)
	}
	n = snapFixed + extra + id + name
	b, err = im.m.Bytes("snapshot table", off, n)
	if err != nil {
		return s, 0, err
	}
	text := b[snapFixed+extra:]
	s.id, s.name = string(text[:id]), string(text[id:])
	s.unix = int64(bigEndian.Uint32(b[snapSeconds:]))
	state, size := uint64(bigEndian.Uint32(b[snapState:])), uint64(im.VirtualSize)
	if extra >= 8 {
		state = bigEndian.Uint64(b[snapState64:])
	}
	if extra >= 16 {
		size = bigEndian.Uint64(b[snapSize:])
	} else if im.version >= 3 {
		im.problem(formats.Note, "snapshot table", off, "snapshot %q does not say how large its disk is", s.name)
	}

	bad := func(format string, args ...any) (snapshot, int64, error) {
		im.problem(formats.Risk, "snapshot table", off, "snapshot %q cannot be read: %s", s.name,
			fmt.Sprintf(format, args...))
		return s, n, nil
	}
	at, count := bigEndian.Uint64(b[snapL1:]), int64(bigEndian.Uint32(b[snapL1Size:]))
	switch covers := im.covers(); {
	case count*8 > maxL1:
		return bad("an L1 table of %d entries", count)
	case at%uint64(im.unit) != 0 || count > 0 && at < uint64(im.unit):
		return bad("an L1 table at 0x%x", at)
	case at > uint64(im.m.Size()) || !im.m.Inside(int64(at), count*8):
		return bad("its L1 table at 0x%x passes end of file", at)
	case size > uint64(count*covers):
		return bad("%d L1 entries for a disk of %d bytes", count, size)
	case state > uint64(count*covers-im.stateAt(int64(size))):
		return bad("%d L1 entries for a disk of %d bytes and a state of %d", count, size, state)
	}
	s.l1 = im.table(fmt.Sprintf("L1 table of snapshot %q", s.name), int64(at), count)
	s.size, s.state, s.good = int64(size), int64(state), true
	return s, n, nil
}
