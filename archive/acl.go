package archive

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Access control lists are extended attributes to Linux and to the manifest. GNU tar --acls and bsdtar
// take them from records of their own, as text, and pass over the attributes.
var aclRecords = []struct{ xattr, record string }{
	{"system.posix_acl_access", "SCHILY.acl.access"},
	{"system.posix_acl_default", "SCHILY.acl.default"},
}

// aclText returns the list in the value of an attribute as text, "" when it is not one.
//
// Source: Linux, include/uapi/linux/posix_acl_xattr.h. Little-endian: a version, 2, in four bytes; then for each entry the
// tag and the permissions, two bytes each, and the number of a user or group, four bytes.
func aclText(b string) string {
	const head, entry, version = 4, 8, 2
	if len(b) < head || (len(b)-head)%entry != 0 || binary.LittleEndian.Uint32([]byte(b)) != version {
		return ""
	}
	var parts []string
	for e := []byte(b[head:]); len(e) > 0; e = e[entry:] {
		id := binary.LittleEndian.Uint32(e[4:])
		who := ""
		switch binary.LittleEndian.Uint16(e) {
		case 0x01:
			who = "user:"
		case 0x02:
			who = fmt.Sprint("user:", id)
		case 0x04:
			who = "group:"
		case 0x08:
			who = fmt.Sprint("group:", id)
		case 0x10:
			who = "mask:"
		case 0x20:
			who = "other:"
		default:
			return ""
		}
		perm := []byte("---")
		for i, c := range []byte("rwx") {
			if e[2]&(4>>i) != 0 {
				perm[i] = c
			}
		}
		parts = append(parts, who+":"+string(perm))
	}
	return strings.Join(parts, ",")
}
