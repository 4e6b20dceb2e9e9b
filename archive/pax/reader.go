package pax

import (
	"bytes"
	"io"
	"math"
	"strings"
	"time"
)

// ReaderOptions are limits; the zero value works.
type ReaderOptions struct {
	// Offset is where in the tar stream the source starts; it is added to all offsets reported. It must be at a member.
	Offset int64
	// MaxHeader limits each extended header, long name and GNU directory list, in bytes. 0: the constant MaxHeader.
	MaxHeader int64
	// MaxExtents limits the entries of a sparse map, each of which takes 16 bytes of memory. 0: DefaultMaxExtents.
	MaxExtents int
}

func (o ReaderOptions) withDefaults() ReaderOptions {
	if o.MaxHeader <= 0 {
		o.MaxHeader = MaxHeader
	}
	if o.MaxExtents <= 0 {
		o.MaxExtents = DefaultMaxExtents
	}
	return o
}

// A Reader reads the members of a tar stream one after the other. It reads only what it returns or skips, nothing ahead,
// and in small pieces: a source for which that is slow wants a bufio.Reader. If the source is an io.Seeker that can seek,
// long bodies are skipped by seeking. The first error is final. A Reader is for one goroutine.
type Reader struct {
	src    io.Reader
	seeker io.Seeker // nil if the source cannot seek
	opt    ReaderOptions
	off    int64 // of the next byte of src
	left   int64 // stored bytes not yet read
	pad    int64 // bytes after them
	err    error

	member       string // for errors
	blk          block
	buf          []byte  // body of an extended header
	scratch      []byte  // to skip through
	rec          records // of the member being read
	global       records
	hasGlobal    bool
	uname, gname string // of the last member: most have the same
}

// NewReader returns a Reader of r, which starts at a member's first header block.
func NewReader(r io.Reader, o ReaderOptions) *Reader {
	rd := &Reader{src: r, opt: o.withDefaults(), off: o.Offset}
	rd.seeker, _ = r.(io.Seeker)
	return rd
}

// Offset returns the offset in the tar stream of the next byte that will be read from the source.
func (r *Reader) Offset() int64 { return r.off }

// Next skips what is left of the current member and returns the next one's header, which is the caller's to keep. After
// the two blocks of zeros that end an archive it returns io.EOF; what may follow (tar pads to 10 KiB) is not read. Any
// other error is a *FormatError: ErrNoEnd if the source ends without these blocks but between members, ErrTruncated if inside one,
// ErrHeader, ErrTooLarge, ErrUnsupported, or the source's own.
func (r *Reader) Next() (*Header, error) {
	if r.err != nil {
		return nil, r.err
	}
	h, err := r.next()
	if err != nil {
		r.err = err
		r.left, r.pad = 0, 0
		return nil, err
	}
	return h, nil
}

// Read reads the stored bytes of the current member: the file's bytes, or those of a sparse file's runs one after the
// other, without the map. It returns io.EOF at their end.
func (r *Reader) Read(p []byte) (int, error) {
	switch {
	case r.err != nil:
		return 0, r.err
	case r.left == 0:
		return 0, io.EOF
	}
	n, err := r.src.Read(p[:min(int64(len(p)), r.left)])
	r.off += int64(n)
	r.left -= int64(n)
	switch {
	case err == nil || err == io.EOF && r.left == 0:
		return n, nil
	case err == io.EOF:
		err = ErrTruncated
	}
	r.err = r.fail(r.off, "body", err)
	return n, r.err
}

func (r *Reader) fail(off int64, field string, err error) error {
	return &FormatError{Offset: off, Member: r.member, Field: field, Err: err}
}

// pending is what precedes a member's own header block.
type pending struct {
	rec                *records // of an extended header
	longName, longLink text
}

func (p *pending) empty() bool { return p.rec == nil && !p.longName.set && !p.longLink.set }

func (r *Reader) next() (*Header, error) {
	if err := r.skip(r.left + r.pad); err != nil {
		return nil, err
	}
	r.left, r.pad, r.member = 0, 0, ""
	start := r.off
	var p pending
	for {
		at := r.off
		if err := r.readBlock(p.empty()); err != nil {
			return nil, err
		}
		if r.blk == zeroBlock {
			return nil, r.end(at, p.empty())
		}
		if err := r.checksum(at); err != nil {
			return nil, err
		}
		switch typ := r.blk[posType]; typ {
		case typeExtended, typeGlobal, typeLongName, typeLongLink:
			if err := r.extension(at, typ, &p); err != nil {
				return nil, err
			}
			if typ == typeGlobal {
				start = r.off
			}
		default:
			return r.memberHeader(start, at, &p)
		}
	}
}

// end reads the second of the blocks that end an archive.
func (r *Reader) end(at int64, clean bool) error {
	if !clean {
		return r.fail(at, "header", headerErr("extended header before the end of the archive"))
	}
	if err := r.readBlock(true); err != nil {
		return err
	}
	if r.blk != zeroBlock {
		return r.fail(at, "header", headerErr("a single block of zeros"))
	}
	return io.EOF
}

// readBlock fills r.blk. border says that the source may end before it, as far as members are concerned.
func (r *Reader) readBlock(border bool) error {
	at := r.off
	n, err := r.fill(r.blk[:])
	switch {
	case err == nil:
		return nil
	case err != io.EOF:
	case n == 0 && border:
		err = ErrNoEnd
	default:
		err = ErrTruncated
	}
	return r.fail(at+int64(n), "header", err)
}

// fill is io.ReadFull, except that the end of the source is always io.EOF and that a source which neither reads nor fails
// does not hold it forever.
func (r *Reader) fill(p []byte) (n int, err error) {
	for idle := 0; n < len(p); {
		var k int
		k, err = r.src.Read(p[n:])
		n += k
		r.off += int64(k)
		if n == len(p) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if k > 0 {
			idle = 0
		} else if idle++; idle >= 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// skip reads or seeks over n bytes.
func (r *Reader) skip(n int64) error {
	// Seeking succeeds past the end of a file, so the last byte is read.
	if r.seeker != nil && n > 64<<10 {
		if _, err := r.seeker.Seek(n-1, io.SeekCurrent); err == nil {
			r.off += n - 1
			n = 1
		} else {
			r.seeker = nil // a pipe
		}
	}
	for n > 0 {
		if r.scratch == nil {
			r.scratch = make([]byte, 32<<10)
		}
		k, err := r.fill(r.scratch[:min(n, int64(len(r.scratch)))])
		n -= int64(k)
		if err == io.EOF {
			err = ErrTruncated
		}
		if err != nil {
			return r.fail(r.off, "body", err)
		}
	}
	return nil
}

func (r *Reader) checksum(at int64) error {
	want, err := parseNumber(r.blk[posChecksum : posChecksum+lenChecksum])
	if err != nil {
		return r.fail(at+posChecksum, "checksum", err)
	}
	unsigned, signed := sums(&r.blk)
	if want != unsigned && want != signed {
		return r.fail(at+posChecksum, "checksum", headerErr("header says %d, its bytes sum to %d", want, unsigned))
	}
	return nil
}

// extension reads the body of an extended header or of a GNU long name.
func (r *Reader) extension(at int64, typ byte, p *pending) error {
	field := "extended header"
	if typ == typeLongName || typ == typeLongLink {
		field = "long name"
	}
	size, err := r.number("size", at, posSize, lenSize)
	if err != nil {
		return err
	}
	body := r.off
	if err := r.readBody(size, field, at); err != nil {
		return err
	}
	twice := func() error {
		return r.fail(at, field, headerErr("two of type %q before one member", typ))
	}
	switch typ {
	case typeLongName, typeLongLink:
		t := &p.longName
		if typ == typeLongLink {
			t = &p.longLink
		}
		if t.set {
			return twice()
		}
		text, _, _ := bytes.Cut(r.buf, []byte{0})
		if len(text) == 0 {
			return r.fail(at, field, headerErr("empty"))
		}
		t.set, t.s = true, string(text)
		return nil
	case typeGlobal:
		if !p.empty() {
			return r.fail(at, field, headerErr("global header between an extended header and its member"))
		}
		r.hasGlobal = true
		return r.parse(&r.global, body, true)
	}
	if p.rec != nil {
		return twice()
	}
	r.rec = r.global.clone()
	p.rec = &r.rec
	return r.parse(p.rec, body, false)
}

func (r *Reader) parse(rec *records, body int64, global bool) error {
	// One string for all records: their values are parts of it.
	at, key, err := rec.parse(string(r.buf), global, r.opt.MaxExtents)
	if err != nil {
		return r.fail(body+int64(at), recordField(key), err)
	}
	return nil
}

// readBody reads a body of size bytes and its padding into r.buf, which grows with what comes.
func (r *Reader) readBody(size int64, field string, at int64) error {
	if size > r.opt.MaxHeader {
		return r.fail(at+posSize, field, tooLarge("%d bytes, the limit is %d; raise MaxHeader", size, r.opt.MaxHeader))
	}
	r.buf = r.buf[:0]
	for left := size; left > 0; {
		n := min(left, 64<<10)
		r.buf = append(r.buf, make([]byte, n)...)
		k, err := r.fill(r.buf[len(r.buf)-int(n):])
		if err == io.EOF {
			err = ErrTruncated
		}
		if err != nil {
			return r.fail(at+BlockSize+size-left+int64(k), field, err)
		}
		left -= n
	}
	return r.skip(Padding(size))
}

// number parses a numeric field that must not be negative. at is the offset of the block.
func (r *Reader) number(name string, at int64, pos, length int) (int64, error) {
	v, err := parseNumber(r.blk[pos : pos+length])
	if err == nil && v < 0 {
		err = headerErr("negative: %d", v)
	}
	if err != nil {
		return 0, r.fail(at+int64(pos), name, err)
	}
	return v, nil
}

// text returns a text field without its NULs.
func (r *Reader) text(pos, length int) []byte {
	b := r.blk[pos : pos+length]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return b
}

// reuse returns b as a string, the last one if they are equal.
func reuse(last *string, b []byte) string {
	if *last != string(b) {
		*last = string(b)
	}
	return *last
}

// memberHeader reads the member whose header block is r.blk.
func (r *Reader) memberHeader(start, at int64, p *pending) (*Header, error) {
	h := &Header{Type: Type(r.blk[posType]), Offset: start}
	rec := p.rec
	if rec == nil && r.hasGlobal {
		r.rec = r.global.clone()
		rec = &r.rec
	}
	if err := r.names(h, p, rec); err != nil {
		return nil, err
	}
	size, err := r.fields(h, at)
	if err != nil {
		return nil, err
	}
	form := notSparse
	if rec != nil {
		h.Format = "pax"
		rec.apply(h)
		if rec.size.set {
			size = rec.size.n
		}
		if form, err = rec.sparse.form(); err != nil {
			return nil, r.fail(at, "sparse records", err)
		}
	}
	if h.Type == typeSparse {
		if form != notSparse {
			return nil, r.fail(at+posType, "type", headerErr("old sparse member with sparse records"))
		}
		form = sparseGNU
		h.Type = TypeReg
	}
	if form != notSparse && (h.Type != TypeReg || strings.HasSuffix(h.Name, "/")) {
		return nil, r.fail(at, "sparse records", headerErr("on %q, type %q", clip(h.Name), byte(h.Type)))
	}
	if err := r.canonical(h, at, size, form); err != nil {
		return nil, err
	}
	if h.Type.headerOnly() && r.blk[posType] != typeDumpdir {
		size = 0
	}
	if size > maxStored-max(r.off, 0) {
		return nil, r.fail(at+posSize, keySize, tooLarge("%d bytes", size))
	}
	if r.blk[posType] == typeDumpdir {
		return h, r.dumpdir(h, at, size)
	}
	h.Size, h.Stored = size, size
	if form != notSparse {
		if err := r.sparse(h, form, rec, at); err != nil {
			return nil, err
		}
	}
	h.Body = r.off
	r.left, r.pad = h.Stored, Padding(h.Stored)
	return h, nil
}

// names sets h.Name and h.Linkname as stored, and r.member.
func (r *Reader) names(h *Header, p *pending, rec *records) error {
	name, link := p.longName, p.longLink
	if rec != nil {
		if name.set && (rec.path.set || rec.sparse.name.set) || link.set && rec.linkpath.set {
			return r.fail(h.Offset, "long name", headerErr("both as GNU long name and as record"))
		}
		switch {
		case rec.sparse.name.set:
			name = rec.sparse.name
		case rec.path.set:
			name = rec.path
		}
		if rec.linkpath.set {
			link = rec.linkpath
		}
	}
	h.Name = name.s
	if !name.set {
		short := r.text(posName, lenName)
		if prefix := r.prefix(); len(prefix) != 0 {
			h.Name = string(prefix) + "/" + string(short)
		} else {
			h.Name = string(short)
		}
	}
	r.member = h.Name
	h.Linkname = link.s
	if !link.set && (h.Type == TypeLink || h.Type == TypeSymlink) {
		h.Linkname = string(r.text(posLinkname, lenLinkname))
	}
	return nil
}

func (r *Reader) isGNU() bool {
	return string(r.blk[posMagic:posMagic+lenMagic]) == magicGNU
}

// isUSTAR looks at the magic only: some writers leave the version out.
func (r *Reader) isUSTAR() bool {
	return string(r.blk[posMagic:posMagic+6]) == magicUSTAR[:6]
}

func (r *Reader) prefix() []byte {
	switch {
	case !r.isUSTAR():
		return nil // GNU has other fields there
	case string(r.blk[posStarTrailer:]) == "tar\x00":
		return r.text(posPrefix, lenStarPrefix)
	}
	return r.text(posPrefix, lenPrefix)
}

// fields reads the other fields of the block and returns its size field.
func (r *Reader) fields(h *Header, at int64) (size int64, err error) {
	if h.Mode, err = r.number("mode", at, posMode, lenMode); err != nil {
		return 0, err
	}
	h.Mode &= 0o7777 // old writers put the file's type there, too
	if h.UID, err = r.number(keyUID, at, posUID, lenUID); err != nil {
		return 0, err
	}
	if h.GID, err = r.number(keyGID, at, posGID, lenGID); err != nil {
		return 0, err
	}
	sec, err := parseNumber(r.blk[posMtime : posMtime+lenMtime])
	if err == nil && (sec > maxSeconds || sec < -maxSeconds) {
		err = tooLarge("%d seconds", sec)
	}
	if err != nil {
		return 0, r.fail(at+posMtime, keyMtime, err)
	}
	h.ModTime = time.Unix(sec, 0).UTC()

	h.Format = "v7"
	if gnu := r.isGNU(); gnu || r.isUSTAR() {
		h.Format = "ustar"
		if gnu {
			h.Format = "gnu"
		}
		h.Uname = reuse(&r.uname, r.text(posUname, lenUname))
		h.Gname = reuse(&r.gname, r.text(posGname, lenGname))
		if h.Type.device() {
			if h.Devmajor, err = r.number("devmajor", at, posDevmajor, lenDevmajor); err != nil {
				return 0, err
			}
			if h.Devminor, err = r.number("devminor", at, posDevminor, lenDevminor); err != nil {
				return 0, err
			}
		}
	}
	return r.number(keySize, at, posSize, lenSize)
}

// apply sets what the records say, except names, size and sparse map.
func (r *records) apply(h *Header) {
	if r.uid.set {
		h.UID = r.uid.n
	}
	if r.gid.set {
		h.GID = r.gid.n
	}
	if r.uname.set {
		h.Uname = r.uname.s
	}
	if r.gname.set {
		h.Gname = r.gname.s
	}
	if r.mtime.set {
		h.ModTime = r.mtime.t
	}
	if len(r.xattrs) != 0 {
		h.Xattrs = r.xattrs
	}
	if len(r.other) != 0 {
		h.Records = r.other
	}
}

// canonical maps old types to new ones and checks the names. size is what the header says.
func (r *Reader) canonical(h *Header, at, size int64, form sparseForm) error {
	slash := strings.HasSuffix(h.Name, "/")
	switch {
	case h.Type == typeOldReg && slash:
		h.Type = TypeDir // v7 has no type for it
	case h.Type == typeOldReg, h.Type == typeCont:
		h.Type = TypeReg
	case h.Type == typeDumpdir:
		h.Type = TypeDir
	}
	if h.Type == TypeReg && slash {
		// GNU tar and bsdtar make a folder, Go and Python a file.
		if size != 0 || form != notSparse {
			return r.fail(at, "name", headerErr("a regular file's name ends in a slash"))
		}
		h.Type = TypeDir
	}
	if h.Type == TypeDir && slash {
		h.Name = strings.TrimRight(h.Name, "/")
		if h.Name == "" {
			h.Name = "/"
		}
		r.member = h.Name
	}
	switch {
	case h.Name == "":
		return r.fail(at+posName, "name", headerErr("empty"))
	case h.Name != "/" && strings.HasSuffix(h.Name, "/"):
		return r.fail(at+posName, "name", headerErr("ends in a slash, type %q", byte(h.Type)))
	case h.Type != TypeLink && h.Type != TypeSymlink:
		h.Linkname = ""
	case h.Linkname == "":
		return r.fail(at+posLinkname, "link target", headerErr("empty"))
	}
	return nil
}

// dumpdir takes the body of an old GNU directory member as the record that a pax archive has for it.
func (r *Reader) dumpdir(h *Header, at, size int64) error {
	if h.Records[keyDumpdir] != "" {
		return r.fail(at, keyDumpdir, headerErr("both as body and as record"))
	}
	if err := r.readBody(size, keyDumpdir, at); err != nil {
		return err
	}
	h.Body = r.off
	if size == 0 {
		return nil
	}
	if h.Records == nil {
		h.Records = make(map[string]string, 1)
	}
	h.Records[keyDumpdir] = string(r.buf)
	return nil
}

// sparse reads the member's map, wherever it is, and sets Size, Stored and Sparse. Until then Size is that of the body.
func (r *Reader) sparse(h *Header, form sparseForm, rec *records, at int64) error {
	body := h.Size
	var m *mapBuilder
	var err error
	switch form {
	case sparseGNU:
		m, err = r.mapGNU(h, at)
	case sparseInPax:
		m = newMapBuilder(rec.sparse.size.n, r.opt.MaxExtents)
		m.ext = rec.sparse.ext[:0] // in place: an entry is read before its place can be written
		if m.ext == nil {
			m.ext = []Extent{}
		}
		for _, e := range rec.sparse.ext {
			if err = m.add(e.Offset, e.Length); err != nil {
				err = r.fail(h.Offset, "sparse map", err)
				break
			}
		}
	case sparseInBody:
		m = newMapBuilder(rec.sparse.realsize.n, r.opt.MaxExtents)
		before := r.off
		err = r.mapBody(m, body)
		body -= r.off - before
	}
	if err != nil {
		return err
	}
	if m.size > math.MaxInt64-BlockSize {
		return r.fail(h.Offset, "sparse size", tooLarge("%d bytes", m.size))
	}
	if m.sum != body {
		return r.fail(h.Offset, "sparse map", headerErr("runs sum to %d bytes, the member stores %d", m.sum, body))
	}
	h.Size, h.Stored, h.Sparse = m.size, m.sum, m.ext
	return nil
}

// mapGNU reads the map of an old GNU sparse member: four entries in the header, 21 in each extension block.
func (r *Reader) mapGNU(h *Header, at int64) (*mapBuilder, error) {
	if !r.isGNU() {
		return nil, r.fail(at+posMagic, "magic", headerErr("old sparse member without the magic of GNU tar"))
	}
	size, err := r.number("sparse size", at, posGNURealSize, lenGNUNumber)
	if err != nil {
		return nil, err
	}
	m := newMapBuilder(size, r.opt.MaxExtents)
	table, extended := r.blk[posGNUSparse:posGNUSparse+numGNUSparse*lenGNUEntry], r.blk[posGNUExtended]
	tableAt := at + posGNUSparse
	for {
		for i := 0; i < len(table); i += lenGNUEntry {
			e := table[i : i+lenGNUEntry]
			if e[0] == 0 && e[lenGNUNumber] == 0 {
				break
			}
			off, err := parseNumber(e[:lenGNUNumber])
			if err == nil {
				var n int64
				if n, err = parseNumber(e[lenGNUNumber:]); err == nil {
					err = m.add(off, n)
				}
			}
			if err != nil {
				return nil, r.fail(tableAt+int64(i), "sparse map", err)
			}
		}
		if extended == 0 {
			return m, nil
		}
		tableAt = r.off
		if err := r.readBlock(false); err != nil {
			return nil, err
		}
		table, extended = r.blk[:numGNUExtSparse*lenGNUEntry], r.blk[posGNUExtExtended]
	}
}

// mapBody reads a GNU.sparse 1.0 map from a body of size bytes: decimal numbers, each ended by a newline, the count of
// entries first. The map ends with the block in which its last number ends.
func (r *Reader) mapBody(m *mapBuilder, size int64) error {
	start := r.off
	pos := BlockSize // in r.blk: nothing there yet
	number := func() (int64, error) {
		var v int64
		for n := 0; ; n++ {
			if pos == BlockSize {
				if size-(r.off-start) < BlockSize {
					return 0, r.fail(r.off, "sparse map", headerErr("passes the end of the member's %d bytes", size))
				}
				if err := r.readBlock(false); err != nil {
					return 0, err
				}
				pos = 0
			}
			c := r.blk[pos]
			pos++
			switch {
			case c == '\n' && n > 0:
				return v, nil
			case c < '0' || c > '9' || n >= 19 || v > (math.MaxInt64-9)/10:
				return 0, r.fail(r.off-BlockSize+int64(pos)-1, "sparse map", headerErr("not a decimal number"))
			}
			v = v*10 + int64(c-'0')
		}
	}
	count, err := number()
	if err != nil {
		return err
	}
	if count > int64(r.opt.MaxExtents) {
		return r.fail(start, "sparse map", tooLarge("%d entries, the limit is %d; raise MaxExtents", count, r.opt.MaxExtents))
	}
	for range count {
		off, err := number()
		if err != nil {
			return err
		}
		n, err := number()
		if err != nil {
			return err
		}
		if err := m.add(off, n); err != nil {
			return r.fail(r.off-BlockSize+int64(pos)-1, "sparse map", err)
		}
	}
	return nil
}
