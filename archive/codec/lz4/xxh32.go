package lz4

import (
	"encoding/binary"
	"math/bits"
)

const (
	prime1 = 2654435761
	prime2 = 2246822519
	prime3 = 3266489917
	prime4 = 668265263
	prime5 = 374761393
)

// xxh32 is XXH32 with seed 0 (xxHash fast digest algorithm, section "XXH32"), which the library has
// for itself only.
func xxh32(b []byte) uint32 {
	le := binary.LittleEndian
	n := uint32(len(b))
	var h uint32
	if len(b) >= 16 {
		p1 := uint32(prime1)
		v1, v2, v3, v4 := p1+prime2, uint32(prime2), uint32(0), -p1
		for ; len(b) >= 16; b = b[16:] {
			v1 = round(v1, le.Uint32(b))
			v2 = round(v2, le.Uint32(b[4:]))
			v3 = round(v3, le.Uint32(b[8:]))
			v4 = round(v4, le.Uint32(b[12:]))
		}
		h = bits.RotateLeft32(v1, 1) + bits.RotateLeft32(v2, 7) + bits.RotateLeft32(v3, 12) + bits.RotateLeft32(v4, 18)
	} else {
		h = prime5
	}
	h += n
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h+le.Uint32(b)*prime3, 17) * prime4
	}
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*prime5, 11) * prime1
	}
	h = (h ^ h>>15) * prime2
	h = (h ^ h>>13) * prime3
	return h ^ h>>16
}

func round(v, in uint32) uint32 { return bits.RotateLeft32(v+in*prime2, 13) * prime1 }
