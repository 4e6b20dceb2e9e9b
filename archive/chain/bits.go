package chain

import (
	"math/bits"
	"sync/atomic"
)

// bitset is a set of block numbers. Set and has may run at once.
type bitset []uint64

func newBitset(n int64) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(i int64) { atomic.OrUint64(&b[i/64], 1<<(i%64)) }

func (b bitset) has(i int64) bool { return b != nil && atomic.LoadUint64(&b[i/64])&(1<<(i%64)) != 0 }

func (b bitset) count() int64 {
	var n int
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return int64(n)
}
