package vmx

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
)

// A charset is the encoding of a file's bytes.
type charset struct {
	name  string            // as .encoding has it; "" if that is absent
	table encoding.Encoding // nil: UTF-8
	// unknown: the name is none of those below. Text is then shown as UTF-8 if it is that, else as windows-1252, and
	// nothing but ASCII can be written.
	unknown bool
}

// newCharset finds an encoding by the name in a file. Without a name it is that of the system that wrote the file: UTF-8
// if the bytes are valid, else windows-1252.
func newCharset(name string, text []byte) charset {
	if name == "" {
		if utf8.Valid(text) {
			return charset{}
		}
		return charset{table: charmap.Windows1252}
	}
	c := charset{name: name}
	switch strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(name)) {
	case "utf8", "utf16", "utf16le", "utf16be": // UTF-16 is of the whole file, see parse
	case "windows1252", "cp1252", "usascii", "ascii", "iso88591", "latin1":
		c.table = charmap.Windows1252
	case "windows1250", "cp1250":
		c.table = charmap.Windows1250
	case "windows1251", "cp1251":
		c.table = charmap.Windows1251
	case "windows1253", "cp1253":
		c.table = charmap.Windows1253
	case "windows1254", "cp1254", "iso88599":
		c.table = charmap.Windows1254
	case "windows1255", "cp1255":
		c.table = charmap.Windows1255
	case "windows1256", "cp1256":
		c.table = charmap.Windows1256
	case "windows1257", "cp1257":
		c.table = charmap.Windows1257
	case "windows1258", "cp1258":
		c.table = charmap.Windows1258
	case "windows874", "cp874", "tis620":
		c.table = charmap.Windows874
	case "iso88592", "latin2":
		c.table = charmap.ISO8859_2
	case "iso88595":
		c.table = charmap.ISO8859_5
	case "iso88597":
		c.table = charmap.ISO8859_7
	case "iso885915", "latin9":
		c.table = charmap.ISO8859_15
	case "koi8r":
		c.table = charmap.KOI8R
	case "gbk", "cp936", "windows936", "gb2312", "euccn":
		c.table = simplifiedchinese.GBK
	case "gb18030":
		c.table = simplifiedchinese.GB18030
	case "big5", "cp950", "windows950":
		c.table = traditionalchinese.Big5
	case "shiftjis", "sjis", "xsjis", "windows31j", "cp932", "windows932", "cp943":
		c.table = japanese.ShiftJIS
	case "eucjp":
		c.table = japanese.EUCJP
	case "euckr", "cp949", "windows949", "ksc56011987":
		c.table = korean.EUCKR
	default:
		c.unknown = true
		if !utf8.Valid(text) {
			c.table = charmap.Windows1252
		}
	}
	return c
}

// decode returns the text that bytes of a file mean. What is invalid becomes U+FFFD.
func (c charset) decode(b []byte) string {
	if ascii(b) {
		return string(b)
	}
	if c.table != nil {
		if t, err := c.table.NewDecoder().Bytes(b); err == nil {
			b = t
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

// encode returns the bytes of a text, and whether there are any.
func (c charset) encode(s string) ([]byte, bool) {
	s = strings.ToValidUTF8(s, "\uFFFD")
	switch {
	case ascii(s):
		return []byte(s), true
	case c.unknown:
		return nil, false
	case c.table == nil:
		return []byte(s), true
	}
	b, err := c.table.NewEncoder().Bytes([]byte(s))
	// An encoder that takes what its decoder does not give back would change the text.
	if err != nil || c.decode(b) != s {
		return nil, false
	}
	return b, true
}

func ascii[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
