package layers

import (
	"context"
	"encoding/binary"
	"encoding/hex"

	"github.com/zeebo/blake3"

	"tarvm/formats"
)

// A DiskID is the digest of what a guest sees on a disk.
type DiskID [32]byte

// String returns the digest in hexadecimal.
func (id DiskID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns String.
func (id DiskID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// IDUnit is the guest's block, in bytes, that a DiskID is made of.
const IDUnit = 64 << 10

// idContext separates disk ids from other digests; see BLAKE3's mode for key
// derivation.
const idContext = "tarvm disk id, version 1"

// An IDWriter makes a DiskID of digests of blocks. The id is BLAKE3 in its mode
// for key derivation, with the context "tarvm disk id, version 1", over
//
//	the disk's size in bytes, u64
//	of each block of IDUnit bytes that is not all zero, in ascending order:
//	    its index, u64
//	    BLAKE3 of its bytes, 32 bytes
//
// Numbers are little-endian. The last block has the bytes up to the disk's end.
// So a block that is zero, and one that is not stored, are the same; and the id
// does not depend on format, cluster size and parents.
type IDWriter struct{ h *blake3.Hasher }

// NewIDWriter begins the id of a disk of size bytes.
func NewIDWriter(size int64) *IDWriter {
	w := &IDWriter{blake3.NewDeriveKey(idContext)}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(size))
	_, _ = w.h.Write(b[:]) // never fails
	return w
}

// Block adds a block that is not all zero. Blocks come in ascending order.
func (w *IDWriter) Block(index int64, digest *[32]byte) {
	var b [40]byte
	binary.LittleEndian.PutUint64(b[:], uint64(index))
	copy(b[8:], digest[:])
	_, _ = w.h.Write(b[:]) // never fails
}

// ID returns the id of what was added so far.
func (w *IDWriter) ID() (id DiskID) {
	w.h.Sum(id[:0])
	return id
}

// ID reads d and returns its id. Of o it takes Workers and Progress.
func ID(ctx context.Context, d formats.Disk, o formats.EncodeOptions) (DiskID, error) {
	o.Base = nil
	w := NewIDWriter(d.Size())
	type digest [32]byte
	const blocks = 16 // that are read at a time
	err := formats.Units(ctx, d, blocks*IDUnit, &o, func(_ int, u *formats.Unit) error {
		off := u.Index * blocks * IDUnit
		n := min(int64(len(u.Data)), d.Size()-off)
		out := u.Spare()
		for k := int64(0); k < n; k += IDUnit {
			b := u.Data[k:min(k+IDUnit, n)]
			var sum digest
			if !formats.IsZero(b) {
				sum = blake3.Sum256(b)
			}
			out = append(out, sum[:]...)
		}
		u.Out = out
		return nil
	}, func(u *formats.Unit) error {
		for k := 0; k < len(u.Out); k += len(digest{}) {
			if sum := (*[32]byte)(u.Out[k:]); *sum != [32]byte{} {
				w.Block(u.Index*blocks+int64(k/len(sum)), sum)
			}
		}
		return nil
	})
	return w.ID(), err
}
