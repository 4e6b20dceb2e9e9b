package pax

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// AppendHeader appends to dst all that comes before the member's data: an extended header if one is needed, the header
// block, and for a sparse member its map. It must be followed by the data (for a sparse member, the runs of Sparse one after
// the other) and AppendPadding. The result is a whole number of blocks and depends on nothing but h. On an error, a
// *FormatError with ErrHeader or ErrTooLarge, dst is returned as it was. A member that needs no records is written
// without allocation if dst has room.
func AppendHeader(dst []byte, h *Header) ([]byte, error) {
	out, field, err := appendHeader(dst, h)
	if err != nil {
		return dst, &FormatError{Offset: -1, Member: h.Name, Field: field, Err: err}
	}
	return out, nil
}

// AppendPadding appends zeros to bring a body of stored bytes to the next block.
func AppendPadding(dst []byte, stored int64) []byte {
	return append(dst, zeroBlock[:Padding(stored)]...)
}

// AppendEnd appends the end of the archive: two blocks of zeros.
func AppendEnd(dst []byte) []byte {
	dst = append(dst, zeroBlock[:]...)
	return append(dst, zeroBlock[:]...)
}

func appendHeader(dst []byte, h *Header) (_ []byte, field string, err error) {
	data, field, err := h.check()
	if err != nil {
		return nil, field, err
	}
	start := len(dst)
	dst = append(dst, zeroBlock[:]...)

	w := headerText{h: h}
	w.plan()
	dst, field, err = w.appendRecords(dst)
	if err != nil {
		return nil, field, err
	}
	at := start // of the member's own block
	if n := int64(len(dst) - start - BlockSize); n > 0 {
		if n > MaxHeader {
			return nil, "extended header", tooLarge("records take %d bytes, readers take %d", n, MaxHeader)
		}
		b := (*block)(dst[start:])
		putPlain(b[posName:posName+lenName], w.dir, "PaxHeaders", w.base)
		putOctal(b[posMode:posMode+lenMode], 0o644)
		putOctal(b[posUID:posUID+lenUID], 0)
		putOctal(b[posGID:posGID+lenGID], 0)
		putOctal(b[posSize:posSize+lenSize], n)
		putOctal(b[posMtime:posMtime+lenMtime], 0)
		b[posType] = typeExtended
		seal(b)
		dst = AppendPadding(dst, n)
		at = len(dst)
		dst = append(dst, zeroBlock[:]...)
	}
	if h.Sparse != nil {
		before := len(dst)
		dst = appendMap(dst, h.Sparse, h.Size)
		n := int64(len(dst) - before)
		if data > maxStored-n {
			return nil, keySize, tooLarge("sparse map and %d bytes of data", data)
		}
		data += n
	}
	w.putBlock((*block)(dst[at:]), data)
	return dst, "", nil
}

// check validates h and returns the bytes of its data.
func (h *Header) check() (data int64, field string, err error) {
	switch {
	case h.Type != TypeReg && !h.Type.headerOnly():
		return 0, "type", headerErr("type %q cannot be written", byte(h.Type))
	case h.Name == "":
		return 0, "name", headerErr("empty")
	case strings.IndexByte(h.Name, 0) >= 0:
		return 0, "name", headerErr("holds a NUL byte")
	case h.Name[len(h.Name)-1] == '/' && (h.Type != TypeDir || h.Name != "/"):
		return 0, "name", headerErr("ends in a slash")
	case strings.IndexByte(h.Linkname, 0) >= 0:
		return 0, "link target", headerErr("holds a NUL byte")
	case (h.Linkname != "") != (h.Type == TypeLink || h.Type == TypeSymlink):
		return 0, "link target", headerErr("%q for type %q", h.Linkname, byte(h.Type))
	case h.Mode&^0o7777 != 0:
		return 0, "mode", headerErr("%#o has more than permission bits", h.Mode)
	case h.UID < 0:
		return 0, keyUID, headerErr("negative: %d", h.UID)
	case h.GID < 0:
		return 0, keyGID, headerErr("negative: %d", h.GID)
	case strings.IndexByte(h.Uname, 0) >= 0:
		return 0, keyUname, headerErr("holds a NUL byte")
	case strings.IndexByte(h.Gname, 0) >= 0:
		return 0, keyGname, headerErr("holds a NUL byte")
	case h.Size < 0 || h.Size != 0 && h.Type != TypeReg:
		return 0, keySize, headerErr("%d for type %q", h.Size, byte(h.Type))
	case h.Size > maxStored:
		return 0, keySize, tooLarge("%d bytes", h.Size)
	case (h.Devmajor != 0 || h.Devminor != 0) && !h.Type.device():
		return 0, "device number", headerErr("%d,%d for type %q", h.Devmajor, h.Devminor, byte(h.Type))
	case uint64(h.Devmajor) > maxOctal7 || uint64(h.Devminor) > maxOctal7:
		return 0, "device number", tooLarge("%d,%d; tar has 7 octal digits for each", h.Devmajor, h.Devminor)
	case h.Sparse != nil && h.Type != TypeReg:
		return 0, "sparse map", headerErr("for type %q", byte(h.Type))
	}
	if sec := h.ModTime.Unix(); sec > maxSeconds || sec < -maxSeconds {
		return 0, keyMtime, tooLarge("%d seconds", sec)
	}
	if h.Sparse == nil {
		return h.Size, "", nil
	}
	data, err = checkExtents(h.Sparse, h.Size)
	if err != nil {
		return 0, "sparse map", err
	}
	if n := mapLen(h.Sparse, h.Size); n > MaxMap {
		return 0, "sparse map", tooLarge("%d runs take %d bytes, readers take %d; use LimitExtents", len(h.Sparse), n, MaxMap)
	}
	return data, "", nil
}

// headerText decides where the texts and times of a header go.
type headerText struct {
	h         *Header
	dir, base string // of the name, slash not included; dir keeps a leading one
	slash     string // "/" after the name of a directory
	split     int    // of the name, at this slash into prefix and name; 0: not split
	sec, nsec int64

	// Which texts need a record. With sparse, path is that of the folder GNUSparseFile.0 and the name has its own.
	path, linkpath, uname, gname bool
}

const sparseFolder = "GNUSparseFile.0"

func (w *headerText) plan() {
	h := w.h
	if !h.ModTime.IsZero() {
		w.sec, w.nsec = h.ModTime.Unix(), int64(h.ModTime.Nanosecond())
	}
	w.base = h.Name
	if i := strings.LastIndexByte(h.Name, '/'); i >= 0 && h.Name != "/" {
		w.dir, w.base = h.Name[:i], h.Name[i+1:]
		if i == 0 {
			w.dir = "/"
		}
	}
	if h.Type == TypeDir && h.Name != "/" {
		w.slash = "/"
	}
	switch {
	case h.Sparse != nil:
		n := len(w.dir) + 1 + len(sparseFolder) + 1 + len(w.base)
		w.path = n > lenName || wantsRecord(h.Name)
	case wantsRecord(h.Name):
		w.path = true
	case len(h.Name)+len(w.slash) > lenName:
		w.split = splitName(h.Name, len(w.slash))
		w.path = w.split == 0
	}
	w.linkpath = len(h.Linkname) > lenLinkname || wantsRecord(h.Linkname)
	// The last byte of these two fields is a NUL.
	w.uname = len(h.Uname) >= lenUname || wantsRecord(h.Uname)
	w.gname = len(h.Gname) >= lenGname || wantsRecord(h.Gname)
}

// wantsRecord tells texts whose characters a reader may have to translate. Bytes that are no text in UTF-8 are better off in
// the header's field, which every reader takes as bytes.
func wantsRecord(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return utf8.ValidString(s)
		}
	}
	return false
}

// splitName finds the slash at which a name longer than the field goes into prefix and name, 0 if none will do.
func splitName(name string, slash int) int {
	limit := min(len(name), lenPrefix+1)
	i := strings.LastIndexByte(name[:limit], '/')
	// Two slashes in a row would leave one at an edge, where readers differ.
	if i <= 0 || len(name)+slash-i-1 > lenName || strings.Contains(name, "//") {
		return 0
	}
	return i
}

// appendRecords appends the records, unpadded. The order is fixed: hdrcharset speaks of what follows it, and Python takes the
// last of path and GNU.sparse.name.
func (w *headerText) appendRecords(dst []byte) (_ []byte, field string, err error) {
	h := w.h
	if (w.path || h.Sparse != nil) && !utf8.ValidString(h.Name) ||
		w.linkpath && !utf8.ValidString(h.Linkname) ||
		w.uname && !utf8.ValidString(h.Uname) ||
		w.gname && !utf8.ValidString(h.Gname) {
		dst = appendRecord(dst, keyCharset, "", "BINARY")
	}
	if w.path {
		if h.Sparse != nil {
			dst = appendRecord(dst, keyPath, "", w.dir, joint(w.dir), sparseFolder, "/", w.base)
		} else {
			dst = appendRecord(dst, keyPath, "", h.Name, w.slash)
		}
	}
	if w.linkpath {
		dst = appendRecord(dst, keyLinkpath, "", h.Linkname)
	}
	if h.Sparse == nil && h.Size > maxOctal11 {
		dst = appendNumber(dst, keySize, h.Size)
	}
	if h.UID > maxOctal7 {
		dst = appendNumber(dst, keyUID, h.UID)
	}
	if h.GID > maxOctal7 {
		dst = appendNumber(dst, keyGID, h.GID)
	}
	if w.uname {
		dst = appendRecord(dst, keyUname, "", h.Uname)
	}
	if w.gname {
		dst = appendRecord(dst, keyGname, "", h.Gname)
	}
	if w.nsec != 0 || w.sec < 0 || w.sec > maxOctal11 {
		var buf [40]byte
		dst = appendRecord(dst, keyMtime, "", string(appendTime(buf[:0], w.sec, w.nsec)))
	}
	if h.Sparse != nil {
		dst = appendRecord(dst, keySparseMajor, "", "1")
		dst = appendRecord(dst, keySparseMinor, "", "0")
		dst = appendRecord(dst, keySparseName, "", h.Name)
		dst = appendNumber(dst, keySparseRealsize, h.Size)
	}
	if len(h.Records) != 0 {
		var keys [16]string
		for _, k := range sortedKeys(keys[:0], h.Records) {
			if err := checkRecord(k, h.Records[k]); err != nil {
				return nil, recordField(k), err
			}
			dst = appendRecord(dst, k, "", h.Records[k])
		}
	}
	if len(h.Xattrs) != 0 {
		var keys [16]string
		for _, k := range sortedKeys(keys[:0], h.Xattrs) {
			if k == "" || strings.IndexByte(k, 0) >= 0 {
				return nil, recordField(keyXattr + k), headerErr("empty name or NUL byte in it")
			}
			dst = appendRecord(dst, keyXattr, escapeXattr(k), h.Xattrs[k])
		}
	}
	return dst, "", nil
}

func sortedKeys(keys []string, m map[string]string) []string {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// checkRecord refuses records that cannot be written or that another field decides.
func checkRecord(k, v string) error {
	switch k {
	case keyPath, keyLinkpath, keySize, keyUID, keyGID, keyUname, keyGname, keyMtime, keyCharset:
		return headerErr("belongs in another field")
	case "":
		return headerErr("empty key")
	}
	switch {
	case strings.HasPrefix(k, keyXattr), strings.HasPrefix(k, keySparse):
		return headerErr("belongs in another field")
	case strings.IndexByte(k, '=') >= 0, strings.IndexByte(k, 0) >= 0:
		return headerErr("'=' or NUL byte in a key")
	case v == "":
		return headerErr("an empty value would delete the record")
	}
	return nil
}

// appendRecord appends "LENGTH KEY=VALUE\n" for the key in two parts and the value in any number; LENGTH counts itself.
func appendRecord(dst []byte, key, key2 string, value ...string) []byte {
	n := int64(len(key) + len(key2) + len(" =\n"))
	for _, v := range value {
		n += int64(len(v))
	}
	total := n + int64(digits(n))
	if digits(total) != digits(n) {
		total = n + int64(digits(total))
	}
	dst = append(appendInt(dst, total), ' ')
	dst = append(dst, key...)
	dst = append(dst, key2...)
	dst = append(dst, '=')
	for _, v := range value {
		dst = append(dst, v...)
	}
	return append(dst, '\n')
}

func appendNumber(dst []byte, key string, v int64) []byte {
	var buf [20]byte
	return appendRecord(dst, key, "", string(appendInt(buf[:0], v)))
}

// joint is what goes between a folder and what is in it.
func joint(dir string) string {
	if dir == "" || dir == "/" {
		return ""
	}
	return "/"
}

// putBlock fills the zeroed b with the member's header; stored is the size of its body.
func (w *headerText) putBlock(b *block, stored int64) {
	h := w.h
	name := b[posName : posName+lenName]
	switch {
	case h.Sparse != nil && !w.path:
		n := copy(name, w.dir)
		n += copy(name[n:], joint(w.dir))
		n += copy(name[n:], sparseFolder+"/")
		copy(name[n:], w.base)
	case h.Sparse != nil:
		putPlain(name, w.dir, sparseFolder, w.base)
	case w.path:
		putPlain(name, "", "", h.Name)
	case w.split > 0:
		copy(b[posPrefix:posPrefix+lenPrefix], h.Name[:w.split])
		n := copy(name, h.Name[w.split+1:])
		copy(name[n:], w.slash)
	default:
		n := copy(name, h.Name)
		copy(name[n:], w.slash)
	}
	putOctal(b[posMode:posMode+lenMode], h.Mode)
	putOctal(b[posUID:posUID+lenUID], orNobody(h.UID))
	putOctal(b[posGID:posGID+lenGID], orNobody(h.GID))
	size := b[posSize : posSize+lenSize]
	switch {
	case stored <= maxOctal11:
		putOctal(size, stored)
	case h.Sparse != nil:
		putBinary(size, stored)
	default:
		putOctal(size, 0) // in a record
	}
	putOctal(b[posMtime:posMtime+lenMtime], min(max(w.sec, 0), maxOctal11))
	b[posType] = byte(h.Type)
	putText(b[posLinkname:posLinkname+lenLinkname], h.Linkname, w.linkpath)
	putText(b[posUname:posUname+lenUname-1], h.Uname, w.uname)
	putText(b[posGname:posGname+lenGname-1], h.Gname, w.gname)
	putOctal(b[posDevmajor:posDevmajor+lenDevmajor], h.Devmajor)
	putOctal(b[posDevminor:posDevminor+lenDevminor], h.Devminor)
	seal(b)
}

func putText(field []byte, s string, recorded bool) {
	if recorded {
		putPlain(field, "", "", s)
		return
	}
	copy(field, s)
}

// orNobody replaces an id that only a record can hold by nobody's: a reader that skips records must not make root the owner.
func orNobody(id int64) int64 {
	if id > maxOctal7 {
		return 65534
	}
	return id
}

// putPlain fills a field with dir/insert/base, or with base alone, cut to fit and made plain ASCII, for readers that skip
// records. A cut leaves neither "." nor ".." nor a slash at the end.
func putPlain(field []byte, dir, insert, base string) {
	if room := len(field) - 2*len(insert); len(base) > room {
		base = strings.TrimRight(base[:room], "./")
	}
	n := 0
	if insert != "" {
		if room := len(field) - len(insert) - len(base) - 2; len(dir) > room {
			dir = dir[:max(strings.LastIndexByte(dir[:room], '/'), 0)]
		}
		n = copy(field, dir)
		n += copy(field[n:], joint(dir))
		n += copy(field[n:], insert)
		n += copy(field[n:], "/")
	}
	n += copy(field[n:], base)
	for i, c := range field[:n] {
		if c < ' ' || c >= 0x7f {
			field[i] = '_'
		}
	}
}

// seal adds magic and checksum to a block that is complete otherwise.
func seal(b *block) {
	copy(b[posMagic:], magicUSTAR)
	sum, _ := sums(b)
	putOctal(b[posChecksum:posChecksum+lenChecksum-1], sum)
	b[posChecksum+lenChecksum-1] = ' '
}

// escapeXattr writes a name so that it has no '=' and that unescapeXattr returns it.
func escapeXattr(k string) string {
	if strings.IndexByte(k, '=') < 0 && strings.IndexByte(k, '%') < 0 {
		return k
	}
	var b strings.Builder
	for i := 0; i < len(k); i++ {
		switch {
		case k[i] == '=':
			b.WriteString("%3D")
		case strings.HasPrefix(k[i:], "%25"), strings.HasPrefix(k[i:], "%3D"):
			b.WriteString("%25")
		default:
			b.WriteByte(k[i])
		}
	}
	return b.String()
}

// unescapeXattr decodes the two escapes of GNU tar.
func unescapeXattr(k string) string {
	if strings.IndexByte(k, '%') < 0 {
		return k
	}
	return xattrEscapes.Replace(k)
}

var xattrEscapes = strings.NewReplacer("%25", "%", "%3D", "=")
