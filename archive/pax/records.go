package pax

import (
	"maps"
	"strings"
	"time"
)

// records is what extended headers say about a member.
type records struct {
	path, linkpath, uname, gname text
	size, uid, gid               number
	mtime                        struct {
		set bool
		t   time.Time
	}
	xattrs, other map[string]string
	sparse        sparseRecords
}

type text struct {
	set bool
	s   string
}

type number struct {
	set bool
	n   int64
}

// sparseRecords are the GNU.sparse keys of all three pax forms.
type sparseRecords struct {
	any                             bool
	major, minor                    text
	name                            text
	size, realsize, numblocks       number
	ext                             []Extent // from GNU.sparse.map, or GNU.sparse.offset and GNU.sparse.numbytes
	hasMap, hasPairs, offsetPending bool
	offset                          int64
}

// clone returns a copy that can be added to.
func (r *records) clone() records {
	c := *r
	c.xattrs, c.other = maps.Clone(r.xattrs), maps.Clone(r.other)
	return c
}

// parse adds the records in b. On an error it returns where in b the record starts, and its key.
func (r *records) parse(b string, global bool, maxExtents int) (at int, key string, err error) {
	all := len(b)
	for b != "" {
		at = all - len(b)
		digits, rest, ok := strings.Cut(b, " ")
		n, isNumber := parseDecimal(digits)
		if !ok || !isNumber || n > int64(len(b)) || n <= int64(len(digits))+1 {
			return at, "", headerErr("record length %q in %d bytes", digits[:min(len(digits), 20)], len(b))
		}
		rest = rest[:int(n)-len(digits)-1]
		if rest[len(rest)-1] != '\n' {
			return at, "", headerErr("record of %d bytes has no newline at its end", n)
		}
		k, v, ok := strings.Cut(rest[:len(rest)-1], "=")
		if !ok || k == "" || strings.IndexByte(k, 0) >= 0 {
			return at, "", headerErr("record of %d bytes has no key", n)
		}
		if err := r.add(k, v, global, maxExtents); err != nil {
			return at, k, err
		}
		b = b[n:]
	}
	if r.sparse.offsetPending {
		return all, keySparseOffset, headerErr("no %s follows", keySparseNumbytes)
	}
	return 0, "", nil
}

func (r *records) add(k, v string, global bool, maxExtents int) error {
	if global {
		switch {
		case k == keyPath, k == keyLinkpath, k == keySize, strings.HasPrefix(k, keySparse):
			return headerErr("in a global header, where readers differ")
		}
	}
	switch k {
	case keyPath:
		return r.path.put(v)
	case keyLinkpath:
		return r.linkpath.put(v)
	case keyUname:
		return r.uname.put(v)
	case keyGname:
		return r.gname.put(v)
	case keySize:
		return r.size.put(v)
	case keyUID:
		return r.uid.put(v)
	case keyGID:
		return r.gid.put(v)
	case keyMtime:
		r.mtime.set = v != ""
		if v == "" {
			return nil
		}
		t, ok := parseTime(v)
		if !ok {
			return headerErr("time %q", clip(v))
		}
		r.mtime.t = t
		return nil
	case keyCharset:
		return nil // names are bytes here
	}
	if name, ok := strings.CutPrefix(k, keyXattr); ok {
		if name == "" {
			return headerErr("extended attribute without a name")
		}
		if r.xattrs == nil {
			r.xattrs = make(map[string]string)
		}
		r.xattrs[unescapeXattr(name)] = v
		return nil
	}
	if strings.HasPrefix(k, keySparse) {
		return r.sparse.add(k, v, maxExtents)
	}
	if v == "" {
		delete(r.other, k)
		return nil
	}
	if r.other == nil {
		r.other = make(map[string]string)
	}
	r.other[k] = v
	return nil
}

func (s *sparseRecords) add(k, v string, maxExtents int) error {
	s.any = true
	if v == "" {
		return headerErr("empty, which not all readers take as a sparse file")
	}
	if s.offsetPending && k != keySparseNumbytes {
		return headerErr("between %s and %s", keySparseOffset, keySparseNumbytes)
	}
	switch k {
	case keySparseMajor:
		return s.major.put(v)
	case keySparseMinor:
		return s.minor.put(v)
	case keySparseName:
		return s.name.put(v)
	case keySparseSize:
		return s.size.put(v)
	case keySparseRealsize:
		return s.realsize.put(v)
	case keySparseNumblocks:
		return s.numblocks.put(v)
	case keySparseMap:
		s.hasMap, s.ext = true, nil
		for rest, more := v, true; more; {
			var off, length string
			var ok1, ok2 bool
			off, rest, _ = strings.Cut(rest, ",")
			length, rest, more = strings.Cut(rest, ",")
			var e Extent
			e.Offset, ok1 = parseDecimal(off)
			e.Length, ok2 = parseDecimal(length)
			if !ok1 || !ok2 {
				return headerErr("map entry %q,%q", clip(off), clip(length))
			}
			if err := s.put(e, maxExtents); err != nil {
				return err
			}
		}
		return nil
	case keySparseOffset, keySparseNumbytes:
		n, ok := parseDecimal(v)
		if !ok {
			return headerErr("number %q", clip(v))
		}
		s.hasPairs = true
		if k == keySparseOffset {
			s.offset, s.offsetPending = n, true
			return nil
		}
		if !s.offsetPending {
			return headerErr("no %s before it", keySparseOffset)
		}
		s.offsetPending = false
		return s.put(Extent{s.offset, n}, maxExtents)
	}
	return headerErr("unknown key")
}

func (s *sparseRecords) put(e Extent, maxExtents int) error {
	if len(s.ext) >= maxExtents {
		return tooLarge("sparse map has more than %d entries; raise MaxExtents", maxExtents)
	}
	s.ext = append(s.ext, e)
	return nil
}

// sparseForm is how a member says that it is sparse.
type sparseForm int

const (
	notSparse    sparseForm = iota
	sparseGNU               // type S
	sparseInPax             // pax 0.0 or 0.1: map in the records
	sparseInBody            // pax 1.0: map before the data
)

// form decides by the records, and checks that they are complete and without contradiction.
func (s *sparseRecords) form() (sparseForm, error) {
	if !s.any {
		return notSparse, nil
	}
	version := ""
	if s.major.set || s.minor.set {
		version = s.major.s + "." + s.minor.s
	}
	switch version {
	case "1.0":
		if s.hasMap || s.hasPairs || s.numblocks.set || s.size.set || !s.realsize.set {
			return 0, headerErr("keys of version 1.0 are missing or mixed with those of another")
		}
		return sparseInBody, nil
	case "", "0.0", "0.1":
		if s.hasMap == s.hasPairs || !s.size.set || s.realsize.set || !s.numblocks.set {
			return 0, headerErr("keys of version 0 are missing or mixed with those of another")
		}
		if s.numblocks.n != int64(len(s.ext)) {
			return 0, headerErr("%d entries, %s says %d", len(s.ext), keySparseNumblocks, s.numblocks.n)
		}
		return sparseInPax, nil
	}
	return 0, unsupported("sparse version %q", clip(version))
}

// put keeps an empty value as "nothing said": it stands for the header's own field.
func (t *text) put(v string) error {
	if strings.IndexByte(v, 0) >= 0 {
		return headerErr("holds a NUL byte")
	}
	t.set, t.s = v != "", v
	return nil
}

func (n *number) put(v string) error {
	if v == "" {
		*n = number{}
		return nil
	}
	x, ok := parseDecimal(v)
	if !ok {
		return headerErr("number %q", clip(v))
	}
	*n = number{true, x}
	return nil
}
