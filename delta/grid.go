package delta

import (
	"fmt"
	"math/bits"
)

// Block sizes in bytes. 64 KiB digests cost 0.05 % of the data and verify at
// 2-3 GB/s a core; smaller ones cost more of both, larger ones make a changed
// byte more expensive.
const (
	DefaultBlock = 64 << 10
	MinBlock     = 4 << 10
	MaxBlock     = 4 << 20
)

// A Grid says where a file is cut into blocks. The first ends at Phase (there is
// none when Phase is 0), each further one is Block bytes long, and the last one
// ends with the file. The phase follows the file's guest data, so that the same
// guest bytes make the same blocks in every disk format.
//
// With a Stride the file's guest data lies in pieces of less than Stride bytes,
// of which one begins at Phase and at each multiple of Stride behind it: there,
// cutting begins anew, and the last block of a piece may be short. Before Phase
// it begins at the start of the file.
type Grid struct {
	Block  int64 // bytes, a power of two from MinBlock to MaxBlock
	Phase  int64 // bytes, 0 <= Phase < Block, or Stride if there is one
	Stride int64 // bytes, more than Block and no multiple of it; 0: none
}

// MaxStride bounds Grid.Stride.
const MaxStride = 1 << 32

// Check returns an error when g is not a usable grid.
func (g Grid) Check() error {
	if g.Block < MinBlock || g.Block > MaxBlock || bits.OnesCount64(uint64(g.Block)) != 1 {
		return fmt.Errorf("block size %d: want a power of two from %d to %d", g.Block, MinBlock, MaxBlock)
	}
	if g.Stride != 0 && (g.Stride <= g.Block || g.Stride > MaxStride || g.Stride%g.Block == 0) {
		return fmt.Errorf("grid stride %d: want %d to %d, and no multiple of the block size", g.Stride, g.Block+1, MaxStride)
	}
	if g.Phase < 0 || g.Phase >= max(g.Block, g.Stride) {
		return fmt.Errorf("grid phase %d: want 0 to %d", g.Phase, max(g.Block, g.Stride)-1)
	}
	return nil
}

// pieces returns the number of blocks before the phase, and of those in a stride.
func (g Grid) pieces() (head, each int64) {
	return (g.Phase + g.Block - 1) / g.Block, (g.Stride + g.Block - 1) / g.Block
}

// Count returns the number of blocks of a file of size bytes.
func (g Grid) Count(size int64) int64 {
	if size <= 0 {
		return 0
	}
	return g.Index(size-1) + 1
}

// Range returns where block i of a file of size bytes lies.
func (g Grid) Range(i, size int64) (off, n int64) {
	end := (i + 1) * g.Block
	switch head, each := g.pieces(); {
	case g.Stride > 0 && i < head:
		off, end = i*g.Block, min(end, g.Phase)
	case g.Stride > 0:
		start := g.Phase + (i-head)/each*g.Stride
		off = start + (i-head)%each*g.Block
		end = min(off+g.Block, start+g.Stride)
	case g.Phase > 0:
		if i > 0 {
			off = g.Phase + (i-1)*g.Block
		}
		end = g.Phase + i*g.Block
	default:
		off = i * g.Block
	}
	return off, min(end, size) - off
}

// Index returns the block that holds byte off.
func (g Grid) Index(off int64) int64 {
	if off < g.Phase {
		return off / g.Block
	}
	head, each := g.pieces()
	if g.Stride > 0 {
		return head + (off-g.Phase)/g.Stride*each + (off-g.Phase)%g.Stride/g.Block
	}
	return head + (off-g.Phase)/g.Block
}

// An Extent is a run of bytes of a file.
type Extent struct {
	Offset, Length int64
}

// End returns the offset behind the run.
func (e Extent) End() int64 { return e.Offset + e.Length }
