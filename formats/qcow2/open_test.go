package qcow2_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qcow2"
)

// create makes an image with qemu-img; more goes before the file's name.
func create(t testing.TB, path, options string, size int64, more ...string) {
	t.Helper()
	args := []string{"create", "-q", "-f", "qcow2"}
	if options != "" {
		args = append(args, "-o", options)
	}
	args = append(append(args, more...), filepath.Base(path), fmt.Sprint(size))
	formatstest.Run(t, filepath.Dir(path), "qemu-img", args...)
}

// qemuIO runs commands of qemu-io on an image.
func qemuIO(t testing.TB, path string, cmds ...string) {
	t.Helper()
	var args []string
	for _, c := range cmds {
		args = append(args, "-c", c)
	}
	out := formatstest.Run(t, filepath.Dir(path), "qemu-io", append(args, "-f", "qcow2", filepath.Base(path))...)
	if bytes.Contains(out, []byte("failed")) {
		t.Fatalf("qemu-io: %s", out)
	}
}

// writes makes commands of qemu-io that write to n places of a disk, of all the
// ways there are. Sizes are multiples of 512.
func writes(seed uint64, n int, size, unit int64, compress bool) []string {
	r := rand.New(rand.NewPCG(seed, 1))
	var list []string
	if compress { // qemu does not compress into clusters that are in use
		for _, c := range r.Perm(int(size / unit))[:min(n/4, int(size/unit))] {
			list = append(list, fmt.Sprintf("write -c -P %d %d %d", c%250+1, int64(c)*unit, unit))
		}
	}
	for i := range n {
		off := r.Int64N(size/512) * 512
		length := min(size-off, (1+r.Int64N(4*unit/512))*512)
		switch r.IntN(5) {
		case 0:
			list = append(list, fmt.Sprintf("write -z %d %d", off, length))
		case 1:
			list = append(list, fmt.Sprintf("write -z -u %d %d", off, length))
		case 2:
			off &^= unit - 1
			list = append(list, fmt.Sprintf("discard %d %d", off, min(size-off, length+unit)))
		default:
			list = append(list, fmt.Sprintf("write -P %d %d %d", i%250+1, off, length))
		}
	}
	return list
}

// checkMap compares the extents of d with those that qemu-img lists.
func checkMap(t *testing.T, d formats.Disk, path string) {
	t.Helper()
	for _, q := range formatstest.QemuMap(t, "qcow2", path) {
		for e, err := range d.Extents(q.Start, q.Length) {
			if err != nil {
				t.Fatal(err)
			}
			ok := true
			switch e.Kind {
			case formats.Data:
				ok = q.Data && q.Depth == e.Depth && q.Offset != nil && *q.Offset+e.Offset-q.Start == e.Host
				if q.Zero { // a hole of the file below
					ok = true
				}
			case formats.Compressed:
				ok = q.Data && q.Depth == e.Depth && q.Offset == nil
			case formats.Zero:
				ok = q.Zero && !q.Data
			case formats.Hole:
				ok = q.Zero && !q.Data
			default:
				ok = false
			}
			if !ok && e.End() <= d.Size()&^511 {
				t.Errorf("%+v, qemu-img says %+v", e, q)
				return
			}
		}
	}
}

// check runs the image's own check, which must find nothing, and qemu's.
func check(t testing.TB, m *formats.Image, path string) {
	t.Helper()
	for _, p := range formatstest.Problems(t, m) {
		t.Errorf("%s: %v", p.Severity, p)
	}
	formatstest.QemuCheck(t, "qcow2", path)
}

func fact(m *formats.Image, name string) string {
	for _, f := range m.Facts {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

var clusterSizes = []int64{512, 1024, 4096, 16 << 10, 64 << 10, 512 << 10, 2 << 20}

// Each variant that qemu writes, with every kind of cluster.
func TestVariantsAgainstQemu(t *testing.T) {
	type variant struct {
		options string
		unit    int64
	}
	var list []variant
	for _, unit := range clusterSizes {
		list = append(list, variant{fmt.Sprintf("compat=1.1,cluster_size=%d", unit), unit})
	}
	for _, unit := range []int64{512, 64 << 10} {
		list = append(list, variant{fmt.Sprintf("compat=0.10,cluster_size=%d", unit), unit})
	}
	for _, bits := range []int{1, 2, 4, 8, 32, 64} {
		list = append(list, variant{fmt.Sprintf("refcount_bits=%d,cluster_size=4096", bits), 4096})
	}
	for _, unit := range []int64{16 << 10, 2 << 20} {
		list = append(list, variant{fmt.Sprintf("extended_l2=on,cluster_size=%d", unit), unit})
	}
	list = append(list,
		variant{"compression_type=zstd", 64 << 10},
		variant{"compression_type=zstd,cluster_size=4096,extended_l2=off", 4096},
		variant{"compression_type=zstd,extended_l2=on,cluster_size=16k", 16 << 10},
		variant{"lazy_refcounts=on", 64 << 10},
		variant{"preallocation=metadata", 64 << 10},
		variant{"preallocation=metadata,extended_l2=on", 64 << 10},
	)
	for i, v := range list {
		t.Run(v.options, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "disk.qcow2")
			size := max(4<<20, 20*v.unit) + 512*int64(1+i)
			if strings.Contains(v.options, "cluster_size=512,") || strings.HasSuffix(v.options, "=512") {
				size = 1<<20 + 512*int64(i)
			}
			create(t, path, v.options, size)
			qemuIO(t, path, writes(uint64(i), 40, size, v.unit, !strings.Contains(v.options, "preallocation"))...)
			m := formatstest.OpenFile(t, qcow2.Format{}, path)
			if m.VirtualSize != size || m.Unit != v.unit || fact(m, "cluster size") != fmt.Sprint(v.unit) {
				t.Errorf("%+v", m.Header)
			}
			d := formatstest.Disk(t, m)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "qcow2", path))
			checkMap(t, d, path)
			check(t, m, path)
		})
	}
}

func TestCompressedAgainstQemu(t *testing.T) {
	pattern := formatstest.NewPattern(t, 5, 9<<20+1536)
	for _, typ := range []string{"zlib", "zstd"} {
		for _, unit := range []int64{512, 4096, 64 << 10, 2 << 20} {
			t.Run(fmt.Sprint(typ, unit), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "disk.qcow2")
				n := len(pattern.Bytes)
				if unit == 512 {
					n = 1<<20 + 1536
				}
				if err := os.WriteFile(raw, pattern.Bytes[:n], 0o600); err != nil {
					t.Fatal(err)
				}
				formatstest.Run(t, dir, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2",
					"-o", fmt.Sprintf("compression_type=%s,cluster_size=%d", typ, unit), raw, path)
				m := formatstest.OpenFile(t, qcow2.Format{}, path)
				if got := fact(m, "compression"); got != typ {
					t.Errorf("compression %s", got)
				}
				d := formatstest.Disk(t, m)
				formatstest.CheckDisk(t, d, bytes.NewReader(pattern.Bytes[:n]))
				checkMap(t, d, path)
				check(t, m, path)
			})
		}
	}
}
