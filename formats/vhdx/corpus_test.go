package vhdx_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhdx"
)

// digest is Sample.NonZero of what d holds.
func digest(t testing.TB, d formats.Disk) string {
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
			h.Write(binary.LittleEndian.AppendUint64(nil, uint64(off>>16)))
			h.Write(b)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

const corpus = "../../../shared/corpus/images"

// Images by Hyper-V, Disk2vhd and DiscUtils hold what the corpus' index says. One
// has a log in use: the sum is of the disk after the replay.
func TestCorpus(t *testing.T) {
	formatstest.OneGoroutine(t)
	limit := int64(300 << 20)
	if os.Getenv("TARVM_BIG") != "" {
		limit = 1 << 30
	}
	read := 0
	for _, s := range formatstest.Corpus(t, corpus, limit, vhdx.Name) {
		read++
		t.Run(s.Path, func(t *testing.T) {
			m := open(t, s.Bytes)
			d := formatstest.Disk(t, m)
			if sum := digest(t, d); d.Size() != s.VirtualSize || sum != s.NonZero {
				t.Errorf("%d bytes, sum %s, want %d, %s", d.Size(), sum, s.VirtualSize, s.NonZero)
			}
			for _, p := range formatstest.ProblemTexts(t, m) {
				if strings.HasPrefix(p, "risk") {
					t.Error(p)
				}
			}
		})
	}
	if read < 4 {
		t.Errorf("%d images: the corpus is not what it was", read)
	}
}

// The log that Windows left in use is replayed as qemu does it in a copy.
func TestCorpusLogAgainstQemu(t *testing.T) {
	var before []byte
	for _, s := range formatstest.Corpus(t, corpus, 64<<20, vhdx.Name) {
		if strings.HasSuffix(s.Path, "vhdx-log-replay.vhdx.gz") {
			before = s.Bytes
		}
	}
	path := filepath.Join(t.TempDir(), "disk.vhdx")
	if err := os.WriteFile(path, before, 0o600); err != nil {
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
