package pax_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"time"

	"tarvm/archive/pax"
)

// A disk of 1 TiB of which two runs are data, written and read again.
func Example() {
	h := &pax.Header{Name: "vm/disk.img", Type: pax.TypeReg, Mode: 0o600, Size: 1 << 40, ModTime: time.Unix(1_700_000_000, 0)}
	h.Sparse = pax.LimitExtents([]pax.Extent{{Offset: 0, Length: 512}, {Offset: 1 << 39, Length: 1024}}, h.Size)
	b, err := pax.AppendHeader(nil, h)
	if err != nil {
		log.Fatal(err)
	}
	b = append(b, make([]byte, 512+1024)...) // the runs, one after the other
	b = pax.AppendPadding(b, 512+1024)
	b = pax.AppendEnd(b)

	r := pax.NewReader(bytes.NewReader(b), pax.ReaderOptions{})
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		if err := pax.CheckName(h.Name); err != nil {
			log.Fatal(err)
		}
		fmt.Println(h.Name, h.Size, h.Stored, "at", h.Body, h.Sparse)
	}
	// Output: vm/disk.img 1099511627776 1536 at 2048 [{0 512} {549755813888 1024}]
}
