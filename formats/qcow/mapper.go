package qcow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"time"

	"tarvm/formats"
	"tarvm/formats/internal/inflate"
	"tarvm/formats/internal/parse"
)

// Entries of L1 and L2 tables are u64: file offsets in bytes, 0: nothing. Of an L2
// entry, with n bits of the cluster, bit 63 says that the cluster is compressed; then
// bits 63-n to 62 are how many bytes it has, and what is below is where they begin.
const (
	flagCompressed = 1 << 63

	sector     = 512 // what the offset of a cluster that is not compressed is a multiple of
	cacheLimit = 4 << 20
	maxRun     = 1024 // entries that one MapAt looks at, so that small reads in a large run stay cheap
)

// Open implements formats.Format. It reads the header alone. An encrypted image is
// ErrUnsupported. Of the parent the format is not recorded.
func (Format) Open(src formats.Source, _ formats.OpenOptions) (*formats.Image, error) {
	h, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	switch h.crypt {
	case 0:
	case 1:
		return nil, h.m.Unsupported("encryption", offCrypt, "AES")
	default:
		return nil, h.m.Unsupported("encryption", offCrypt, "method %d", h.crypt)
	}
	if h.l1 < headerLen {
		return nil, h.m.Corrupt("L1 table", offL1, "offset 0x%x lies in the header", h.l1)
	}
	im := &image{header: h, covers: h.l2 * h.Unit, cache: parse.NewCache(h.m, cacheLimit), bare: formats.Hole}
	im.table = im.tableAt("L1 table", h.l1, h.l1Size)
	img := &formats.Image{
		Header: h.Header, Map: im, Files: []formats.Source{src}, Inflate: im.inflate, Check: im.check,
		Facts: []formats.Fact{
			{Name: "cluster size", Value: fmt.Sprint(h.Unit)},
			{Name: "L2 entries", Value: fmt.Sprint(h.l2)},
		},
	}
	if h.ParentHint != "" {
		img.Parent = &formats.ParentRef{Names: []string{h.ParentHint}}
		im.bare = formats.Parent
		if h.time != 0 {
			t := time.Unix(int64(h.time), 0).UTC().Format(time.RFC3339)
			img.Facts = append(img.Facts, formats.Fact{Name: "parent's time", Value: t})
		}
	}
	return img, nil
}

// An image maps a QCOW disk.
type image struct {
	*header
	covers int64 // guest bytes of an L1 entry
	table  parse.Table
	cache  *parse.Cache
	bare   formats.Kind // of what is not stored: Parent or Hole
}

func (im *image) tableAt(name string, off, count int64) parse.Table {
	return parse.Table{Name: name, Off: off, Count: count, Width: 8, Order: binary.BigEndian, Cache: im.cache}
}

// Size implements formats.Mapper.
func (im *image) Size() int64 { return im.VirtualSize }

// MapAt implements formats.Mapper.
func (im *image) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= im.VirtualSize {
		return formats.Extent{}, io.EOF
	}
	i := off / im.covers
	v, n, err := im.table.Run(i, im.table.Count-i, func(v, entry uint64, _ int64) bool { return v == 0 && entry == 0 })
	if err != nil {
		return formats.Extent{}, err
	}
	if v == 0 {
		e := formats.Extent{Offset: i * im.covers, Length: im.VirtualSize - i*im.covers, Kind: im.bare}
		if i+n < im.table.Count {
			e.Length = n * im.covers
		}
		return e, nil
	}
	if err := im.l2At(v, i); err != nil {
		return formats.Extent{}, err
	}
	l2 := im.tableAt("L2 table", int64(v), im.l2)
	k := off % im.covers / im.Unit
	v, n, err = l2.Run(k, min(maxRun, l2.Count-k), func(v, entry uint64, n int64) bool {
		if v == 0 {
			return entry == 0
		}
		return v&flagCompressed == 0 && entry == v+uint64(n*im.Unit)
	})
	if err != nil {
		return formats.Extent{}, err
	}
	return im.extent(v, n, i*im.covers+k*im.Unit, off, l2.Off+8*k)
}

// extent makes the run of n clusters from guest on, of which the L2 entry at file
// offset at is v, as far as it is whole and not in a table. It must hold off.
func (im *image) extent(v uint64, n, guest, off, at int64) (formats.Extent, error) {
	e := formats.Extent{Offset: guest, Length: min(n*im.Unit, im.VirtualSize-guest), Kind: im.bare}
	switch {
	case v == 0:
		return e, nil
	case v&flagCompressed != 0:
		shift := 63 - bits.TrailingZeros64(uint64(im.Unit))
		e.Kind, e.Host = formats.Compressed, int64(v&(1<<shift-1))
		e.Stored = int64(v>>shift) & (im.Unit - 1)
		if e.Stored == 0 || !im.m.Inside(e.Host, e.Stored) {
			return e, im.m.Corrupt("L2 entry", at, "%d compressed bytes at 0x%x, in a file of %d", e.Stored, e.Host, im.m.Size())
		}
		if im.inTables(e.Host, e.Stored) {
			return e, im.m.Corrupt("L2 entry", at, "the compressed cluster at 0x%x lies in the header or the L1 table", e.Host)
		}
		return e, nil
	case v%sector != 0:
		return e, im.m.Corrupt("L2 entry", at, "offset 0x%x is not a multiple of %d", v, sector)
	}
	e.Kind, e.Host = formats.Data, int64(v) // bit 63 is not set
	if e.Host < im.l1 {
		e.Length = min(e.Length, (im.l1-e.Host)/im.Unit*im.Unit)
	}
	if e.Length <= off-guest || im.inTables(e.Host, e.Length) {
		return e, im.m.Corrupt("L2 entry", at, "the cluster at 0x%x lies in the header or the L1 table", v)
	}
	if left := im.m.Size() - e.Host; left < e.Length {
		if off-guest >= left {
			return e, im.m.Corrupt("L2 entry", at, "the cluster at 0x%x passes end of file at %d", e.Host+(off-guest)/im.Unit*im.Unit, im.m.Size())
		}
		e.Length = left
	}
	return e, nil
}

// l2At checks entry i of the L1 table.
func (im *image) l2At(v uint64, i int64) error {
	at, n := im.l1+8*i, 8*im.l2
	if v&flagCompressed != 0 || !im.m.Inside(int64(v), n) {
		return im.m.Corrupt("L1 entry", at, "the L2 table at 0x%x passes end of file at %d", v, im.m.Size())
	}
	if im.inTables(int64(v), n) {
		return im.m.Corrupt("L1 entry", at, "the L2 table at 0x%x lies in the header or the L1 table", v)
	}
	return nil
}

// inTables reports whether any of the n bytes at off are the header's or the L1
// table's.
func (im *image) inTables(off, n int64) bool {
	return off < headerLen || off < im.l1+8*im.l1Size && im.l1 < off+n
}

// An inflater decodes one cluster after the other.
type inflater struct {
	d  inflate.Decoder
	in []byte
}

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

// inflate implements formats.Image.Inflate. Deflate streams have no header.
func (im *image) inflate(e formats.Extent, dst []byte) error {
	if e.Stored <= 0 || e.Stored >= im.Unit || !im.m.Inside(e.Host, e.Stored) {
		return im.m.Corrupt("compressed cluster", e.Host, "%d bytes", e.Stored)
	}
	f := inflaters.Get().(*inflater) //nolint:forcetypeassert // the pool holds nothing else
	defer inflaters.Put(f)
	if int64(cap(f.in)) < e.Stored {
		f.in = make([]byte, im.Unit)
	}
	b := f.in[:e.Stored]
	if n, err := im.m.ReadAt(b, e.Host); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return &formats.FormatError{Format: Name, Structure: "compressed cluster", Offset: e.Host, Err: err}
	}
	n, _, err := f.d.Deflate(dst, b)
	if n == len(dst) {
		return nil // the disk may end in the cluster
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return im.m.Corrupt("compressed cluster", e.Host, "%d bytes give %d of %d: %v", len(b), n, len(dst), err)
}
