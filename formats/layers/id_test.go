package layers_test

import (
	"encoding/binary"

	"github.com/zeebo/blake3"

	"tarvm/formats/layers"
)

// slowID is the definition of the disk id, word for word.
func slowID(disk []byte) (id layers.DiskID) {
	text := binary.LittleEndian.AppendUint64(nil, uint64(len(disk)))
	for i := 0; i*65536 < len(disk); i++ {
		b := disk[i*65536 : min((i+1)*65536, len(disk))]
		zero := true
		for _, c := range b {
			zero = zero && c == 0
		}
		if !zero {
			sum := blake3.Sum256(b)
			text = append(binary.LittleEndian.AppendUint64(text, uint64(i)), sum[:]...)
		}
	}
	blake3.DeriveKey("tarvm disk id, version 1", text, id[:])
	return id
}
