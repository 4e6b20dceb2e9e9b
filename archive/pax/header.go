package pax

import "time"

const (
	// BlockSize is the unit of a tar archive in bytes: headers are one block, bodies are padded to blocks.
	BlockSize = 512

	// MaxHeader is the default limit, in bytes, of an extended header or long name, and the limit when writing. Go's
	// archive/tar reads no more.
	MaxHeader = 1 << 20

	// MaxMap is the limit, in bytes before padding, of the sparse map that AppendHeader writes: Go's archive/tar reads
	// 1 MiB, and one page is left as margin. That is about 39,000 runs in a file of 1 TiB.
	MaxMap = 1<<20 - 4096

	// DefaultMaxExtents is the default limit of entries in a sparse map that is read: 64 MiB of memory.
	DefaultMaxExtents = 1 << 22
)

// Type is the type byte of a header.
type Type byte

// The types that AppendHeader writes. The reader maps NUL, '7' (contiguous) and 'S' (old GNU sparse) to TypeReg, 'D' (old
// GNU directory contents) to TypeDir, and returns other types as they are.
const (
	TypeReg     Type = '0'
	TypeLink    Type = '1'
	TypeSymlink Type = '2'
	TypeChar    Type = '3'
	TypeBlock   Type = '4'
	TypeDir     Type = '5'
	TypeFifo    Type = '6'
)

// An Extent is a run of data in the logical file, in bytes.
type Extent struct{ Offset, Length int64 }

// A Header describes a member.
type Header struct {
	// Name is slash separated and need not be UTF-8. A directory has no trailing slash here, and one in the archive.
	Name string
	// Linkname is the target: of a link (TypeLink) a member's name, of a symbolic link any text. Empty for other types.
	Linkname string
	Type     Type
	Mode     int64 // permission bits, 07777
	UID, GID int64
	Uname    string
	Gname    string
	Size     int64     // logical size in bytes; 0 unless regular (or of an unknown type)
	ModTime  time.Time // to the nanosecond, may be before 1970; the zero Time is written as 1970
	// Devmajor and Devminor are for TypeChar and TypeBlock only, at most 2097151 (7 octal digits).
	Devmajor, Devminor int64

	// Xattrs are extended attributes (SCHILY.xattr), by full name such as "user.comment". Values are bytes, may be empty.
	Xattrs map[string]string
	// Records are all other pax records, such as GNU.dumpdir, atime or comment, including those of global headers.
	// A value is not empty (that would delete the record). Keys that follow from other fields may not be here.
	Records map[string]string
	// Sparse is nil for a plain file. Otherwise it lists the runs of data: ascending, not empty, not touching, inside
	// Size. Not nil but empty: the file is one hole. When writing, all runs but the last must be a multiple of BlockSize
	// long; LimitExtents sees to it.
	Sparse []Extent

	// Set by the reader, ignored when writing.

	Offset int64  // where the first header block, extension headers included, starts in the tar stream
	Body   int64  // where the body's data starts: after the header blocks and after a sparse map
	Stored int64  // bytes of data from Body on, without padding: Size, or the sum of the lengths in Sparse
	Format string // "v7", "ustar", "gnu" or "pax"
}

// Layout of a header block: offset and width in bytes. Numbers are octal digits ended by NUL or space, or, with the top
// bit of the first byte set, big endian two's complement (GNU base-256). Texts end at the first NUL, if any.
const (
	posName, lenName         = 0, 100
	posMode, lenMode         = 100, 8
	posUID, lenUID           = 108, 8
	posGID, lenGID           = 116, 8
	posSize, lenSize         = 124, 12 // bytes of body
	posMtime, lenMtime       = 136, 12 // seconds since 1970
	posChecksum, lenChecksum = 148, 8  // sum of all bytes, these eight taken as spaces
	posType                  = 156     // one byte
	posLinkname, lenLinkname = 157, 100
	posMagic, lenMagic       = 257, 8 // "ustar" NUL "00", or GNU's "ustar" space space NUL; nothing in v7
	posUname, lenUname       = 265, 32
	posGname, lenGname       = 297, 32
	posDevmajor, lenDevmajor = 329, 8
	posDevminor, lenDevminor = 337, 8
	posPrefix, lenPrefix     = 345, 155 // ustar: put before name with a slash between, unless empty
	lenStarPrefix            = 131      // star, which has times after it
	posStarTrailer           = 508      // "tar" NUL

	// GNU only. A sparse entry is an offset and a length of 12 bytes each.
	posGNUSparse, numGNUSparse = 386, 4 // entries in the header
	posGNUExtended             = 482    // 1: an extension block follows
	posGNURealSize             = 483    // 12 bytes: logical size
	numGNUExtSparse            = 21     // entries in an extension block, from its start
	posGNUExtExtended          = 504    // 1: another follows
	lenGNUEntry                = 24
	lenGNUNumber               = 12

	magicUSTAR = "ustar\x0000"
	magicGNU   = "ustar  \x00"

	maxOctal7  = 1<<21 - 1 // 7 digits
	maxOctal11 = 1<<33 - 1 // 11 digits: 8 GiB less one, or the year 2242

	typeExtended = 'x' // records for the next member
	typeGlobal   = 'g' // records for all that follow
	typeLongName = 'L' // GNU: name of the next member
	typeLongLink = 'K' // GNU: link target of the next member
	typeSparse   = 'S' // GNU: old sparse member
	typeDumpdir  = 'D' // GNU: directory with a list of names as body
	typeOldReg   = 0
	typeCont     = '7'
)

const (
	keyPath     = "path"
	keyLinkpath = "linkpath"
	keySize     = "size"
	keyUID      = "uid"
	keyGID      = "gid"
	keyUname    = "uname"
	keyGname    = "gname"
	keyMtime    = "mtime"
	keyCharset  = "hdrcharset"
	keyDumpdir  = "GNU.dumpdir"

	keyXattr  = "SCHILY.xattr."
	keySparse = "GNU.sparse."

	keySparseMajor     = "GNU.sparse.major"
	keySparseMinor     = "GNU.sparse.minor"
	keySparseName      = "GNU.sparse.name"
	keySparseRealsize  = "GNU.sparse.realsize"
	keySparseSize      = "GNU.sparse.size"
	keySparseNumblocks = "GNU.sparse.numblocks"
	keySparseMap       = "GNU.sparse.map"
	keySparseOffset    = "GNU.sparse.offset"
	keySparseNumbytes  = "GNU.sparse.numbytes"
)

type block = [BlockSize]byte

var zeroBlock block

// headerOnly tells types that never have a body, whatever their size field says.
func (t Type) headerOnly() bool { return t >= TypeLink && t <= TypeFifo }

// device tells types with device numbers.
func (t Type) device() bool { return t == TypeChar || t == TypeBlock }
