package target

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"tarvm/formats"
	"tarvm/formats/machine"
)

// A Sink is where a plan is written. Whoever supplies it removes what was written when that ends in an error.
type Sink struct {
	// Create makes a file of a directory by its base name, with the permissions in mode.
	Create func(name string, mode fs.FileMode) (formats.Output, error)
	// File is the one file of a target that is Single, Pipe a pipe instead of it: one of the two is set.
	File formats.Output
	Pipe io.Writer
	// Temp makes a file for what must be written elsewhere first; nil: such a target fails. The plan does not close it.
	Temp func() (TempFile, error)
}

// A TempFile is a file that is written and then read. *os.File is one.
type TempFile interface {
	formats.Output
	io.ReaderAt
	io.Seeker
}

// A Writer writes a plan. It is the other half of a Target.
type Writer func(ctx context.Context, p *Plan, out Sink) error

// Use sets what writes the plan. A Target's Plan calls it.
func (p *Plan) Use(w Writer) { p.write = w }

// Write writes the plan. What was written is of no use after an error.
func (p *Plan) Write(ctx context.Context, out Sink) error { return p.write(ctx, p, out) }

// HasDisk reports whether a file of the output is a disk.
func (p *Plan) HasDisk(name string) bool {
	return slices.ContainsFunc(p.Disks, func(d Disk) bool { return d.Name == name })
}

// Capacity is the sum of the disks' sizes, for progress.
func (p *Plan) Capacity() (n int64) {
	for _, d := range p.Disks {
		n += d.Capacity
	}
	for _, m := range p.Members {
		n += m.Capacity()
	}
	return n
}

// WriteDisk encodes disk i. Done is what was written of other disks before, in guest bytes. Errors name the disk, and what
// it is read from.
func (p *Plan) WriteDisk(ctx context.Context, phase string, i int, done int64, out formats.Outputs) error {
	d := &p.Disks[i]
	o := d.Options
	o.Progress = p.Progress(phase, d.Name, done)
	if err := d.Encoder.Encode(ctx, out, d.Disk, o); err != nil {
		return d.Failed(err)
	}
	return nil
}

// Failed adds the names of a disk to an error of writing it, which may be one of reading: that in the output, and that of
// the file that it is made of, with parents or without.
func (d *Disk) Failed(err error) error {
	if d.Source == "" || d.Source == d.Name {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	return fmt.Errorf("%s, made of %s: %w", d.Name, quote(d.Source), err)
}

// Progress returns a function for EncodeOptions.Progress.
func (p *Plan) Progress(phase, file string, before int64) func(done int64) {
	if p.Options.Progress == nil {
		return nil
	}
	all := p
	if p.group != nil {
		all = p.group
	}
	total := all.Capacity()
	return func(done int64) {
		p.Options.Progress(Progress{Phase: phase, File: file, Done: before + done, Total: total})
	}
}

// WriteFiles writes the disks and the copies into a directory.
func (p *Plan) WriteFiles(ctx context.Context, out Sink) error {
	var done int64
	for i := range p.Disks {
		d := &p.Disks[i]
		create := func(name string) (formats.Output, error) { return out.Create(name, 0o644) }
		main, err := create(d.Name)
		if err != nil {
			return err
		}
		if err := p.WriteDisk(ctx, "write", i, done, formats.Outputs{Main: main, Name: d.Name, Create: create}); err != nil {
			return err
		}
		done += d.Capacity
	}
	for i := range p.Copies {
		c := &p.Copies[i]
		f, err := out.Create(c.Name, 0o644)
		if err != nil {
			return err
		}
		if err := c.WriteTo(ctx, io.NewOffsetWriter(f, 0)); err != nil {
			return err
		}
	}
	return nil
}

// WriteTo copies the file's content.
func (c *Copy) WriteTo(ctx context.Context, w io.Writer) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < c.Size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), c.Size-off)]
		n, err := c.File.ReadAt(b, off)
		if n < len(b) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%s at byte %d: %w", c.Source, off+int64(n), err)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// WriteText writes a file that was made.
func WriteText(out Sink, name string, mode fs.FileMode, text []byte) error {
	f, err := out.Create(name, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	return err
}

// Lose adds losses to the plan.
func (p *Plan) Lose(losses ...machine.Loss) { p.Losses = append(p.Losses, losses...) }
