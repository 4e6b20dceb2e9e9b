package all_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/all"
	"tarvm/formats/formatstest"
	"tarvm/formats/vmdk"
)

// chunk is the unit in which the tests write to guests.
const chunk = 64 << 10

// place returns what Probe says about where guest data lies in the file: for a
// file offset the offset within the guest's unit.
func place(h *formats.Header, off int64) int64 {
	if h.Unit == 0 {
		return off - h.Grid
	}
	d := (off - h.Grid) % h.Step()
	if d < 0 {
		d += h.Step()
	}
	return d
}

// Each subformat that qemu writes: guest data must be found where Probe says.
func TestGridOfWhatQemuWrites(t *testing.T) {
	for _, c := range []struct {
		format, options, size string
		file                  string // that holds the data; disk.img if empty
		want                  formats.Header
	}{
		{format: "vmdk", options: "subformat=monolithicSparse", size: "100M",
			want: formats.Header{Format: "vmdk", Subformat: "monolithicSparse", Unit: 64 << 10}},
		{format: "vmdk", options: "subformat=monolithicSparse,zeroed_grain=on", size: "64G",
			want: formats.Header{Format: "vmdk", Subformat: "monolithicSparse", Unit: 64 << 10}},
		{format: "vmdk", options: "subformat=twoGbMaxExtentSparse", size: "100M", file: "disk-s001.img",
			want: formats.Header{Format: "vmdk", Subformat: "twoGbMaxExtentSparse", Unit: 64 << 10}},
		{format: "vmdk", options: "subformat=twoGbMaxExtentSparse", size: "5G", file: "disk-s001.img",
			want: formats.Header{Format: "vmdk", Subformat: "twoGbMaxExtentSparse", Unit: 64 << 10}},
		{format: "qcow2", options: "compat=0.10", size: "100M", want: formats.Header{Format: "qcow2", Subformat: "v2", Unit: 64 << 10}},
		{format: "qcow2", options: "compat=1.1,cluster_size=512", size: "100M", want: formats.Header{Format: "qcow2", Subformat: "v3", Unit: 512}},
		{format: "qcow2", options: "cluster_size=4096", size: "100M", want: formats.Header{Format: "qcow2", Subformat: "v3", Unit: 4096}},
		{format: "qcow2", options: "cluster_size=2M", size: "100M", want: formats.Header{Format: "qcow2", Subformat: "v3", Unit: 2 << 20}},
		{format: "qcow2", options: "extended_l2=on,cluster_size=128k", size: "100M", want: formats.Header{Format: "qcow2", Subformat: "v3", Unit: 128 << 10}},
		{format: "qcow2", options: "compression_type=zstd,refcount_bits=1", size: "100M", want: formats.Header{Format: "qcow2", Subformat: "v3", Unit: 64 << 10}},
		{format: "qcow2", options: "preallocation=metadata", size: "100M", want: formats.Header{Format: "qcow2", Subformat: "v3", Unit: 64 << 10}},
		{format: "qcow", size: "100M", want: formats.Header{Format: "qcow", Subformat: "v1", Unit: 4096}},
		{format: "qed", size: "100M", want: formats.Header{Format: "qed", Unit: 64 << 10}},
		{format: "vdi", size: "100M", want: formats.Header{Format: "vdi", Subformat: "dynamic", Unit: 1 << 20, Grid: 1024}},
		{format: "vdi", size: "40G", want: formats.Header{Format: "vdi", Subformat: "dynamic", Unit: 1 << 20, Grid: (512 + 40960*4 + 511) / 512 * 512}},
		{format: "vdi", options: "static=on", size: "16M", want: formats.Header{Format: "vdi", Subformat: "fixed", Unit: 1 << 20, Grid: 1024}},
		{format: "vpc", options: "subformat=dynamic", size: "100M", want: formats.Header{Format: "vpc", Subformat: "dynamic", Unit: 2 << 20, Grid: 2560, Stride: 2<<20 + 512}},
		{format: "vpc", options: "subformat=dynamic,force_size=on", size: "40G", want: formats.Header{Format: "vpc", Subformat: "dynamic", Unit: 2 << 20, Grid: 1536 + 20480*4 + 512, Stride: 2<<20 + 512}},
		{format: "vpc", options: "subformat=fixed", size: "16M", want: formats.Header{Format: "vpc", Subformat: "fixed"}},
		{format: "vpc", options: "subformat=fixed,force_size=on", size: "16M", want: formats.Header{Format: "vpc", Subformat: "fixed"}},
		{format: "vhdx", size: "100M", want: formats.Header{Format: "vhdx", Subformat: "dynamic", Unit: 1 << 20}},
		{format: "vhdx", options: "block_size=1M", size: "4G", want: formats.Header{Format: "vhdx", Subformat: "dynamic", Unit: 1 << 20}},
		{format: "vhdx", options: "block_size=32M,subformat=fixed", size: "64M", want: formats.Header{Format: "vhdx", Subformat: "fixed", Unit: 1 << 20}},
		{format: "parallels", size: "100M", want: formats.Header{Format: "parallels", Subformat: "v2", Unit: 1 << 20}},
		{format: "parallels", options: "cluster_size=64k", size: "100M", want: formats.Header{Format: "parallels", Subformat: "v2", Unit: 64 << 10}},
	} {
		t.Run(c.format+" "+c.options+" "+c.size, func(t *testing.T) {
			t.Parallel()
			formatstest.Tool(t, "qemu-img")
			dir := t.TempDir()
			args := []string{"create", "-q", "-f", c.format}
			if c.options != "" {
				args = append(args, "-o", c.options)
			}
			formatstest.Run(t, dir, "qemu-img", append(args, "disk.img", c.size)...)

			// Written out of order, so that file order is not guest order.
			guest := []int64{14 << 20, 0, 5<<20 + 3*chunk, 9<<20 - chunk, 5 << 20}
			var io []string
			chunks := map[int64][]byte{}
			for i, off := range guest {
				b := make([]byte, chunk)
				rand.NewChaCha8([32]byte{byte(i), 77}).Read(b)
				chunks[off] = b
				name := fmt.Sprint("chunk", i)
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
					t.Fatal(err)
				}
				io = append(io, "-c", fmt.Sprintf("write -s %s %d %d", name, off, chunk))
			}
			formatstest.Run(t, dir, "qemu-io", append(io, "-f", c.format, "disk.img")...)

			file := "disk.img"
			if c.file != "" {
				file = c.file
			}
			f, err := os.Open(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, info.Size())
			if _, err := f.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			h, err := formats.Probe(bytes.NewReader(b), all.Disks())
			if err != nil {
				t.Fatal(err)
			}
			if c.file == "" {
				c.want.VirtualSize = virtualSize(t, dir, c.format)
			} else {
				c.want.VirtualSize = h.VirtualSize // of one extent
			}
			if *h != c.want {
				t.Errorf("got %+v, want %+v", h, c.want)
			}
			piece := int64(chunk)
			if h.Unit > 0 {
				piece = min(piece, h.Unit)
			}
			for off, data := range chunks {
				for i := int64(0); i < chunk; i += piece {
					at := int64(bytes.Index(b, data[i:i+piece]))
					if at < 0 {
						t.Fatalf("guest data of %d is not in the file", off+i)
					}
					want := off + i
					if h.Unit > 0 {
						want %= h.Unit
					}
					if got := place(h, at); got != want {
						t.Errorf("guest offset %d is at %d: %d in its unit, want %d", off+i, at, got, want)
					}
				}
			}
		})
	}
}

// virtualSize asks qemu-img.
func virtualSize(t *testing.T, dir, format string) int64 {
	t.Helper()
	var info struct {
		VirtualSize int64 `json:"virtual-size"`
	}
	out := formatstest.Run(t, dir, "qemu-img", "info", "-f", format, "--output=json", "disk.img")
	if err := json.Unmarshal(out, &info); err != nil || info.VirtualSize == 0 {
		t.Fatalf("%v in %s", err, out)
	}
	return info.VirtualSize
}

// What has no grid: compressed data, descriptors, flat extents, parents.
func TestOtherThingsQemuWrites(t *testing.T) {
	formatstest.Tool(t, "qemu-img")
	dir := t.TempDir()
	qemu := func(args ...string) { formatstest.Run(t, dir, "qemu-img", args...) }
	raw := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{5}).Read(raw[:1<<20])
	if err := os.WriteFile(filepath.Join(dir, "raw"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	qemu("convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "raw", "stream.vmdk")
	qemu("convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", "raw", "flat.vmdk")
	qemu("convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", "raw", "two.vmdk")
	qemu("create", "-q", "-f", "vmdk", "-b", "flat.vmdk", "-F", "vmdk", "child.vmdk")
	qemu("create", "-q", "-f", "qcow2", "-b", "a b.qcow2", "-F", "qcow2", "-u", "child.qcow2", "4M")
	qemu("create", "-q", "-f", "qcow", "-b", "raw", "-F", "raw", "child.qcow")
	qemu("create", "-q", "-f", "qed", "-b", "raw", "-F", "raw", "child.qed")
	qemu("create", "-q", "-f", "qcow2", "-o", "data_file=ext.data", "ext.qcow2", "4M")
	for name, want := range map[string]formats.Header{
		"stream.vmdk": {Format: "vmdk", Subformat: "streamOptimized", VirtualSize: 4 << 20, Unit: 64 << 10, Compressed: true},
		"flat.vmdk":   {Format: "vmdk", Subformat: "descriptor", VirtualSize: 4 << 20},
		"two.vmdk":    {Format: "vmdk", Subformat: "descriptor", VirtualSize: 4 << 20},
		"child.vmdk":  {Format: "vmdk", Subformat: "monolithicSparse", VirtualSize: 4 << 20, Unit: 64 << 10, ParentHint: "flat.vmdk"},
		"child.qcow2": {Format: "qcow2", Subformat: "v3", VirtualSize: 4 << 20, Unit: 64 << 10, ParentHint: "a b.qcow2"},
		"child.qcow":  {Format: "qcow", Subformat: "v1", VirtualSize: 4 << 20, Unit: 512, ParentHint: "raw"},
		"child.qed":   {Format: "qed", VirtualSize: 4 << 20, Unit: 64 << 10, ParentHint: "raw"},
		"ext.qcow2":   {Format: "qcow2", Subformat: "v3", VirtualSize: 4 << 20},
	} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		h, err := formats.Probe(bytes.NewReader(b), all.Disks())
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
	for _, name := range []string{"raw", "flat-flat.vmdk", "two-f001.vmdk"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if h, err := formats.Probe(bytes.NewReader(b), all.Disks()); !errors.Is(err, formats.ErrNotFormat) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	d, err := vmdk.ReadDescriptor(open(t, filepath.Join(dir, "two.vmdk")))
	if err != nil || len(d.Extents) != 1 || d.Extents[0].File != "two-f001.vmdk" || d.Extents[0].Type != "FLAT" {
		t.Errorf("%+v, %v", d, err)
	}
}

func open(t *testing.T, path string) formats.Source {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}

// Every image of the corpus is recognised as what its index says, or refused.
func TestCorpus(t *testing.T) {
	formatstest.OneGoroutine(t)
	dir := filepath.Join("..", "..", "..", "shared", "corpus", "images")
	recognised, refused := 0, 0
	for _, s := range formatstest.Corpus(t, dir, 150<<20) {
		h, err := formats.Probe(bytes.NewReader(s.Bytes), all.Disks())
		malformed := strings.HasPrefix(s.Notes, "MALFORMED")
		switch {
		case malformed:
			if !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrUnsupported) {
				t.Errorf("%s is malformed: %+v, %v", s.Path, h, err)
			}
			refused++
			continue
		case s.Format == "?":
			// Extents alone and descriptors without their extents.
			if err != nil || h.Format != "vmdk" || h.VirtualSize == 0 {
				t.Errorf("%s: %+v, %v", s.Path, h, err)
			}
		case s.Format == "raw" || s.Format == "bochs" || s.Format == "cloop" || s.Format == "dmg":
			if !errors.Is(err, formats.ErrNotFormat) {
				t.Errorf("%s is %s: %+v, %v", s.Path, s.Format, h, err)
			}
			continue
		case err != nil || h.Format != s.Format || h.VirtualSize != s.VirtualSize:
			t.Errorf("%s: %+v, %v, want %s of %d bytes", s.Path, h, err, s.Format, s.VirtualSize)
		}
		recognised++
		for _, f := range all.Disks() {
			h2, err2 := formatstest.CheckProbe(t, f, s.Bytes)
			if claims := !errors.Is(err2, formats.ErrNotFormat); claims != (f.Name() == h.Format) {
				t.Errorf("%s is %s; %s says %+v, %v", s.Path, h.Format, f.Name(), h2, err2)
			}
		}
	}
	if recognised < 20 || refused < 4 {
		t.Errorf("recognised %d, refused %d: the corpus is not what it was", recognised, refused)
	}
}

// The same files by VMware on one disk: where grains lie, guest data is the same.
func TestCorpusGridsAgree(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "corpus", "images", "vmdk-rs")
	if _, err := os.Stat(dir); err != nil {
		t.Skip(err)
	}
	units := func(name string) map[string]bool {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		h, err := formats.Probe(bytes.NewReader(b), all.Disks())
		if err != nil {
			t.Fatal(err)
		}
		set := map[string]bool{}
		for off := h.Grid; off+h.Unit <= int64(len(b)); off += h.Step() {
			set[string(b[off:off+h.Unit])] = true
		}
		return set
	}
	mono, split := units("monolithicSparse.vmdk"), units("twoGbMaxExtentSparse-s001.vmdk")
	same := 0
	for u := range mono {
		if split[u] {
			same++
		}
	}
	if same != 18 { // what the disk's grains hold, without repetitions
		t.Errorf("%d grains in common", same)
	}
}

func FuzzProbe(f *testing.F) {
	for _, magic := range []string{"KDMV", "COWD", "QFI\xfb", "QED\x00", "conectix", "vhdxfile", "WithoutFreeSpace", "WithouFreSpacExt", "# Disk DescriptorFile\n"} {
		f.Add([]byte(magic), uint16(4096))
	}
	f.Fuzz(func(t *testing.T, b []byte, pad uint16) {
		b = append(b, make([]byte, pad)...)
		h, err := formats.Probe(bytes.NewReader(b), all.Disks())
		claimed := 0
		for _, d := range all.Disks() {
			h2, err2 := formatstest.CheckProbe(t, d, b)
			if errors.Is(err2, formats.ErrNotFormat) {
				continue
			}
			if claimed++; claimed == 1 && (fmt.Sprint(err) != fmt.Sprint(err2) || *h != *h2) {
				t.Errorf("%s: %+v, %v; Probe says %+v, %v", d.Name(), h2, err2, h, err)
			}
		}
		if errors.Is(err, formats.ErrNotFormat) != (claimed == 0) {
			t.Errorf("%d claims, Probe says %+v, %v", claimed, h, err)
		}
	})
}

// Every image of the corpus has the content that its index says, and its check finds nothing that endangers it.
func TestCorpusContents(t *testing.T) {
	formatstest.OneGoroutine(t)
	dir := filepath.Join("..", "..", "..", "shared", "corpus", "images")
	read := 0
	for _, s := range formatstest.Corpus(t, dir, 150<<20) {
		if s.NonZero == "" || strings.HasPrefix(s.Notes, "MALFORMED") {
			continue
		}
		h, err := formats.Probe(bytes.NewReader(s.Bytes), all.Disks())
		if err != nil {
			continue // of no format of ours
		}
		t.Run(s.Path, func(t *testing.T) {
			i := slices.IndexFunc(all.Disks(), func(f formats.Format) bool { return f.Name() == h.Format })
			m, err := all.Disks()[i].Open(bytes.NewReader(s.Bytes), formats.OpenOptions{Find: func(name string) (formats.Source, error) {
				return open(t, filepath.Join(dir, filepath.Dir(s.Path), filepath.Base(name))), nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			if m.Parent != nil {
				t.Skip("its parent is not in the corpus")
			}
			for _, p := range formatstest.Problems(t, m) {
				if p.Severity == formats.Risk {
					t.Errorf("%v", p)
				}
			}
			d := formatstest.Disk(t, m)
			sum, buf, last := sha256.New(), make([]byte, chunk), int64(-1)
			for e, err := range d.Extents(0, d.Size()) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Kind == formats.Zero || e.Kind == formats.Hole {
					continue
				}
				for k := max(last+1, e.Offset/chunk); k*chunk < e.End(); k++ {
					b := buf[:min(chunk, d.Size()-k*chunk)]
					if n, err := d.ReadAt(b, k*chunk); n < len(b) {
						t.Fatalf("at %d: %v", k*chunk, err)
					}
					last = k
					if !formats.IsZero(b) {
						sum.Write(binary.LittleEndian.AppendUint64(nil, uint64(k)))
						sum.Write(b)
					}
				}
			}
			if got := fmt.Sprintf("%x", sum.Sum(nil)); got != s.NonZero {
				t.Errorf("content %s, want %s", got, s.NonZero)
			}
			read++
		})
	}
	if read < 15 {
		t.Errorf("only %d images were read: the corpus is not what it was", read)
	}
}
