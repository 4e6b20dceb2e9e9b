package ova

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/pgzip"

	"tarvm/formats"
	"tarvm/formats/machine"
	"tarvm/ovf"
	"tarvm/ovf/target"
)

// Targets returns the OVA and the OVF package in a directory.
func Targets() []target.Target { return []target.Target{Target{single: true}, Target{}} }

// Target writes a machine as a package: an OVA, or a directory. Several machines become a VirtualSystemCollection.
//
// An envelope says how large the disks are, a manifest what their digests are, and both come before them. In a file,
// their place is reserved and filled in last. For a pipe, everything is compressed twice: once to measure it, and again
// to write it; nothing is kept in between but sizes and digests. The bytes are the same.
type Target struct{ single bool }

// Name implements target.Target.
func (t Target) Name() string {
	if t.single {
		return "ova"
	}
	return "ovf"
}

// Description implements target.Target.
func (t Target) Description() string {
	if t.single {
		return "OVF package in one file"
	}
	return "OVF package in a directory"
}

// Profiles implements target.Target.
func (Target) Profiles() []string {
	return []string{string(ovf.Generic), string(ovf.VMware), string(ovf.VirtualBox), string(ovf.Xen)}
}

// Single implements target.Target.
func (t Target) Single() bool { return t.single }

// Plan implements target.Target.
func (t Target) Plan(vm *target.VM, o target.Options) (*target.Plan, error) {
	s, err := t.shape(&o)
	if err != nil {
		return nil, err
	}
	p, err := target.NewPlan(vm, o, s)
	if err != nil {
		return nil, err
	}
	return t.finish(p, o)
}

// PlanAll implements target.Collector: the machines are a VirtualSystemCollection.
func (t Target) PlanAll(vms []*target.VM, o target.Options) (*target.Plan, error) {
	s, err := t.shape(&o)
	if err != nil {
		return nil, err
	}
	p, err := target.NewGroup(vms, o, s)
	if err != nil {
		return nil, err
	}
	return t.finish(p, o)
}

// shape fills in defaults, and says what a package takes.
func (t Target) shape(o *target.Options) (target.Shape, error) {
	if o.Profile == "" {
		o.Profile = string(ovf.Generic)
	}
	if o.Digest == "" {
		o.Digest = ovf.SHA256
	}
	if o.Digest.New() == nil {
		return target.Shape{}, fmt.Errorf("digest %q: %w", o.Digest, ovf.ErrUnsupported)
	}
	s := target.Shape{
		Target: t.Name(), Profile: o.Profile, Formats: []string{"vmdk"}, Subformats: map[string]string{"vmdk": "streamOptimized"},
		Optical: true, Envelope: true, Deltas: true,
	}
	switch ovf.Profile(o.Profile) {
	case ovf.VMware:
		s.Variables = []string{target.StoreVMware}
	case ovf.VirtualBox:
		s.Variables = []string{target.StoreVirtualBox}
	}
	return s, nil
}

// finish plans the package of a machine, or of several.
func (t Target) finish(p *target.Plan, o target.Options) (*target.Plan, error) {
	w := &pkg{p: p, o: o, stem: p.Stem}
	members := p.Members
	if members == nil {
		members = []*target.Plan{p}
	}
	if err := w.list(members); err != nil {
		return nil, err
	}
	text, losses, err := w.envelope()
	if err != nil {
		return nil, err
	}
	// What no machine has a place for is said in the losses, and would only take up room.
	e, err := ovf.Decode(text)
	if err != nil {
		return nil, err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(e.Systems, func(v ovf.System) bool {
			return slices.ContainsFunc(v.Machine.Drives, func(d machine.Drive) bool { return d.Media.Path == name })
		})
	}
	left := false
	for _, m := range members {
		left = m.LeaveOut(has) || left
	}
	if left {
		if err := w.list(members); err != nil {
			return nil, err
		}
		if text, _, err = w.envelope(); err != nil {
			return nil, err
		}
	}
	w.room = int64(len(text))
	if p.Members != nil {
		p.LoseAll(losses)
	} else {
		p.Lose(losses...)
	}
	p.Texts = []string{w.stem + ".ovf", w.stem + ".mf"}
	if o.Signer != nil {
		p.Texts = append(p.Texts, w.stem+".cert")
	}
	p.Use(func(ctx context.Context, _ *target.Plan, out target.Sink) error {
		switch {
		case !t.single:
			return w.directory(ctx, out)
		case out.File != nil && o.Chunk == 0:
			return w.file(ctx, out.File)
		case out.File != nil:
			return w.pipe(ctx, io.NewOffsetWriter(out.File, 0))
		}
		return w.pipe(ctx, out.Pipe)
	})
	return p, nil
}

// list makes the list of files: the disks and the copies of each machine.
func (w *pkg) list(members []*target.Plan) error {
	w.files = nil
	for _, m := range members {
		for i := range m.Disks {
			w.files = append(w.files, &file{name: m.Disks[i].Name, plan: m, disk: i, copy: -1})
		}
		for i := range m.Copies {
			w.files = append(w.files, &file{name: m.Copies[i].Name, plan: m, disk: -1, copy: i})
		}
		w.unix = max(w.unix, m.VM.Unix)
	}
	for _, f := range w.files {
		if f.disk >= 0 && w.o.Compress && !strings.HasSuffix(f.name, ".gz") {
			f.plan.Rename(f.disk, f.name+".gz")
			f.name += ".gz"
		}
		if err := CheckName(f.name); err != nil {
			return err
		}
		f.size = math.MaxInt64 // the longest
	}
	return nil
}

// pkg is a package on its way.
type pkg struct {
	p     *target.Plan
	o     target.Options
	stem  string
	files []*file
	room  int64 // for the envelope
	unix  int64 // the time of the newest machine
}

// A file is one of the references.
type file struct {
	name       string
	plan       *target.Plan // the machine's
	disk, copy int          // which of the plan's; -1: none
	size       int64        // bytes, of all parts
	parts      []part
}

// A part is what the tar and the manifest see of a file: all of it, or a chunk.
type part struct {
	name string
	size int64
	sum  []byte
}

// envelope renders the text with the sizes that are known, padded to its room if that is known.
func (w *pkg) envelope() ([]byte, []machine.Loss, error) {
	var files []ovf.File
	var disks []ovf.VirtualDisk
	for i, f := range w.files {
		of := ovf.File{ID: fmt.Sprintf("file%d", i+1), Href: f.name, Size: f.size, Chunk: w.o.Chunk}
		if f.disk >= 0 {
			d := &f.plan.Disks[f.disk]
			if w.o.Compress {
				of.Compression = "gzip"
			}
			v := ovf.VirtualDisk{
				ID: fmt.Sprintf("vmdisk%d", len(disks)+1), FileRef: of.ID, Format: ovf.FormatVMDK, Populated: d.Data,
				Capacity: max(512, (d.Capacity+511)&^511), // a VMDK has whole sectors, and one at least
			}
			if d.Drive >= 0 {
				v.UUID = f.plan.Machine.Drives[d.Drive].Media.UUID
			} else {
				v.UUID = target.UUID(d.Options.ID)
			}
			if d.Base != "" {
				v.ParentRef, v.Populated = disks[len(disks)-1].ID, -1 // the base comes right before it
			}
			disks = append(disks, v)
		}
		files = append(files, of)
	}
	e := w.p.Sections(files, disks)
	text, losses, err := e.Encode(ovf.EncodeOptions{
		Version: w.o.OVF, Profile: ovf.Profile(w.o.Profile), Hardware: w.o.Version, NewIdentity: w.o.NewIdentity != nil,
	})
	if err == nil && w.room > 0 {
		text, err = Pad(text, w.room)
	}
	return text, losses, err
}

// names are those of the tar in their order behind the texts, one for each file: of a file that is cut, its parts are
// known only when it was measured.
func (w *pkg) manifest(envelope []byte) []byte {
	h := w.o.Digest.New()
	h.Write(envelope)
	b := ovf.AppendDigest(nil, ovf.Digest{Algorithm: w.o.Digest, Name: w.p.Texts[0], Sum: h.Sum(nil)})
	for _, f := range w.files {
		for _, p := range f.parts {
			b = ovf.AppendDigest(b, ovf.Digest{Algorithm: w.o.Digest, Name: p.name, Sum: p.sum})
		}
	}
	return b
}

func (w *pkg) options() WriterOptions {
	return WriterOptions{ModTime: time.Unix(max(w.unix, 0), 0)}
}

// file writes an OVA into a file, in one pass.
func (w *pkg) file(ctx context.Context, out formats.Output) error {
	t := NewWriterAt(out, w.options())
	envelope, err := t.Reserve(w.p.Texts[0], w.room)
	if err != nil {
		return err
	}
	names := []string{w.p.Texts[0]}
	for _, f := range w.files {
		names = append(names, f.name)
	}
	manifest, err := t.Reserve(w.p.Texts[1], ManifestSize(w.o.Digest, names))
	if err != nil {
		return err
	}
	var cert *Hole
	if w.o.Signer != nil {
		if cert, err = t.Reserve(w.p.Texts[2], w.o.Signer.Size(w.o.Digest, w.p.Texts[1])); err != nil {
			return err
		}
	}
	if err := w.content(ctx, "write", func(name string) (io.Writer, error) { return t, t.Next(name, -1) }); err != nil {
		return err
	}
	text, mf, sig, err := w.texts()
	if err != nil {
		return err
	}
	if err := envelope.Fill(text); err != nil {
		return err
	}
	if err := manifest.Fill(mf); err != nil {
		return err
	}
	if cert != nil {
		if err := cert.Fill(sig); err != nil {
			return err
		}
	}
	return t.Close()
}

// texts makes the small files when the large ones are known.
func (w *pkg) texts() (envelope, manifest, cert []byte, err error) {
	if envelope, _, err = w.envelope(); err != nil {
		return nil, nil, nil, err
	}
	manifest = w.manifest(envelope)
	if w.o.Signer != nil {
		cert, err = w.o.Signer.Sign(w.o.Digest, w.p.Texts[1], manifest)
	}
	return envelope, manifest, cert, err
}

var errChanged = errors.New("the machine's disks changed while they were read")

// pipe writes an OVA front to back, after it has measured.
func (w *pkg) pipe(ctx context.Context, out io.Writer) error {
	if err := w.content(ctx, "measure", func(string) (io.Writer, error) { return io.Discard, nil }); err != nil {
		return err
	}
	t := NewWriter(out, w.options())
	envelope, manifest, cert, err := w.texts()
	if err != nil {
		return err
	}
	for i, text := range [][]byte{envelope, manifest, cert} {
		if text == nil {
			continue
		}
		if err := t.Next(w.p.Texts[i], int64(len(text))); err != nil {
			return err
		}
		if _, err := t.Write(text); err != nil {
			return err
		}
	}
	var measured []part
	for _, f := range w.files {
		measured = append(measured, f.parts...)
	}
	n := 0
	err = w.content(ctx, "write", func(name string) (io.Writer, error) {
		if n >= len(measured) || measured[n].name != name {
			return nil, errChanged
		}
		n++
		return t, t.Next(name, measured[n-1].size)
	})
	if errors.Is(err, ErrWrite) {
		err = fmt.Errorf("%w: %w", errChanged, err)
	}
	if err != nil {
		return err
	}
	n = 0
	for _, f := range w.files {
		for _, p := range f.parts {
			if !bytes.Equal(p.sum, measured[n].sum) {
				return fmt.Errorf("%s: %w", p.name, errChanged)
			}
			n++
		}
	}
	return t.Close()
}

// directory writes the package's files beside each other, the envelope last.
func (w *pkg) directory(ctx context.Context, out target.Sink) error {
	err := w.content(ctx, "write", func(name string) (io.Writer, error) {
		f, err := out.Create(name, 0o644)
		if err != nil {
			return nil, err
		}
		return io.NewOffsetWriter(f, 0), nil
	})
	if err != nil {
		return err
	}
	envelope, manifest, cert, err := w.texts()
	if err != nil {
		return err
	}
	texts := [][]byte{envelope, manifest, cert}
	for i := len(w.p.Texts) - 1; i >= 0; i-- {
		if err := target.WriteText(out, w.p.Texts[i], 0o644, texts[i]); err != nil {
			return err
		}
	}
	return nil
}

// content writes all files, in order, to what begin returns for each part, and notes sizes and digests.
func (w *pkg) content(ctx context.Context, phase string, begin func(name string) (io.Writer, error)) error {
	var done int64
	for _, f := range w.files {
		f.parts, f.size = nil, 0
		s := &splitter{f: f, chunk: w.o.Chunk, begin: begin, hash: w.o.Digest.New()}
		if err := s.next(); err != nil {
			return err
		}
		err := w.write(ctx, phase, f, s, done)
		if err == nil {
			err = s.end()
		}
		if err != nil {
			return err
		}
		if f.disk >= 0 {
			done += f.plan.Disks[f.disk].Capacity
		}
	}
	return nil
}

// write writes one file's content.
func (w *pkg) write(ctx context.Context, phase string, f *file, out io.Writer, done int64) error {
	if f.copy >= 0 {
		return f.plan.Copies[f.copy].WriteTo(ctx, out)
	}
	encode := func(out io.Writer) error {
		return f.plan.WriteDisk(ctx, phase, f.disk, done, formats.Outputs{Main: formats.NewStream(out), Name: strings.TrimSuffix(f.name, ".gz")})
	}
	if !w.o.Compress {
		return encode(out)
	}
	z, err := pgzip.NewWriterLevel(out, pgzip.BestSpeed) // what it gets is compressed
	if err != nil {
		return err
	}
	if err := encode(z); err != nil {
		z.Close() // its goroutines end
		return err
	}
	return z.Close()
}

// A splitter cuts a file into parts.
type splitter struct {
	f     *file
	chunk int64 // 0: there is one part
	begin func(name string) (io.Writer, error)
	out   io.Writer
	hash  hash.Hash
}

// next begins a part.
func (s *splitter) next() error {
	name := s.f.name
	if s.chunk > 0 {
		name = fmt.Sprintf("%s.%09d", name, len(s.f.parts))
	}
	s.hash.Reset()
	s.f.parts = append(s.f.parts, part{name: name})
	var err error
	s.out, err = s.begin(name)
	return err
}

// end ends a part.
func (s *splitter) end() error {
	p := &s.f.parts[len(s.f.parts)-1]
	p.sum = s.hash.Sum(nil)
	s.f.size += p.size
	return nil
}

// Write implements io.Writer.
func (s *splitter) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		p := &s.f.parts[len(s.f.parts)-1]
		if s.chunk > 0 && p.size == s.chunk {
			if err := s.end(); err != nil {
				return n, err
			}
			if err := s.next(); err != nil {
				return n, err
			}
			continue
		}
		c := b
		if s.chunk > 0 {
			c = b[:min(int64(len(b)), s.chunk-p.size)]
		}
		m, err := s.out.Write(c)
		n += m
		p.size += int64(m)
		if err != nil {
			return n, err
		}
		s.hash.Write(c)
		b = b[len(c):]
	}
	return n, nil
}
