package pax

import "slices"

// LimitExtentsTo is LimitExtents with a limit that tests can reach.
func LimitExtentsTo(ext []Extent, size, limit int64) []Extent { return limitExtents(ext, size, limit) }

// AlignExtents extends runs to block borders.
func AlignExtents(ext []Extent, size int64) []Extent { return alignExtents(ext, size) }

// MapLen is the unpadded length of a map.
func MapLen(ext []Extent, size int64) int64 { return mapLen(ext, size) }

// CloseAllBut closes the smallest holes one by one until n holes are left.
func CloseAllBut(ext []Extent, n int) []Extent {
	ext = slices.Clone(ext)
	for len(ext) > n+1 {
		best := 1
		for i := 1; i < len(ext); i++ {
			gap := func(i int) int64 { return ext[i].Offset - ext[i-1].Offset - ext[i-1].Length }
			if gap(i) < gap(best) {
				best = i
			}
		}
		ext[best-1].Length = ext[best].Offset + ext[best].Length - ext[best-1].Offset
		ext = slices.Delete(ext, best, best+1)
	}
	return ext
}

// HeaderOnly tells types without a body.
func (t Type) HeaderOnly() bool { return t.headerOnly() }
