//go:build !(linux || freebsd || darwin)

package raw

// DataAt implements Sparse. This system does not tell holes: all is data.
func (f *File) DataAt(off int64) (start, end int64, err error) {
	return min(off, f.size), f.size, nil
}
