package xva

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"tarvm/formats"
	"tarvm/formats/machine"
)

// keepAlive is how many blocks may be left out in a row, so that there are bytes every 4 GiB of zeros: each 60 s at
// 70 MB/s, at a cost of 0.02 %.
const keepAlive = 4096

// maxBlocks is the largest block number that has eight digits, plus one: 95 TiB.
const maxBlocks = 100_000_000

// Options say how a file is written. The zero value works.
type Options struct {
	// ID is what UUIDs are made of that the machine does not say. Zero: it is made of the machine's UUID and name.
	ID [16]byte
	// Unix is the time of the archive's members, seconds since 1970.
	Unix int64
	// Variables are those of the firmware: OVMF's file, or what varstored keeps of them. nil: a machine that came from an
	// XVA keeps its own.
	Variables []byte
	// Workers is how many goroutines read and hash; 0: GOMAXPROCS. The bytes written are the same for any number.
	Workers int
	// Progress is told how many bytes of all disks were done; nil: nobody.
	Progress func(done int64)
}

// Losses returns what Write would report, and writes nothing.
func Losses(m *machine.Machine, disks []Disk, o Options) ([]machine.Loss, error) {
	e, err := prepare(m, disks, &o)
	if err != nil {
		return nil, err
	}
	return e.losses, nil
}

// Write writes m and its disks to w, front to back. Of each Disk, At names the drive of m that it is the content of;
// drives without one are left out, which is reported, as is what else m has and a machine of XenServer does not. It is
// an error that wraps machine.ErrSyntax when no drive is at At. m is not changed; disks are not closed. What was written
// is of no use after an error.
//
// The file holds one machine: the snapshots of one that was read from an XVA are left out, and what was suspended is
// halted.
func Write(ctx context.Context, w io.Writer, m *machine.Machine, disks []Disk, o Options) ([]machine.Loss, error) {
	e, err := prepare(m, disks, &o)
	if err != nil {
		return nil, err
	}
	b := e.doc.root.xml()
	if len(b) > machine.MaxConfig {
		return nil, fmt.Errorf("xva: ova.xml of %d bytes: %w", len(b), machine.ErrUnsupported)
	}
	out := &writer{tw: tar.NewWriter(w), unix: time.Unix(o.Unix, 0).UTC()}
	if err := out.member("ova.xml", b); err != nil {
		return nil, err
	}
	// An import reads the disks in the order of their ids, as text.
	var list []output
	for _, d := range disks {
		if vdi := e.vdi[d.At]; vdi != nil {
			list = append(list, output{d.Content, vdi, d.Source})
		}
	}
	slices.SortFunc(list, func(a, b output) int { return cmp.Compare(a.vdi.id, b.vdi.id) })
	for _, d := range list {
		if err := out.disk(ctx, d, &o); err != nil {
			name := d.vdi.snap.str("name_label")
			if d.source != "" {
				name = fmt.Sprintf("%s, made of %.300q", name, d.source)
			}
			return nil, fmt.Errorf("xva: disk %s: %w", name, err)
		}
		out.done += d.content.Size()
	}
	return e.losses, out.tw.Close()
}

type output struct {
	content formats.Disk
	vdi     *object
	source  string // for errors
}

// prepare makes the document and checks that each disk has its place.
func prepare(m *machine.Machine, disks []Disk, o *Options) (*encoder, error) {
	sizes := map[machine.Address]int64{}
	for _, d := range disks {
		at := m.DriveAt(d.At)
		if _, twice := sizes[d.At]; at == nil || at.Kind != machine.Disk || twice {
			return nil, fmt.Errorf("xva: a disk for the drive %s, which is none of its own: %w", d.At, machine.ErrSyntax)
		}
		if d.Content.Size() > maxDisk {
			return nil, fmt.Errorf("xva: drive %s: %d bytes, limit %d: %w", d.At, d.Content.Size(), int64(maxDisk), machine.ErrUnsupported)
		}
		sizes[d.At] = d.Content.Size()
	}
	e, err := encode(m, sizes, o)
	if err != nil {
		return nil, err
	}
	e.prune()
	return e, nil
}

// prune removes what an import would look for blocks of, and not find: other machines, and the memory of suspended
// ones.
func (e *encoder) prune() {
	for _, o := range slices.Clone(e.doc.objects) {
		if o.class != "VM" || o == e.vm {
			continue
		}
		e.lose(fmt.Sprintf("%s %s", o.kind(), o.snap.str("name_label")), "left out: the file holds one machine")
		for _, class := range []string{"VBD", "VIF", "VTPM", "VGPU"} {
			for _, dev := range e.doc.of(class, o.id) {
				e.remove(dev)
			}
		}
		e.remove(o)
	}
	s := e.vm.snap
	if w := s.get("snapshots"); w != nil && len(w.items) > 0 {
		s.set("snapshots", array())
	}
	if id := s.str("suspend_VDI"); id != "" && id != null {
		e.lose("memory", "left out: the machine is halted")
		s.setText("suspend_VDI", null)
		s.setText("power_state", "Halted")
	}
	for _, o := range slices.Clone(e.doc.objects) {
		if o.class != "VDI" || e.used(o) && !slices.ContainsFunc(e.doc.objects, func(v *object) bool {
			return v.class == "VM" && v.snap.str("suspend_VDI") == o.id
		}) {
			continue
		}
		e.remove(o)
	}
}

// writer writes members.
type writer struct {
	tw   *tar.Writer
	unix time.Time
	done int64 // bytes of the disks before
}

func (w *writer) member(name string, b []byte) error {
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: int64(len(b)), Mode: 0o644, ModTime: w.unix, Format: tar.FormatUSTAR,
	}
	if err := w.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("xva: %s: %w", name, err)
	}
	_, err := w.tw.Write(b)
	return err
}

func (w *writer) block(ref string, n int64, b []byte, sum uint64) error {
	name := fmt.Sprintf("%s/%08d", ref, n)
	if err := w.member(name, b); err != nil {
		return err
	}
	return w.member(name+".xxhash", []byte(xxText(sum)))
}

// disk writes the blocks of one disk.
func (w *writer) disk(ctx context.Context, d output, o *Options) error {
	size, err := d.vdi.snap.number("virtual_size", maxDisk)
	if err != nil {
		return err
	}
	count := (size + blockSize - 1) / blockSize
	if count > maxBlocks {
		return machine.ErrUnsupported
	}
	zero := make([]byte, blockSize)
	zeroSum := xxhash.Sum64(zero)
	// bytes is how much of a block is in the disk: all of it, but for the last of a disk that came from an XVA and is
	// written as it was.
	bytes := func(n int64) int64 { return min(blockSize, size-n*blockSize) }
	next := int64(0) // the first block that was neither written nor left out
	// upTo writes the zero blocks before n that must be there.
	upTo := func(n int64) error {
		for next < n {
			switch {
			case next == count-1:
				b := zero[:bytes(next)]
				sum := zeroSum
				if len(b) < len(zero) {
					sum = xxhash.Sum64(b)
				}
				if err := w.block(d.vdi.id, next, b, sum); err != nil {
					return err
				}
				next++
			case next%keepAlive == 0:
				if err := w.block(d.vdi.id, next, zero, zeroSum); err != nil {
					return err
				}
				next++
			default: // to the next that may have to be there
				next = min(n, count-1, (next/keepAlive+1)*keepAlive)
			}
		}
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	eo := formats.EncodeOptions{
		Workers: o.Workers,
		// It is called for blocks that turned out to be zero, too, so that they are written while a long row of them is read.
		Progress: func(done int64) {
			if err := upTo(min(done/blockSize, count-1)); err != nil {
				stop(err)
			}
			if o.Progress != nil {
				o.Progress(w.done + done)
			}
		},
	}
	work := func(_ int, u *formats.Unit) error {
		u.Out = u.Data[:bytes(u.Index)]
		u.Any = xxhash.Sum64(u.Out)
		return nil
	}
	emit := func(u *formats.Unit) error {
		if err := upTo(u.Index); err != nil {
			return err
		}
		sum, ok := u.Any.(uint64)
		if !ok {
			return errors.New("a block without digest") // a bug: work made it
		}
		next = u.Index + 1
		return w.block(d.vdi.id, u.Index, u.Out, sum)
	}
	if err := formats.Units(ctx, d.content, blockSize, &eo, work, emit); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return upTo(count)
}
