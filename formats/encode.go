package formats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// EncodeOptions say how a disk is written. The zero value works for every
// format.
type EncodeOptions struct {
	// Subformat in the format's own words; empty: the format's default.
	Subformat string
	// Compression of guest data where the format has a choice: none, deflate,
	// zstd. Empty: that of the subformat, or none.
	Compression string
	// Level of the compression, 1 fastest to 9 smallest; 0: a good default.
	Level int
	// Unit is the cluster, grain or block in bytes; 0: the format's default.
	Unit int64
	// Base is a disk on which the image builds: what is equal to it is left
	// out. Parent says how the image names it. nil: the image stands alone.
	Base   Disk
	Parent *ParentRef
	// ID is what tells this image from all others: UUIDs and content ids are
	// made of it. Images with the same ID cannot be used in one hypervisor.
	ID [16]byte
	// Unix is the time that headers say, seconds since 1970.
	Unix int64
	// Adapter is the controller that a header names, in VMDK's words: ide,
	// buslogic, lsilogic, legacyESX. Empty: the format's default.
	Adapter string
	// Workers is how many goroutines read and compress; 0: GOMAXPROCS. The
	// bytes written are the same for any number.
	Workers int
	// Progress is told how many guest bytes were done, in order; nil: nobody.
	Progress func(done int64)
}

// An Output is where an encoder writes. *os.File is one. Bytes that were never
// written are zero.
type Output interface {
	io.WriterAt
	// Truncate sets the size.
	Truncate(size int64) error
}

// Outputs makes the files of an image.
type Outputs struct {
	// Main is the file that has the image's name.
	Main Output
	// Name is the base name of Main, without a directory.
	Name string
	// Create makes a further file beside Main, by its base name. nil: there
	// can be only one file, and a subformat of several is ErrUnsupported.
	Create func(name string) (Output, error)
}

// An Encoder is a Format that can be written.
type Encoder interface {
	Format
	// Subformats are the values of EncodeOptions.Subformat, the default first.
	Subformats() []string
	// Streams reports whether Encode writes the file front to back, so that it
	// may be a pipe: see Stream.
	Streams(o *EncodeOptions) bool
	// Encode writes d. It is ErrUnsupported when the options ask for what the
	// format cannot express. What was written is of no use after an error.
	Encode(ctx context.Context, out Outputs, d Disk, o EncodeOptions) error
}

// ErrSeek: an encoder that does not stream was given a pipe.
var ErrSeek = errors.New("this form cannot be written to a pipe")

// NewStream returns an Output that writes to w front to back: gaps become
// zeros, and going back is ErrSeek.
func NewStream(w io.Writer) Output { return &stream{w: w} }

type stream struct {
	w   io.Writer
	pos int64
}

var zeros [64 << 10]byte

func (s *stream) WriteAt(p []byte, off int64) (int, error) {
	if err := s.skip(off); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	s.pos += int64(n)
	return n, err
}

func (s *stream) skip(off int64) error {
	if off < s.pos {
		return ErrSeek
	}
	for s.pos < off {
		n, err := s.w.Write(zeros[:min(int64(len(zeros)), off-s.pos)])
		s.pos += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) Truncate(size int64) error { return s.skip(size) }

// A Unit is a piece of a disk on its way into a file.
type Unit struct {
	// Index counts units from the start of the disk.
	Index int64
	// Data is the guest's bytes: a whole unit, filled up with zeros behind the
	// end of the disk. nil: all zero.
	Data []byte
	// Out is what work made of it; it may be Data.
	Out []byte
	// Any is what else work wants emit to know.
	Any any

	buf, spare []byte
}

// Spare returns a buffer of the unit's own, of length 0, for Out. What it grows
// to is kept for later units when it is stored in Out.
func (u *Unit) Spare() []byte { return u.spare[:0] }

// Units reads d in pieces of unit bytes and hands those that must be stored to
// work, in o.Workers goroutines, and then to emit, in order and in one
// goroutine. Pieces that are zero are left out; with a Base, pieces that are
// equal to it are left out, and zero ones that are not have no Data. What is
// known to be zero is not read. A unit may be used again when emit has returned.
// work may be nil. Each call of work gets the number of its goroutine, in
// [0, Workers), for what that keeps.
func Units(ctx context.Context, d Disk, unit int64, o *EncodeOptions, work func(worker int, u *Unit) error, emit func(u *Unit) error) error {
	p := &pump{d: d, unit: unit, o: o, work: work, count: (d.Size() + unit - 1) / unit}
	return p.run(ctx, emit)
}

type pump struct {
	d     Disk
	unit  int64
	count int64
	o     *EncodeOptions
	work  func(worker int, u *Unit) error

	ahead, aheadBase *foresight
}

// A job is a unit that a worker has, and the place where its consumer waits.
type job struct {
	Unit
	keep bool
	done chan struct{}
}

func (p *pump) run(ctx context.Context, emit func(u *Unit) error) error {
	workers := p.o.workers()
	p.ahead, p.aheadBase = p.foresee(p.d), p.foresee(p.o.Base)
	defer p.ahead.end()
	defer p.aheadBase.end()
	// Enough to keep workers busy while emit writes.
	depth := 4 * workers
	if p.ahead != nil || p.aheadBase != nil {
		// Some units take much longer to read than others.
		depth *= int(max(1, min(16, 1<<20/p.unit)))
	}
	free := make(chan *job, depth)
	for range depth {
		free <- &job{done: make(chan struct{}, 1)}
	}
	todo, order := make(chan *job), make(chan *job, depth)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(todo)
		defer close(order)
		return p.find(ctx, func(index int64) error {
			var j *job
			select {
			case j = <-free:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			j.Index, j.Out, j.Any = index, nil, nil
			select {
			case todo <- j:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			order <- j // has room for all there are
			return nil
		})
	})
	for w := range workers {
		g.Go(func() error {
			var base []byte
			for j := range todo {
				var err error
				if base, err = p.do(w, j, base); err != nil {
					return err
				}
				j.done <- struct{}{}
			}
			return nil
		})
	}
	g.Go(func() error {
		for j := range order {
			select {
			case <-j.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if j.keep {
				if err := emit(&j.Unit); err != nil {
					return err
				}
			}
			if p.o.Progress != nil {
				p.o.Progress(min((j.Index+1)*p.unit, p.d.Size()))
			}
			if cap(j.Out) > 0 && (j.buf == nil || &j.Out[:1][0] != &j.buf[0]) {
				j.spare = j.Out
			}
			free <- j
		}
		return nil
	})
	err := g.Wait()
	if err == nil && p.o.Progress != nil {
		p.o.Progress(p.d.Size())
	}
	return err
}

func (o *EncodeOptions) workers() int {
	if o.Workers > 0 {
		return o.Workers
	}
	return runtime.GOMAXPROCS(0)
}

// find calls give for each unit that may have to be stored, in order.
func (p *pump) find(ctx context.Context, give func(index int64) error) error {
	next, stop := iter.Pull2(p.runs(p.d))
	defer stop()
	r, err, more := next()
	base := func() (unitRun, error, bool) { return unitRun{}, nil, false }
	if p.o.Base != nil {
		var stop func()
		base, stop = iter.Pull2(p.runs(p.o.Base))
		defer stop()
	}
	br, berr, bmore := base()
	at := int64(0) // the first unit that was not given
	for more || bmore {
		if err := errors.Join(err, berr); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var run unitRun
		if !bmore || more && r.first <= br.first {
			run = r
			r, err, more = next()
		} else {
			run = br
			br, berr, bmore = base()
		}
		for at = max(at, run.first); at < min(run.end, p.count); at++ {
			p.ahead.advance(at)
			p.aheadBase.advance(at)
			if err := give(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// What is said ahead of reading, in bytes that are stored, and in one go. With 128
// MiB, a disk of 1.9 GB on a chain of four archives takes 2.8 GB of decoding, with
// 512 MiB 2.3 GB, with 1 GiB 2.0 GB. Of what is said, those who are told keep some:
// with a base, half as much is said of each disk.
const (
	foresightBytes = 512 << 20
	foresightStep  = 1 << 20
)

// A foresight tells a Disk what will be read of it. nil tells nothing.
type foresight struct {
	to    Ahead
	unit  int64
	most  int64 // of bytes
	next  func() (Extent, error, bool)
	stop  func()
	rest  Extent   // what was not told of the last extent
	told  []Extent // and not given to a worker yet
	bytes int64    // of told
	all   bool     // was told, or there was an error, which is for who reads
}

func (p *pump) foresee(d Disk) *foresight {
	if d == nil {
		return nil
	}
	a := d.Ahead()
	if a == nil {
		return nil
	}
	f := &foresight{to: a, unit: p.unit, most: foresightBytes}
	if p.o.Base != nil {
		f.most /= 2
	}
	f.next, f.stop = iter.Pull2(d.Extents(0, d.Size()))
	return f
}

// advance is called before this unit is given to a worker.
func (f *foresight) advance(unit int64) {
	if f == nil {
		return
	}
	for len(f.told) > 0 && f.told[0].End() <= unit*f.unit {
		f.bytes -= f.told[0].Length
		f.told = f.told[1:]
	}
	for !f.all && f.bytes < f.most {
		if f.rest.Length == 0 {
			e, err, more := f.next()
			f.all = !more || err != nil
			if !f.all && e.Kind != Zero && e.Kind != Hole {
				f.rest = e
			}
			continue
		}
		e := Extent{Offset: f.rest.Offset, Length: min(f.rest.Length, foresightStep)}
		f.rest.Offset += e.Length
		f.rest.Length -= e.Length
		f.to.Expect(e.Offset, e.Length)
		f.told = append(f.told, e)
		f.bytes += e.Length
	}
}

// end is called when nothing is read any more.
func (f *foresight) end() {
	if f != nil {
		f.stop()
		f.to.Close()
	}
}

// A unitRun is the units in [first, end).
type unitRun struct{ first, end int64 }

// runs yields the units of d that are not known to be zero.
func (p *pump) runs(d Disk) iter.Seq2[unitRun, error] {
	return func(yield func(unitRun, error) bool) {
		for e, err := range d.Extents(0, d.Size()) {
			if err == nil && (e.Kind == Zero || e.Kind == Hole) {
				continue
			}
			if !yield(unitRun{e.Offset / p.unit, (e.End() + p.unit - 1) / p.unit}, err) || err != nil {
				return
			}
		}
	}
}

// do reads and works on the unit of j. base is a buffer of the worker's.
func (p *pump) do(worker int, j *job, base []byte) ([]byte, error) {
	off := j.Index * p.unit
	n := min(p.unit, p.d.Size()-off)
	if j.buf == nil {
		j.buf = make([]byte, p.unit)
	}
	j.Data = j.buf
	if err := readFull(p.d, j.Data[:n], off); err != nil {
		return base, err
	}
	clear(j.Data[n:])
	zero := IsZero(j.Data)
	if p.o.Base != nil {
		if base == nil || int64(cap(base)) < p.unit {
			base = make([]byte, p.unit)
		}
		base = base[:p.unit]
		have := max(0, min(n, p.o.Base.Size()-off))
		if err := readFull(p.o.Base, base[:have], off); err != nil {
			return base, err
		}
		clear(base[have:])
		j.keep = string(base) != string(j.Data)
	} else {
		j.keep = !zero
	}
	if !j.keep {
		return base, nil
	}
	if zero {
		j.Data = nil
	}
	if p.work == nil {
		j.Out = j.Data
		return base, nil
	}
	return base, p.work(worker, &j.Unit)
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	if len(b) == 0 {
		return nil
	}
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("disk at byte %d: %w", off, err)
}

// IsZero reports whether b holds nothing but zeros.
func IsZero(b []byte) bool {
	for len(b) > len(zeros) {
		if string(b[:len(zeros)]) != string(zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return string(b) == string(zeros[:len(b)])
}
