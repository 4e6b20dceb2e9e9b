package xva

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"tarvm/formats"
)

// varstoredMagic begins what varstored keeps: magic, version (u32), count (u64), bytes of variables (u64), little-endian.
// Each variable is its name (u64 length in bytes, UTF-16 without end), its data (u64 length), GUID (16), attributes
// (u32), time stamp (16) and the SHA-256 of the certificate that may change it (32).
const (
	varstoredMagic   = "VARS"
	varstoredVersion = 1
	varstoredHeader  = 4 + 4 + 8 + 8
	// maxVarstored is what varstored reads (MAX_FILE_SIZE).
	maxVarstored = 128 << 10
	// maxOVMF is more than any flash of variables has.
	maxOVMF = 4 << 20
)

func isVarstored(b []byte) bool { return bytes.HasPrefix(b, []byte(varstoredMagic)) }

// The structures of OVMF's file (EDK2: MdePkg/Include/Pi/PiFirmwareVolume.h, MdeModulePkg/Include/Guid/VariableFormat.h).
const (
	fvSignature  = 40 // "_FVH"
	fvHeaderSize = 48 // u16: bytes of the header
	storeHeader  = 28 // GUID (16), size (u32), format (u8), state (u8), reserved
	varHeader    = 60 // 0x55aa (u16), state (u8), reserved, attributes (u32), count (u64), time (16), key (u32), name size (u32), data size (u32), GUID (16)
	varStart     = 0x55aa
	varAdded     = 0x3f // state of a variable that is in use
	varNonVol    = 1    // attribute
)

// authenticated is gEfiAuthenticatedVariableGuid, in the order of the file.
var authenticated = [16]byte{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}

// OVMFVariables turns OVMF's file of variables (OVMF_VARS.fd and copies of it) into what varstored keeps, the firmware's
// companion on XenServer and XCP-ng: variables that are in use and not volatile, with their times, so that boot entries
// and Secure Boot keys go along. It wraps formats.ErrNotFormat for what is no such file, and formats.ErrCorrupt or
// formats.ErrUnsupported for one that cannot be read or does not fit.
func OVMFVariables(b []byte) ([]byte, error) {
	fail := func(off int, err error, format string, a ...any) ([]byte, error) {
		return nil, &formats.FormatError{Format: "ovmf", Structure: "variables", Offset: int64(off), Got: fmt.Sprintf(format, a...), Err: err}
	}
	le := binary.LittleEndian
	if len(b) < 64 || string(b[fvSignature:fvSignature+4]) != "_FVH" || len(b) > maxOVMF {
		return fail(0, formats.ErrNotFormat, "no firmware volume of up to %d bytes", maxOVMF)
	}
	at := int(le.Uint16(b[fvHeaderSize:]))
	if at+storeHeader > len(b) {
		return fail(at, formats.ErrCorrupt, "the store is behind the end")
	}
	if [16]byte(b[at:at+16]) != authenticated {
		return fail(at, formats.ErrUnsupported, "the store is of another kind")
	}
	size := int(le.Uint32(b[at+16:]))
	if size < storeHeader || size > len(b)-at {
		return fail(at, formats.ErrCorrupt, "the store has %d bytes", size)
	}
	end := at + size
	at += storeHeader
	var body []byte
	count := uint64(0)
	for at+varHeader <= end && le.Uint16(b[at:]) == varStart {
		h := b[at:]
		state, attributes := h[2], le.Uint32(h[4:])
		name, data := int64(le.Uint32(h[36:])), int64(le.Uint32(h[40:]))
		if name+data > int64(end-at-varHeader) {
			return fail(at, formats.ErrCorrupt, "a variable of %d bytes passes the end of the store", name+data)
		}
		text := h[varHeader : varHeader+name]
		value := h[varHeader+name : varHeader+name+data]
		text = bytes.TrimSuffix(text, []byte{0, 0})
		if state == varAdded && attributes&varNonVol != 0 && len(text) > 0 && data > 0 {
			body = le.AppendUint64(body, uint64(len(text)))
			body = append(body, text...)
			body = le.AppendUint64(body, uint64(data))
			body = append(body, value...)
			body = append(body, h[44:60]...) // GUID
			body = le.AppendUint32(body, attributes)
			body = append(body, h[16:32]...)         // time
			body = append(body, make([]byte, 32)...) // no certificate of its own
			count++
		}
		at += (varHeader + int(name+data) + 3) &^ 3
	}
	if len(body)+varstoredHeader > maxVarstored {
		return fail(-1, formats.ErrUnsupported, "%d bytes, varstored takes %d", len(body)+varstoredHeader, maxVarstored)
	}
	out := append([]byte(varstoredMagic), 0, 0, 0, 0)
	le.PutUint32(out[4:], varstoredVersion)
	out = le.AppendUint64(out, count)
	out = le.AppendUint64(out, uint64(len(body)))
	return append(out, body...), nil
}
