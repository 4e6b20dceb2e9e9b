package chain

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/archive"
	codecs "tarvm/archive/codec/all"
)

func TestVerify(t *testing.T) {
	h := newHistory(t, 5, 3, "zstd")
	c := h.chain(t, 3)
	for n := range 3 {
		r, err := Verify(bg, c, VerifyOptions{Entry: n})
		if err != nil || r.Err() != nil || r.Members == 0 || r.Bytes == 0 {
			t.Errorf("entry %d from the end: %+v, %v", n, r, err)
		}
	}
	if _, err := Verify(bg, c, VerifyOptions{Entry: 3}); err == nil {
		t.Error("an entry below the base was verified")
	}
}

// TestVerifyDamage flips a bit in every place where data is, and compares what is reported with what a reader of
// the file finds.
func TestVerifyDamage(t *testing.T) {
	for _, codec := range []string{"none", "lz4"} {
		h := newHistory(t, 6, 3, codec)
		for k, raw := range h.raw {
			for at := 40_000; at < len(raw); at += len(raw)/7 + 1 {
				bad := bytes.Clone(raw)
				bad[at] ^= 1
				a, err := archive.Open(bytes.NewReader(bad), codecs.Codecs())
				if err != nil {
					continue
				}
				archs := append([]*archive.Archive{}, h.archs...)
				archs[k] = a
				c, err := New(archs)
				if err != nil {
					continue
				}
				r, err := Verify(bg, c, VerifyOptions{})
				if err != nil {
					t.Fatal(err)
				}
				damaged := make(map[string]int)
				for _, d := range r.Damages {
					damaged[string(d.Member)]++
					if d.Length <= 0 || d.Offset < 0 || d.What == "" {
						t.Errorf("damage %+v", d)
					}
				}
				for i := range c.Snapshot(2).Members {
					m := &c.Snapshot(2).Members[i]
					if m.Type != "file" {
						continue
					}
					f, err := c.Open(2, m.Path)
					if err != nil {
						t.Fatal(err)
					}
					b := make([]byte, f.Size())
					var bytesBad int64
					block := int64(64 << 10)
					for off := int64(0); off < f.Size(); off += block {
						if _, err := f.ReadAt(b[off:min(off+block, f.Size())], off); err != nil {
							bytesBad++
						}
					}
					if (bytesBad > 0) != (damaged[string(m.Path)] > 0) {
						t.Errorf("%s, byte %d of archive %d: %s: a reader finds %d bad blocks, Verify %d places", codec, at, k, m.Path, bytesBad, damaged[string(m.Path)])
					}
				}
				dir := filepath.Join(t.TempDir(), "out")
				_, err = Restore(bg, c, 2, dir, RestoreOptions{})
				if (err != nil) != (len(r.Damages) > 0) {
					t.Errorf("%s, byte %d of archive %d: %d damages, and the restore says %v", codec, at, k, len(r.Damages), err)
				}
				if err != nil {
					nothingLeft(t, filepath.Dir(dir))
				}
			}
		}
	}
}

// nothingLeft fails if dir holds anything.
func nothingLeft(t testing.TB, dir string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		t.Errorf("%s holds %s", dir, e.Name())
	}
}

func TestReportErr(t *testing.T) {
	r := &Report{Damages: []Damage{{"a", 1, 2, "x"}, {"b", 1, 2, "x"}}}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "2 damaged places") {
		t.Error(err)
	}
}
