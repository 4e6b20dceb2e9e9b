package qcow2

import (
	"math"
	"slices"

	"tarvm/formats"
)

// A role is what a cluster is used for.
type role uint8

const (
	roleTable  role = 1 << iota // header, L1 and refcount table, what snapshots and bitmaps have
	roleBlock                   // refcount block
	roleL2                      // L2 table
	roleData                    // guest data
	roleWalked                  // L2 table whose entries were counted
)

// String names the first role that r holds.
func (r role) String() string {
	switch {
	case r&roleTable != 0:
		return "a table"
	case r&roleBlock != 0:
		return "a refcount block"
	case r&roleL2 != 0:
		return "an L2 table"
	}
	return "guest data"
}

const (
	usePageLen = 1024 // clusters
	// 512 MiB: a file of 16 TiB of the usual clusters, all in use.
	maxUsePages = 512 << 20 / (2 * usePageLen)
	manyUses    = math.MaxUint8
)

// A usePage counts the uses of neighbouring clusters.
type usePage struct {
	n    [usePageLen]uint8 // manyUses: see many
	role [usePageLen]role
	many map[int]uint64
}

func (p *usePage) get(k int) uint64 {
	if p.n[k] == manyUses {
		return p.many[k]
	}
	return uint64(p.n[k])
}

func (p *usePage) add(k int, times uint64) {
	sum := p.get(k) + times
	if sum < times {
		sum = math.MaxUint64
	}
	if sum < manyUses {
		p.n[k] = uint8(sum)
		return
	}
	if p.many == nil {
		p.many = make(map[int]uint64)
	}
	p.n[k], p.many[k] = manyUses, sum
}

// uses counts the uses of all clusters, in memory for those that are used.
type uses struct {
	pages map[int64]*usePage
	last  *usePage
	index int64 // of last
}

// page returns where cluster is counted; nil: there are too many.
func (u *uses) page(cluster int64) (*usePage, int) {
	i, k := cluster/usePageLen, int(cluster%usePageLen)
	if u.last != nil && u.index == i {
		return u.last, k
	}
	p := u.pages[i]
	if p == nil {
		if len(u.pages) == maxUsePages {
			return nil, 0
		}
		p = new(usePage)
		u.pages[i] = p
	}
	u.last, u.index = p, i
	return p, k
}

// perBlock is how many refcounts a block has.
func (im *image) perBlock() int64 { return im.unit * 8 >> im.refOrder }

// refcount returns number k of the refcounts b, which have 1<<order bits each.
func refcount(b []byte, k int64, order uint32) uint64 {
	switch order {
	case 0, 1, 2: // the first is in the lowest bits
		per := int64(8) >> order
		return uint64(b[k/per]) >> (k % per << order) & (1<<(1<<order) - 1)
	case 3:
		return uint64(b[k])
	case 4:
		return uint64(bigEndian.Uint16(b[2*k:]))
	case 5:
		return uint64(bigEndian.Uint32(b[4*k:]))
	}
	return bigEndian.Uint64(b[8*k:])
}

// blockAt returns where the refcount block i is; 0: it is missing or of no use.
// known is false for the latter.
func (c *checker) blockAt(i int64) (off int64, known bool, err error) {
	if i >= c.im.refs.Count {
		return 0, true, nil
	}
	if c.bad[i/64]>>(i%64)&1 != 0 {
		return 0, false, nil
	}
	v, err := c.im.refs.At(i)
	return int64(v &^ 511), true, err
}

// refPage is how much of a refcount block is read at a time.
const refPage = 64 << 10

// recorded returns the refcount that the image keeps for a cluster, and whether
// it can be known.
func (c *checker) recorded(cluster int64) (n uint64, known bool, err error) {
	im := c.im
	if im.refs.Count == 0 {
		return 0, false, nil
	}
	per := im.perBlock()
	off, known, err := c.blockAt(cluster / per)
	if err != nil || !known || off == 0 {
		return 0, known, err
	}
	size := min(refPage, im.unit)
	perPage := size * 8 >> im.refOrder
	at := off + cluster%per/perPage*size
	if c.at != at {
		if c.block, err = im.cache.Bytes("refcount block", at, size); err != nil {
			return 0, false, err
		}
		c.at = at
	}
	return refcount(c.block, cluster%per%perPage, im.refOrder), true, nil
}

// A mismatch is a run of clusters whose refcounts are wrong in the same way.
type mismatch struct {
	first, n       int64
	recorded, used uint64
}

// compare compares the image's refcounts with the uses that were counted.
func (c *checker) compare() error {
	im := c.im
	if im.refs.Count == 0 {
		return nil // a problem since the image was opened
	}
	per := im.perBlock()
	for i := range im.refs.Count {
		off, _, err := c.blockAt(i)
		if err != nil {
			return err
		}
		if off == 0 {
			continue
		}
		if err := c.compareBlock(off, i*per); err != nil {
			return err
		}
	}
	// What no block counts has refcount 0.
	var rest []int64
	for i := range c.uses.pages {
		rest = append(rest, i)
	}
	slices.Sort(rest)
	for _, i := range rest {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		p, missing := c.uses.pages[i], false
		for k := range p.n {
			cluster := i*usePageLen + int64(k)
			if k == 0 || cluster%per == 0 {
				off, _, err := c.blockAt(cluster / per)
				if err != nil {
					return err
				}
				missing = off == 0
			}
			if n := p.get(k); missing && n != 0 {
				c.mismatch(cluster, 0, n)
			}
		}
	}
	c.flush()
	return nil
}

// compareBlock compares the refcounts of the block at off, the first of which is
// that of cluster first.
func (c *checker) compareBlock(off, first int64) error {
	im := c.im
	size := min(refPage, im.unit)
	perPage := size * 8 >> im.refOrder
	for at := off; at < off+im.unit; at += size {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		b, err := im.cache.Bytes("refcount block", at, size)
		if err != nil {
			return err
		}
		// Where all refcounts are 0 only clusters in use matter.
		empty := formats.IsZero(b)
		for k := int64(0); k < perPage; {
			cluster := first + k
			n := min(perPage-k, usePageLen-cluster%usePageLen)
			p := c.uses.pages[cluster/usePageLen]
			if p == nil && empty {
				k += n
				continue
			}
			for range n {
				var used uint64
				if p != nil {
					used = p.get(int(cluster % usePageLen))
				}
				if r := refcount(b, k, im.refOrder); r != used {
					c.mismatch(cluster, r, used)
				}
				k++
				cluster++
			}
		}
		first += perPage
	}
	return nil
}

func (c *checker) mismatch(cluster int64, recorded, used uint64) {
	if r := &c.run; r.n > 0 && r.first+r.n == cluster && r.recorded == recorded && r.used == used {
		r.n++
		return
	}
	c.flush()
	c.run = mismatch{cluster, 1, recorded, used}
}

// flush reports the run of mismatches.
func (c *checker) flush() {
	r := c.run
	c.run = mismatch{}
	if r.n == 0 {
		return
	}
	severity := formats.Leak
	if r.recorded < r.used {
		severity = formats.Risk
		if c.im.incompat&incompatDirty != 0 {
			severity = formats.Note // whoever writes to the image makes refcounts anew first
		}
	}
	off := int64(-1)
	if r.first <= math.MaxInt64>>c.im.clusterBits {
		off = r.first << c.im.clusterBits
	}
	c.problem(severity, "refcount", off, "%d clusters from cluster %d on have refcount %d and are used %d times",
		r.n, r.first, r.recorded, r.used)
}
