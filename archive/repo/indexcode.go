package repo

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"tarvm/delta"
	"tarvm/manifest"
)

// The records of the index, FORMAT.md section 4: JSON would take four times as long to read as all else that a
// repository of ten thousand entries asks for.

// minRecord is less than any record has, in bytes.
const minRecord = 100

// Flags of a record.
const (
	flagMemory = 1 << iota
	flagLive
	flagMissing
	flagParent
	flagMachine
	flagAt
	flagDiskID
)

// appendEntry appends the record of an entry.
func appendEntry(b []byte, e *Entry) []byte {
	str := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	var flags byte
	for i, on := range []bool{e.Memory, e.Live, e.Missing, e.Parent != nil, e.Machine != nil, e.At != nil, !e.DiskID.IsZero()} {
		if on {
			flags |= 1 << i
		}
	}
	b = append(b, flags)
	b = binary.AppendVarint(b, int64(e.Number))
	b = append(b, e.ID[:]...)
	b = append(b, e.Digest[:]...)
	str(string(e.Kind))
	if p := e.Parent; p != nil {
		b = append(b, p.ID[:]...)
		b = append(b, p.Digest[:]...)
		str(p.Name)
	}
	str(e.Project)
	str(e.Name)
	str(e.Note)
	b = binary.AppendUvarint(b, uint64(len(e.Labels)))
	keys := make([]string, 0, len(e.Labels))
	for k := range e.Labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		str(k)
		str(e.Labels[k])
	}
	b = binary.AppendVarint(b, e.Time.Unix())
	b = binary.AppendVarint(b, int64(e.Time.Nanosecond()))
	if !e.DiskID.IsZero() {
		b = append(b, e.DiskID[:]...)
	}
	if m := e.Machine; m != nil {
		str(m.Name)
		str(m.UUID)
	}
	b = binary.AppendVarint(b, e.Block)
	str(e.Codec)
	for _, n := range counts(&e.Stats) {
		b = binary.AppendVarint(b, *n)
	}
	str(e.File)
	b = binary.AppendVarint(b, e.Size)
	if a := e.At; a != nil {
		str(a.Place)
		str(a.File)
		str(a.URL)
		str(a.Name)
		b = binary.AppendVarint(b, a.Size)
		str(a.SHA)
		b = append(b, a.ID[:]...)
		b = append(b, a.Digest[:]...)
	}
	return b
}

// counts are the numbers of a record's statistics, in their order.
func counts(s *manifest.Stats) [11]*int64 {
	return [11]*int64{
		&s.Members, &s.Files, &s.Bytes, &s.Zero, &s.Stored, &s.Unchanged, &s.Same, &s.Data, &s.Copy, &s.Self, &s.Zeroed,
	}
}

// errIndex: the index is none of this version.
var errIndex = errors.New("index is damaged")

// recordReader reads records. All strings are parts of one, so that they cost nothing.
type recordReader struct {
	b   []byte
	s   string // the same
	off int
	bad bool
}

func (r *recordReader) int() int64 {
	v, n := binary.Varint(r.b[r.off:])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.off += n
	return v
}

func (r *recordReader) uint() uint64 {
	v, n := binary.Uvarint(r.b[r.off:])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.off += n
	return v
}

func (r *recordReader) str() string {
	n := r.uint()
	if r.bad || n > uint64(len(r.b)-r.off) {
		r.bad = true
		return ""
	}
	s := r.s[r.off : r.off+int(n)]
	r.off += int(n)
	return s
}

func (r *recordReader) digest() (d delta.Digest) {
	if len(r.b)-r.off < len(d) {
		r.bad = true
		return d
	}
	r.off += copy(d[:], r.b[r.off:])
	return d
}

// decodeEntries reads count records.
func decodeEntries(b []byte, count int) ([]Entry, error) {
	if count < 0 || count > len(b)/minRecord {
		return nil, errIndex
	}
	r := &recordReader{b: b, s: string(b)}
	es := make([]Entry, count)
	parents := make([]manifest.Parent, count)
	machines := make([]manifest.Machine, count)
	for i := range es {
		e := &es[i]
		if r.off >= len(b) {
			return nil, errIndex
		}
		flags := b[r.off]
		r.off++
		n := r.int()
		if n < 1 || n > maxNumber {
			return nil, errIndex
		}
		e.Number = int(n)
		e.ID, e.Digest = r.digest(), r.digest()
		e.Kind = Kind(r.str())
		if flags&flagParent != 0 {
			parents[i] = manifest.Parent{ID: r.digest(), Digest: r.digest(), Name: r.str()}
			e.Parent = &parents[i]
		}
		e.Project, e.Name, e.Note = r.str(), r.str(), r.str()
		labels := r.uint()
		if labels > uint64(len(b)-r.off)/2 {
			return nil, errIndex
		}
		if labels > 0 {
			e.Labels = make(map[string]string, labels)
			for range labels {
				k := r.str()
				e.Labels[k] = r.str()
			}
		}
		sec := r.int()
		e.Time = manifest.Time{Time: time.Unix(sec, r.int()).UTC()}
		if flags&flagDiskID != 0 {
			e.DiskID = r.digest()
		}
		if flags&flagMachine != 0 {
			machines[i] = manifest.Machine{Name: r.str(), UUID: r.str()}
			e.Machine = &machines[i]
		}
		e.Memory, e.Live, e.Missing = flags&flagMemory != 0, flags&flagLive != 0, flags&flagMissing != 0
		e.Block, e.Codec = r.int(), r.str()
		for _, n := range counts(&e.Stats) {
			*n = r.int()
		}
		e.File, e.Size = r.str(), r.int()
		if flags&flagAt != 0 {
			e.At = &At{Place: r.str(), File: r.str(), URL: r.str(), Name: r.str(), Size: r.int(), SHA: r.str(), ID: r.digest(), Digest: r.digest()}
		}
		if r.bad {
			return nil, errIndex
		}
	}
	if r.off != len(b) {
		return nil, errIndex
	}
	return es, nil
}
