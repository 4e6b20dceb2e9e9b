package lint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"tarvm/formats/machine/xmldoc"
	"tarvm/ovf"
	"tarvm/ovf/ova"
)

// FixOptions say how a package is repaired. The zero value is for all importers, with SHA-256.
type FixOptions struct {
	// Importers are those whose findings in the envelope are repaired; nil: all.
	Importers []Importer
	// Hardware is the family in place of one that VMware does not know; empty: vmx-13.
	Hardware string
	// Digest is the algorithm of the manifest; empty: SHA256.
	Digest ovf.Algorithm
	// Signer signs the new manifest; nil: it is not signed, as the old signature is not of it.
	Signer *ovf.Signer
	// Damaged: files that do not have the digests of the old manifest are taken as they are, and ones that are not there left out.
	Damaged bool
	// Progress is told how many bytes of the total were read; nil: nobody.
	Progress func(done, total int64)
}

// A FixReport says what Fix did.
type FixReport struct {
	Fixed []Finding // what was repaired
	Left  []Finding // what the importers still mind
	// Renamed files, by their old names.
	Renamed map[string]string
	// Unsigned: there was a certificate, which is left out.
	Unsigned bool
}

// ErrHardware: FixOptions.Hardware is not of the form vmx-NN.
var ErrHardware = errors.New("not a hardware family")

// Fix writes a package as an OVA, with what can be repaired repaired: the archive's form and order, names, digests, bytes
// behind a disk's end, chunks, and what in the envelope has a repair. All else in the envelope stays. Files that the
// envelope does not name are kept behind those that it does, but for other envelopes and manifests, and but for those of
// a directory.
//
// Members keep their times; the texts, which are new, have the newest of these.
//
// Every file is read once if w can go back, else twice; the bytes written are the same. While they are read the files are
// compared with the old manifest; if one does not have its digest the error is *ovf.DigestError, and if one is not there
// that it and the envelope name, the error wraps ovf.ErrDigest, unless Damaged is set. After an error what was written must
// be thrown away. (A digest up to a VMDK's end-of-stream marker is right too: so VMware's tools compute it.) Fix closes w,
// but not what that writes to.
func Fix(ctx context.Context, p *ova.Package, w *ova.Writer, o FixOptions) (*FixReport, error) {
	if o.Digest == "" {
		o.Digest = ovf.SHA256
	}
	if o.Digest.New() == nil {
		return nil, fmt.Errorf("digest %.40q: %w", o.Digest, ovf.ErrUnsupported)
	}
	if o.Hardware == "" {
		o.Hardware = defaultHardware
	}
	if !isFamily(o.Hardware) {
		return nil, fmt.Errorf("%w: %.40q", ErrHardware, o.Hardware)
	}
	v, err := newView(ctx, p)
	if err != nil {
		return nil, err
	}
	v.hardware = o.Hardware
	before, err := v.check(o.Importers)
	if err != nil {
		return nil, err
	}
	for _, f := range before {
		if f.fix != nil {
			f.fix()
		}
	}
	signed := v.signed
	f := &fixer{p: p, v: v, w: w, o: o, renamed: make(map[string]string)}
	if err := f.plan(); err != nil {
		return nil, err
	}
	if err := f.write(ctx); err != nil {
		return nil, err
	}
	left, err := f.after()
	if err != nil {
		return nil, err
	}
	rep := &FixReport{Left: findings(left), Renamed: f.renamed, Unsigned: signed && o.Signer == nil}
	for _, b := range before {
		same := func(a Finding) bool { return a.Rule == b.Rule && a.What == b.What }
		if b.Fixes && !slices.ContainsFunc(rep.Left, same) {
			rep.Fixed = append(rep.Fixed, b.Finding)
		}
	}
	return rep, nil
}

type fixer struct {
	p       *ova.Package
	v       *view
	w       *ova.Writer
	o       FixOptions
	renamed map[string]string

	envelope, manifest, cert string // names
	text                     []byte // the envelope
	members                  []*member
	done, total              int64
}

// A member is a file that is written.
type member struct {
	old  string // as the package shows it
	name string
	size int64 // of what is written
	full int64 // of what is stored
	time time.Time
	// segments are the stored files of which it is made, with the old digests of each.
	segments []segment
	sum      []byte // the new digest
}

type segment struct {
	name string
	size int64
	old  []ovf.Digest
}

// plan decides names, sizes and order, and makes the envelope's text.
func (f *fixer) plan() error {
	taken := make(map[string]bool)
	take := func(name string) string {
		n := ova.SafeName(name, taken)
		taken[n] = true
		return n
	}
	f.envelope = take(f.v.envelope)
	if ext(f.envelope) != ".ovf" {
		delete(taken, f.envelope)
		f.envelope = take(f.envelope + ".ovf")
	}
	stem := strings.TrimSuffix(f.envelope, path.Ext(f.envelope))
	f.manifest, f.cert = take(stem+".mf"), take(stem+".cert")
	if f.envelope != f.v.envelope {
		f.renamed[f.v.envelope] = f.envelope
	}
	old := make(map[string][]ovf.Digest)
	for _, l := range f.v.lines {
		if l.ok && l.digest.Algorithm.New() != nil {
			old[path.Clean(l.name)] = append(old[path.Clean(l.name)], l.digest)
		}
	}
	// A line may have the archive's path, or the base name alone.
	digests := func(name string) []ovf.Digest {
		for _, n := range []string{name, path.Join(f.v.dir, name), path.Base(name)} {
			if d := old[n]; d != nil {
				return d
			}
		}
		return nil
	}
	if !f.o.Damaged {
		for _, d := range digests(f.v.envelope) {
			if err := d.Verify(bytes.NewReader(f.p.Envelope.Data)); err != nil {
				return err
			}
		}
	}
	stored := make(map[string]ova.Member) // by their paths below the envelope's directory
	for _, m := range f.v.members {
		if n, ok := f.v.below(m.Path); ok {
			stored[n] = m
		}
	}
	add := func(name string, full int64) *member {
		m := &member{old: name, size: full, full: full}
		parts := f.p.Parts(name)
		if len(parts) == 0 {
			parts = []string{name}
		}
		for _, n := range parts {
			m.segments = append(m.segments, segment{name: n, size: stored[n].Size, old: digests(n)})
			if at := stored[n].Time; at.After(m.time) {
				m.time = at
			}
		}
		f.members = append(f.members, m)
		f.total += full
		return m
	}
	byOld := make(map[string]*member)
	for _, r := range f.v.files {
		if r.name == "" {
			// Its line would be left out, as that of a file that nobody names: nothing would tell any more that it was there.
			if !f.o.Damaged && (digests(r.Href) != nil || digests(r.Href+".000000000") != nil) {
				return fmt.Errorf("%.200q: %w: it is not in the package", r.Href, ovf.ErrDigest)
			}
			continue
		}
		m := byOld[r.name]
		if m == nil {
			m = add(r.name, r.size)
			byOld[r.name] = m
			want := r.name + r.suffix
			if r.gzip && ext(want) != ".gz" {
				want += ".gz"
			}
			m.name = take(want)
			if r.image.trailing() > 0 && r.image.cut == "" {
				m.size = r.image.end
			}
		}
		if m.name != r.name {
			f.renamed[r.name] = m.name
		}
		if r.e != nil {
			if n, err := r.File.Name(); err != nil || n != m.name {
				f.v.set(r.e, "href", m.name)
			}
			f.v.set(r.e, "size", fmt.Sprint(m.size))
			r.remove("chunkSize")
		}
		r.size, r.Size, r.Href, r.name, r.parts = m.size, m.size, m.name, m.name, 0
		if r.image != nil {
			short := *r.image
			short.size = m.size
			r.image = &short
		}
	}
	if f.v.container != ova.Directory {
		f.others(byOld, add, take)
	}
	if err := f.v.addBoxes(); err != nil {
		return err
	}
	var err error
	f.text, err = xmldoc.Write(f.v.doc)
	return err
}

// others adds what the envelope does not name.
func (f *fixer) others(byOld map[string]*member, add func(string, int64) *member, take func(string) string) {
	parts := make(map[string]bool)
	for name := range byOld {
		for _, part := range f.p.Parts(name) {
			parts[part] = true
		}
	}
	for _, m := range f.v.members {
		n, ok := f.v.below(m.Path)
		switch {
		case !ok, parts[n], byOld[n] != nil, ext(n) == ".ovf", ext(n) == ".mf", ext(n) == ".cert", strings.HasPrefix(path.Base(n), "._"):
			continue
		}
		x := add(n, m.Size)
		if x.name = take(n); x.name != n {
			f.renamed[n] = x.name
		}
	}
}

// below returns a member's path below the envelope's directory.
func (v *view) below(name string) (string, bool) {
	if v.dir == "." {
		return name, true
	}
	return strings.CutPrefix(name, v.dir+"/")
}

func (f *fixer) write(ctx context.Context) error {
	h := f.o.Digest.New()
	h.Write(f.text)
	sum := h.Sum(nil)
	if !f.w.CanSeek() {
		f.total *= 2
		for _, m := range f.members {
			if err := f.copy(ctx, io.Discard, m); err != nil {
				return err
			}
		}
	}
	f.w.SetTime(f.p.Newest())
	if err := f.put(f.envelope, f.text); err != nil {
		return err
	}
	var mf, cert *ova.Hole
	if f.w.CanSeek() {
		names := []string{f.envelope}
		for _, m := range f.members {
			names = append(names, m.name)
		}
		var err error
		if mf, err = f.w.Reserve(f.manifest, ova.ManifestSize(f.o.Digest, names)); err != nil {
			return err
		}
		if f.o.Signer != nil {
			if cert, err = f.w.Reserve(f.cert, f.o.Signer.Size(f.o.Digest, f.manifest)); err != nil {
				return err
			}
		}
	} else {
		text, signature, err := f.texts(sum)
		if err != nil {
			return err
		}
		if err := f.put(f.manifest, text); err != nil {
			return err
		}
		if signature != nil {
			if err := f.put(f.cert, signature); err != nil {
				return err
			}
		}
	}
	for _, m := range f.members {
		f.w.SetTime(m.time)
		if err := f.w.Next(m.name, m.size); err != nil {
			return err
		}
		if err := f.copy(ctx, f.w, m); err != nil {
			return err
		}
	}
	if mf != nil {
		text, signature, err := f.texts(sum)
		if err != nil {
			return err
		}
		if err := mf.Fill(text); err != nil {
			return err
		}
		if cert != nil {
			if err := cert.Fill(signature); err != nil {
				return err
			}
		}
	}
	return f.w.Close()
}

func (f *fixer) put(name string, b []byte) error {
	if err := f.w.Next(name, int64(len(b))); err != nil {
		return err
	}
	_, err := f.w.Write(b)
	return err
}

// texts returns the manifest and the certificate, which is nil without a signer.
func (f *fixer) texts(envelope []byte) (mf, cert []byte, err error) {
	mf = ovf.AppendDigest(nil, ovf.Digest{Algorithm: f.o.Digest, Name: f.envelope, Sum: envelope})
	for _, m := range f.members {
		mf = ovf.AppendDigest(mf, ovf.Digest{Algorithm: f.o.Digest, Name: m.name, Sum: m.sum})
	}
	if f.o.Signer == nil {
		return mf, nil, nil
	}
	cert, err = f.o.Signer.Sign(f.o.Digest, f.manifest, mf)
	return mf, cert, err
}

// copy writes a member, computes its digest, and compares what it is made of with the old digests.
func (f *fixer) copy(ctx context.Context, w io.Writer, m *member) error {
	r, size, err := f.p.Stored(m.old)
	if err != nil {
		return err
	}
	defer r.Close()
	if size != m.full {
		return fmt.Errorf("%s: %w: its size changed", m.old, ova.ErrCorrupt)
	}
	sum := f.o.Digest.New()
	left := m.size // to be written
	buf := make([]byte, 256<<10)
	for _, s := range m.segments {
		whole, stream := hashes(s.old), hashes(s.old) // of all bytes, of those that are written
		for n := s.size; n > 0; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), n)]
			if _, err := io.ReadFull(r, b); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			n -= int64(len(b))
			keep := b[:min(int64(len(b)), left)]
			left -= int64(len(keep))
			sum.Write(keep)
			if _, err := w.Write(keep); err != nil {
				return err
			}
			for a, h := range whole {
				h.Write(b)
				if m.size < m.full {
					stream[a].Write(keep)
				}
			}
			f.done += int64(len(b))
			if f.o.Progress != nil {
				f.o.Progress(f.done, f.total)
			}
		}
		for _, d := range s.old {
			got := whole[d.Algorithm].Sum(nil)
			if f.o.Damaged || bytes.Equal(got, d.Sum) || m.size < m.full && bytes.Equal(stream[d.Algorithm].Sum(nil), d.Sum) {
				continue
			}
			return &ovf.DigestError{Name: s.name, Algorithm: d.Algorithm, Want: d.Sum, Got: got}
		}
	}
	m.sum = sum.Sum(nil)
	return nil
}

func hashes(list []ovf.Digest) map[ovf.Algorithm]hash.Hash {
	m := make(map[ovf.Algorithm]hash.Hash, len(list))
	for _, d := range list {
		m[d.Algorithm] = d.Algorithm.New()
	}
	return m
}

// after checks what was written, without reading it: only what the rules look at has changed.
func (f *fixer) after() ([]found, error) {
	v := f.v
	v.container, v.dir, v.envelope, v.signed = ova.Tar, ".", f.envelope, f.o.Signer != nil
	v.members, v.trailing = nil, 0
	add := func(name string, size int64) {
		v.members = append(v.members, ova.Member{Name: name, Path: name, Size: size, Tar: &ova.TarHeader{Form: "ustar"}})
	}
	h := f.o.Digest.New()
	h.Write(f.text)
	mf, cert, err := f.texts(h.Sum(nil))
	if err != nil {
		return nil, err
	}
	add(f.envelope, int64(len(f.text)))
	add(f.manifest, int64(len(mf)))
	if cert != nil {
		add(f.cert, int64(len(cert)))
	}
	for _, m := range f.members {
		add(m.name, m.size)
	}
	v.manifest = ova.Text{Name: f.manifest, Data: mf}
	v.lines = manifestLines(mf)
	v.read()
	return v.check(f.o.Importers)
}
