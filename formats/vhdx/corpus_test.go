package vhdx_test

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhdx"
)

// digest is that of the corpus' index: over the number and the bytes of each
// block of 64 KiB that is not zero.
func digest(t testing.TB, d formats.Disk) (blocks int, sum string) {
	t.Helper()
	h := sha256.New()
	buf := make([]byte, 64<<10)
	next := int64(0)
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == formats.Hole || e.Kind == formats.Zero {
			continue
		}
		for off := max(next, e.Offset&^0xffff); off < e.End(); off += 64 << 10 {
			b := buf[:min(64<<10, d.Size()-off)]
			if _, err := d.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			next = off + 64<<10
			if formats.IsZero(b) {
				continue
			}
			blocks++
			h.Write(binary.LittleEndian.AppendUint64(nil, uint64(off>>16)))
			h.Write(b)
		}
	}
	return blocks, fmt.Sprintf("%x", h.Sum(nil))
}

// Images by Hyper-V, Disk2vhd and DiscUtils hold what the corpus' index says. One
// has a log in use: the sum is of the disk after the replay.
func TestCorpus(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "corpus", "images")
	f, err := os.Open(filepath.Join(dir, "INDEX.tsv"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = '\t', true, -1
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, row := range rows[1:] {
		if row[4] != "vhdx" {
			continue
		}
		t.Run(row[0], func(t *testing.T) {
			read++
			if n, err := strconv.ParseInt(row[5], 10, 64); err != nil || n > 100<<20 && os.Getenv("TARVM_REQUIRE_TOOLS") != "1" {
				t.Skipf("%s bytes: read where TARVM_REQUIRE_TOOLS is 1", row[5])
			}
			path := unpack(t, filepath.Join(dir, row[0]))
			m := formatstest.OpenFile(t, vhdx.Format{}, path)
			d := formatstest.Disk(t, m)
			n, sum := digest(t, d)
			if got := []string{fmt.Sprint(d.Size()), fmt.Sprint(n), sum}; !equal(got, []string{row[6], row[8], row[9]}) {
				t.Errorf("size, blocks, sum %q, want %q", got, []string{row[6], row[8], row[9]})
			}
			list := problems(t, m)
			for _, p := range list {
				if strings.HasPrefix(p, "risk") {
					t.Error(p)
				}
			}
			t.Logf("%v: %q", m.Facts, list)
		})
	}
	if read < 5 {
		t.Errorf("%d images: the corpus is not what it was", read)
	}
}

func equal(a, b []string) bool { return strings.Join(a, "\t") == strings.Join(b, "\t") }

// unpack decompresses a file into a sparse one.
func unpack(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	r := bzip2.NewReader(f)
	if filepath.Ext(path) == ".gz" {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "disk.vhdx"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		if n > 0 && !formats.IsZero(buf[:n]) {
			if _, err := out.WriteAt(buf[:n], off); err != nil {
				t.Fatal(err)
			}
		}
		off += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if err := out.Truncate(off); err != nil {
				t.Fatal(err)
			}
			return out.Name()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The log that Windows left in use is replayed as qemu does it in a copy.
func TestCorpusLogAgainstQemu(t *testing.T) {
	path := unpack(t, filepath.Join("..", "..", "..", "shared", "corpus", "images", "discutils",
		"vhdx-log-replay.vhdx.gz"))
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, before)
	found := false
	for _, p := range m.Problems {
		found = found || strings.Contains(p.Text, "in use: ")
	}
	if !found {
		t.Errorf("problems %v", m.Problems)
	}
	formatstest.Run(t, filepath.Dir(path), "qemu-img", "check", "-r", "all", "-f", "vhdx", path)
	formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.QemuRaw(t, "vhdx", path))
	after, err := os.ReadFile(path)
	if err != nil || bytes.Equal(before, after) {
		t.Errorf("qemu changed nothing, %v", err)
	}
}
