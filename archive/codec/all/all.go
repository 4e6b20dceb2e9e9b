// Package all lists the codecs.
package all

import (
	"tarvm/archive/codec"
	"tarvm/archive/codec/gzip"
	"tarvm/archive/codec/lz4"
	"tarvm/archive/codec/none"
	"tarvm/archive/codec/xz"
	"tarvm/archive/codec/zstd"
)

// Codecs returns all codecs, the default one first.
func Codecs() []codec.Codec {
	return []codec.Codec{zstd.Codec{}, gzip.Codec{}, xz.Codec{}, lz4.Codec{}, none.Codec{}}
}
