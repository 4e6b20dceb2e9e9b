package pax_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"tarvm/archive/pax"
)

// Oracles: what is read, written and read again is equal; where Go's archive/tar reads the archive to its end, too, it sees
// the same names, types, targets, sizes and bytes. Known differences are listed in sameAsGo.
func FuzzReader(f *testing.F) {
	seeds := 0
	add := func(b []byte) {
		f.Add(b, true)
		seeds++
	}
	for _, s := range samples() {
		if len(s.Name) < 1000 && s.Name != "xattr" {
			add(build(f, s))
		}
	}
	add(build(f, samples()[13:20]...))
	for _, c := range hostileCases() {
		if len(c.data) < 8<<10 {
			add(pax.AppendEnd(bytes.Clone(c.data)))
		}
	}
	add(pax.AppendEnd(sparse00("99", "2", "xxxxxxxxxx", "5", "5", "20", "5")))
	add(pax.AppendEnd(sparse01("99", "2", "5,5,20,5", "xxxxxxxxxx")))
	add(pax.AppendEnd(sparse10("99", "3\n5\n5\n20\n5\n99\n0\n", "xxxxxxxxxx")))
	add(pax.AppendEnd(sparseOld("00000000143\x00", oldEntries(5, 5, 20, 5), "xxxxxxxxxx")))
	if seeds < 100 {
		f.Fatalf("%d seeds", seeds)
	}
	opt := pax.ReaderOptions{MaxHeader: 1 << 16, MaxExtents: 1 << 12}
	f.Add(build(f, samples()[0]), false)
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		if repair { // or few inputs would get past the first checksum
			b = bytes.Clone(b)
			for blk := b; len(blk) >= 512; blk = blk[512:] {
				if string(blk[257:262]) == "ustar" {
					rawSeal(blk[:512:512])
				}
			}
		}
		before := totalAlloc()
		files, err := readAll(bytes.NewReader(b), opt)
		// io.ReadAll in this test and growing maps take a few times what is there.
		if n := totalAlloc() - before; n > 4<<20+64*uint64(len(b)) {
			t.Errorf("%d bytes allocated for %d", n, len(b))
		}
		var fe *pax.FormatError
		if err != nil && (!errors.As(err, &fe) || fe.Offset < 0 || fe.Offset > int64(len(b)) && !errors.Is(err, pax.ErrTooLarge)) {
			t.Fatalf("error %#v for %d bytes", err, len(b))
		}
		again(t, files, opt)
		if err == nil {
			sameAsGo(t, b, files)
		}
	})
}

func again(t *testing.T, files []file, opt pax.ReaderOptions) {
	var out []byte
	var want []file
	for _, f := range files {
		if f.Stored != int64(len(f.data)) || f.Offset%512 != 0 || f.Body%512 != 0 || f.Body <= f.Offset {
			t.Fatalf("%+v", f)
		}
		b, err := pax.AppendHeader(out, &f.Header)
		switch {
		case err == nil:
		case f.Type < '0' || f.Type > '6': // read but not written
			continue
		case f.Sparse != nil && !whole(f.Sparse): // Likewise
			continue
		case errors.Is(err, pax.ErrTooLarge): // a device number of more than 7 digits, or records that grew past the limit
			continue
		default:
			t.Fatalf("%+v: %v", f, err)
		}
		out = append(b, f.data...)
		out = pax.AppendPadding(out, f.Stored)
		want = append(want, f)
	}
	opt.MaxHeader *= 4
	got, err := readAll(bytes.NewReader(pax.AppendEnd(out)), opt)
	if err != nil {
		t.Fatal(err)
	}
	sameFiles(t, got, want)
}

func whole(ext []pax.Extent) bool {
	for i, e := range ext {
		if e.Length%512 != 0 && i < len(ext)-1 {
			return false
		}
	}
	return true
}

func sameAsGo(t *testing.T, b []byte, files []file) {
	r := tar.NewReader(bytes.NewReader(b))
	for i := 0; ; {
		h, err := r.Next()
		if err == io.EOF {
			if i != len(files) {
				t.Fatalf("Go reads %d members, not %d", i, len(files))
			}
			return
		}
		if err != nil {
			return
		}
		if h.Typeflag == tar.TypeXGlobalHeader { // Go returns it as if it were a member
			continue
		}
		if i == len(files) {
			t.Fatalf("Go reads %q after the end", h.Name)
		}
		f := files[i]
		i++
		if h.Typeflag == 'D' { // a body for Go, a record here
			continue
		}
		name := h.Name
		if f.Type == pax.TypeDir && name != "/" {
			name = strings.TrimRight(name, "/")
			if name == "" {
				name = "/"
			}
		}
		if name != f.Name {
			// Go before 1.9 wrote a prefix into GNU headers, and the reader still takes one that looks like text.
			if f.Format == "gnu" && strings.HasSuffix(name, "/"+f.Name) {
				return
			}
			t.Fatalf("name %q, Go reads %q", f.Name, name)
		}
		if f.Type.HeaderOnly() {
			if f.Size != 0 { // Go gives the field's value
				t.Fatal(f.Size)
			}
			if f.Linkname != "" && f.Linkname != h.Linkname {
				t.Fatalf("target %q, Go reads %q", f.Linkname, h.Linkname)
			}
			continue
		}
		if h.Size != f.Size {
			t.Fatalf("%q: size %d, Go reads %d", f.Name, f.Size, h.Size)
		}
		if f.Size > 1<<20 {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return
		}
		if !bytes.Equal(data, expand(f)) {
			t.Fatalf("%q: bytes differ from Go's", f.Name)
		}
	}
}
